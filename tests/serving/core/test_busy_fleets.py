"""Invariants 2 and 3 of ARCHITECTURE.md where all that can happen happens at once.

Pages come late, behind whatever was said after them, while rows move, roles change, workers are
lost, clients leave and patience runs out.
"""

import pytest

from tests.support.busy import busy
from tests.support.scenarios import play

EACH = 25


@pytest.mark.parametrize("first", range(0, 150, EACH))
def test_every_turn_ends_once_and_nothing_is_left_over(first: int):
    for seed in range(first, first + EACH):
        play(busy(seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(1000, 6000, 500))
def test_so_it_is_at_length(first: int):
    for seed in range(first, first + 500):
        play(busy(seed))
