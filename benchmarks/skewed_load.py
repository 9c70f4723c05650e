"""Which chats make the load of two workers drift apart? Groups of chats of unlike manners, seeded.

A group of chats begins every few seconds, each with a short question, so nobody knows yet who will
talk much. Half of them then ask for one long list of numbers after another, the others go on with
short questions. The demo model's lists have 300 to 430 tokens, or run on to the limit where the
history has grown long; its other replies have about 50. Chats return to the worker that holds them,
so chance alone gathers long replies on one worker, for as long as those chats last. Chosen in
simulations without rebalancing, for how far apart the workers drift. Knows nothing of the engine.
"""

from collections.abc import Iterator
from itertools import islice
from random import Random
from typing import NamedTuple

from train.tasks.families import FAMILIES
from train.tasks.progressions import MAX_COUNT, Counting

GROUP_EVERY_S, GROUP_WITHIN_S, GROUP_SIZE = 12.0, 0.5, 8
TALKATIVE_SHARE = 0.5
SHORT_FAMILIES = (
    "addition",
    "parity",
    "largest",
    "small-talk",
    "filtering",
    "reversing",
    "factoring",
)
LONG_ITEMS = (40, 60)
"""Numbers in a long list, between these."""
LATER_TURNS = {True: 6, False: 4}
"""Turns behind the opening one, of a chat that talks much and of one that does not."""
MEAN_THINK_S = {True: 0.3, False: 1.0}


class Ask(NamedTuple):
    """One question, `think_s` after the reply before it (of the first: after the chat's start)."""

    think_s: float
    question: str


class Chat(NamedTuple):
    """When a chat begins, seconds from the run's start, and what it asks."""

    start_s: float
    asks: tuple[Ask, ...]


def chats(seed: int, seconds: float) -> list[Chat]:
    """Make the chats of all groups that begin within `seconds`: the same ones for a seed."""
    random = Random(f"groups {seed}")
    groups = int(seconds // GROUP_EVERY_S) + (seconds % GROUP_EVERY_S > 0)
    return [
        _chat(random, group * GROUP_EVERY_S + random.uniform(0.0, GROUP_WITHIN_S))
        for group in range(groups)
        for _ in range(GROUP_SIZE)
    ]


def _chat(random: Random, start_s: float) -> Chat:
    talkative = random.random() < TALKATIVE_SHARE
    questions = _long_questions(random) if talkative else _short_questions(random)
    later = [
        Ask(random.expovariate(1 / MEAN_THINK_S[talkative]), question)
        for question in islice(questions, LATER_TURNS[talkative])
    ]
    return Chat(start_s, (Ask(0.0, next(_short_questions(random))), *later))


def _short_questions(random: Random) -> Iterator[str]:
    while True:
        yield FAMILIES[random.choice(SHORT_FAMILIES)](random).ask(random)


def _long_questions(random: Random) -> Iterator[str]:
    while True:
        step, items = random.choice((1, 2)), random.randint(*LONG_ITEMS)
        start = random.randint(0, MAX_COUNT - step * (items - 1))
        yield Counting(start, items, step).ask(random)
