"""Whether rows short of a page wait: by hand, and against what certain replies would do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.forecast.survival import EDGES, Survival
from serving.policy.pause import Pause, weigh
from serving.policy.views import GrowingView, ShortageView

LONG = 512
CERTAIN = (1, 2, 3, 4, 5, 6, LONG)
"""Lengths that a curve says to the token, in what these rows have room for."""


def certainly(tokens: int) -> Survival:
    """The curve of a reply with `tokens` tokens to come."""
    assert tokens in CERTAIN
    return Survival(tuple(float(edge < tokens) for edge in EDGES))


def evenly(chance: float) -> Survival:
    """A reply that ends after the next token with `chance`, else is long."""
    return Survival((1.0, *(1 - chance if edge < LONG else 0.0 for edge in EDGES[1:])))


def shortage(
    *rows: tuple[int, Survival], victim: float = 9.0, left: int = 10**6, since: int = 0
) -> ShortageView:
    """Rows with room for so many tokens each, and a victim that would be out for `victim` steps."""
    tokens = np.full(len(rows), 20)
    growing = GrowingView(
        tokens=tokens,
        pages=tokens,
        left=np.full(len(rows), left),
        alive=np.array([curve.alive for _, curve in rows]),
        since=np.full(len(rows), since),
    )
    return ShortageView(growing, np.array([room for room, _ in rows]), victim)


def pause(view: ShortageView) -> Pause:
    """Weigh a shortage in which some row runs."""
    verdict = weigh(view)
    assert verdict is not None
    return verdict


def test_where_all_rows_are_short_none_would_ever_go_on():
    assert weigh(shortage((0, certainly(4)), (0, certainly(LONG)))) is None


def test_a_row_waits_for_one_that_surely_ends_before_its_pages_do():
    verdict = pause(shortage((0, certainly(LONG)), (8, certainly(4))))
    assert verdict == Pause(lost_steps=4, saved_steps=9)
    assert verdict.pays


def test_to_wait_for_one_that_surely_outlives_its_pages_saves_nothing():
    verdict = pause(shortage((0, certainly(LONG)), (5, certainly(6))))
    assert verdict == Pause(lost_steps=5, saved_steps=0)
    assert not verdict.pays


def test_every_row_that_is_short_by_then_costs_a_step_each():
    short, soon = (0, certainly(LONG)), (9, certainly(4))
    assert pause(shortage(short, short, short, soon)) == Pause(lost_steps=12, saved_steps=9)
    later = (3, certainly(LONG))  # short for the last step of the four
    assert pause(shortage(short, later, soon)) == Pause(lost_steps=5, saved_steps=9)


def test_a_victim_that_is_out_for_a_moment_is_not_worth_waiting_for():
    rows = (0, certainly(LONG)), (9, certainly(4))
    assert not pause(shortage(*rows, victim=4.0)).pays
    assert pause(shortage(*rows, victim=5.0)).pays


def test_what_is_likely_counts_by_its_chance():
    verdict = pause(shortage((0, certainly(LONG)), (0, certainly(LONG)), (2, evenly(0.75))))
    # The first step is lost for sure; the second with the chance of a quarter.
    assert verdict.lost_steps == pytest.approx(2 * 1.25)
    assert verdict.saved_steps == pytest.approx(0.75 * 9)


def test_a_reply_ends_at_its_limit_too_and_tokens_since_the_curve_was_drawn_count():
    short = (0, certainly(LONG))
    assert pause(shortage(short, (8, certainly(LONG)), left=3)) == Pause(3, 9)
    assert pause(shortage(short, (2, certainly(6)), since=4)) == Pause(2, 9)
    assert pause(shortage(short, (2, certainly(6)), since=3)) == Pause(2, 0)


ROWS = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(CERTAIN)),
    min_size=1,
    max_size=6,
)


@given(ROWS, st.integers(0, 20))
def test_for_certain_replies_it_counts_what_happens(rows: list[tuple[int, int]], victim: int):
    """Step by step: who runs, who stands still, and whether a reply ends before all are short."""
    view = shortage(*[(room, certainly(length)) for room, length in rows], victim=victim)
    if all(room == 0 for room, _ in rows):
        assert weigh(view) is None
        return
    lost, ended, step = 0, False, 0
    while not ended and any(room > step for room, _ in rows):
        lost += sum(room <= step for room, _ in rows)
        step += 1
        ended = any(room >= step == length for room, length in rows)
    assert pause(view) == Pause(lost, victim if ended else 0)
