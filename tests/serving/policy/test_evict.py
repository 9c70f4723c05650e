from fractions import Fraction
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.policy.evict import evict, fetch_beats_compute, page_loss_s
from serving.policy.views import IdleView


def idle(
    pages: int = 1, restore_s: float = 1.0, rate: float = 0.5, returns: float = 0.5
) -> IdleView:
    return IdleView(pages, restore_s, returns, rate)


def test_nothing_idle_is_nothing_to_evict():
    assert evict([]) == []


def test_the_session_least_worth_waiting_for_goes_first():
    assert evict([idle(rate=0.9, returns=0), idle(rate=0.1, returns=1)]) == [1, 0]


def test_what_is_soon_computed_again_goes_first():
    assert evict([idle(restore_s=3), idle(restore_s=2)]) == [1, 0]


def test_of_equal_loss_the_one_that_frees_more_goes_first():
    assert evict([idle(pages=2), idle(pages=5)]) == [1, 0]


def test_a_large_session_that_is_soon_back_outlives_a_small_one_that_is_not():
    assert evict([idle(pages=8, restore_s=8, rate=0.9), idle(rate=0.2)]) == [1, 0]


def test_equal_value_goes_by_age():
    assert evict([idle(), idle(pages=2, restore_s=2), idle()]) == [0, 1, 2]


def test_a_session_that_would_free_nothing_comes_last():
    assert evict([idle(pages=0), idle(restore_s=100, rate=1)]) == [1, 0]


def test_restoring_beats_computing_only_if_it_is_faster():
    assert fetch_beats_compute(fetch_s=1, compute_s=2)
    assert not fetch_beats_compute(fetch_s=2, compute_s=2)


SESSIONS = st.lists(
    st.builds(
        IdleView,
        pages=st.integers(1, 4),
        restore_s=st.integers(0, 4).map(float),
        returns=st.just(1.0),
        rate=st.sampled_from((0, 0.25, 0.5)),
    ),
    max_size=6,
)


@given(SESSIONS)
def test_the_order_is_of_all_sessions_by_value_of_a_page_then_age(sessions: list[IdleView]):
    chosen = evict(sessions)
    assert sorted(chosen) == list(range(len(sessions)))

    def value(i: int) -> tuple[Fraction, int]:
        s = sessions[i]
        return Fraction(s.rate) * Fraction(s.restore_s) / s.pages, i

    for before, after in pairwise(chosen):
        # Rounded to floats, nearly equal values may compare as equal: then age decides.
        assert value(before) < value(after) or float(value(before)[0]) == float(value(after)[0])


def test_losing_a_page_costs_what_its_session_is_worth_by_the_page():
    first, second = idle(pages=2, restore_s=4, returns=0.5), idle(pages=6, restore_s=9, returns=1.0)
    assert page_loss_s([first]) == 1.0
    assert page_loss_s([second, first]) == (2 + 9) / 8
    assert page_loss_s([]) == page_loss_s([idle(pages=0)]) == 0
