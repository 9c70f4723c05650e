"""The running histogram against counting by hand, and against what it cannot see."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.forecast.histogram import LengthHistogram
from serving.forecast.survival import EDGES, MAX_TOKENS


def histogram(*, mean=100.0, weight=1e-9, memory=1e9) -> LengthHistogram:
    """By default next to no prior, and next to no forgetting: plain counting."""
    return LengthHistogram(prior_mean=mean, prior_weight=weight, memory=memory)


def test_without_replies_the_curve_is_the_prior():
    curve = histogram(mean=200, weight=5).curve()
    assert curve.expected() == pytest.approx(200, rel=0.01)
    assert curve.still_running(200) == pytest.approx((1 - 1 / 200) ** 200, rel=0.01)


def test_replies_that_all_ended_are_counted():
    seen = histogram()
    for length in (2, 8, 8, 32):
        seen.observe(length, ended=True)
    curve = seen.curve()
    assert curve.still_running(1) == pytest.approx(1, abs=1e-6)
    assert curve.still_running(2) == pytest.approx(3 / 4, abs=1e-6)
    assert curve.still_running(8) == pytest.approx(1 / 4, abs=1e-6)
    assert curve.still_running(32) == pytest.approx(0, abs=1e-6)


def test_a_reply_that_was_cut_off_stays_in_until_then_and_no_longer():
    # Kaplan and Meier's product: of 4 at risk one ends at 2; of the 2 left behind 8, one at 32.
    seen = histogram()
    seen.observe(2, ended=True)
    seen.observe(8, ended=False)
    seen.observe(32, ended=True)
    seen.observe(64, ended=False)
    curve = seen.curve()
    assert curve.still_running(8) == pytest.approx(3 / 4, abs=1e-6)
    assert curve.still_running(32) == pytest.approx(3 / 4 * 1 / 2, abs=1e-6)


def test_a_reply_cut_within_an_interval_counts_for_the_part_it_ran():
    seen = histogram()
    assert (EDGES[10], EDGES[11]) == (16, 20)
    seen.observe(18, ended=False)
    seen.observe(19, ended=True)
    seen.observe(64, ended=True)
    assert seen.curve().still_running(20) == pytest.approx(1 - 1 / 2.5, abs=1e-6)


def test_limits_do_not_shorten_the_estimate():
    rng = random.Random(1)
    seen, naive = histogram(), histogram()
    for _ in range(4000):
        length, limit = 1 + int(rng.expovariate(1 / 300)), rng.choice((64, 128, 4096))
        seen.observe(min(length, limit), ended=length <= limit)
        naive.observe(min(length, limit), ended=True)
    assert seen.curve().expected() == pytest.approx(300, rel=0.1)
    assert naive.curve().expected() < 200


def test_old_replies_are_forgotten():
    seen = histogram(memory=20)
    for _ in range(500):
        seen.observe(1000, ended=True)
    for _ in range(100):
        seen.observe(10, ended=True)
    assert seen.curve().still_running(10) == pytest.approx((1 - 1 / 20) ** 100, rel=1e-3)


def test_forgetting_goes_on_for_ever():
    seen = histogram(memory=2)
    for _ in range(5000):
        seen.observe(7, ended=True)
    assert seen.curve().still_running(8) == pytest.approx(0, abs=1e-6)
    assert seen.curve().still_running(4) == pytest.approx(1, abs=1e-6)


def test_few_replies_move_the_prior_by_their_weight():
    seen = histogram(mean=1e6, weight=6)
    seen.observe(10, ended=True)
    seen.observe(10, ended=True)
    assert seen.curve().still_running(1000) == pytest.approx(6 / 8, rel=0.01)


def test_the_edges_of_what_a_length_can_be():
    seen = histogram()
    seen.observe(0, ended=False)  # a turn that wanted no token says nothing
    assert seen.curve().expected() == pytest.approx(100, rel=0.01)
    seen.observe(0, ended=True)
    seen.observe(10 * MAX_TOKENS, ended=True)
    assert seen.curve().still_running(1) == pytest.approx(1 / 2, abs=1e-6)
    with pytest.raises(ValueError, match="-1"):
        seen.observe(-1, ended=True)


@pytest.mark.parametrize(
    "wrong", [{"mean": 1.0}, {"mean": -5.0}, {"weight": 0.0}, {"memory": 1.0}, {"memory": 0.0}]
)
def test_a_prior_that_says_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="prior"):
        histogram(**wrong)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 2**19), st.booleans()), max_size=60),
    st.floats(1.01, 1e5),
    st.floats(1.01, 1e6),
)
def test_whatever_is_seen_there_is_a_curve_that_starts_at_one(replies, mean, memory):
    seen = histogram(mean=mean, weight=3.0, memory=memory)
    for length, ended in replies:
        seen.observe(length, ended)
    curve = seen.curve()
    assert curve.alive[0] == 1
    assert curve is seen.curve()
