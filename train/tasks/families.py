"""Which task families are there, and how often is each drawn for training?

This file knows how to draw a problem of each family and nothing about what is inside one.
"""

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

from train.tasks import addition, lists, multiplication, number_chains, progressions, small_talk
from train.tasks.problem import Problem

FAMILIES: Mapping[str, Callable[[random.Random], Problem]] = MappingProxyType(
    {
        "addition": addition.draw,
        "multiplication": multiplication.draw,
        "sorting": lists.draw_sorting,
        "collatz": number_chains.draw_collatz,
        "euclid": number_chains.draw_euclid,
        "factoring": number_chains.draw_factoring,
        "counting": progressions.draw_counting,
        "table": progressions.draw_table,
        "reversing": lists.draw_reversing,
        "filtering": lists.draw_filtering,
        "largest": lists.draw_largest,
        "parity": small_talk.draw_parity,
        "small-talk": small_talk.draw_small_talk,
    }
)

# Shares of the problems drawn for training, chosen so that hard families get the most tokens.
WEIGHTS: Mapping[str, float] = MappingProxyType(
    {
        "addition": 10,
        "multiplication": 14,
        "sorting": 16,
        "collatz": 5,
        "euclid": 14,
        "factoring": 14,
        "counting": 16,
        "table": 8,
        "reversing": 8,
        "filtering": 12,
        "largest": 5,
        "parity": 4,
        "small-talk": 1,
    }
)


def draw_problem(rng: random.Random) -> Problem:
    """Draw a problem of a family chosen by weight."""
    names = tuple(WEIGHTS)
    family = rng.choices(names, weights=[WEIGHTS[name] for name in names])[0]
    return FAMILIES[family](rng)
