"""Who gets pages: what is there, what the others will need, and who is alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.admit import Admit, Defer, admit, pages_for
from serving.policy.views import PaceView, PoolView

POOL = PoolView(available=10, live=1)


@pytest.mark.parametrize(
    ("missing", "growth", "verdict"),
    [
        (2, 8, Admit("fits")),  # the last page that is not set aside may be taken
        (2, 9, Defer("growth")),
        (10, 0, Admit("fits")),
        (11, 0, Defer("pages")),
        (11, 9, Defer("pages")),
    ],
)
def test_beside_others_a_task_and_the_growth_of_all_must_fit(missing: int, growth: int, verdict):
    assert admit(POOL, missing=missing, growth=growth, pace=None) == verdict


def test_a_task_alone_is_admitted_whatever_it_may_become():
    pool = PoolView(available=2, live=0)
    slow = PaceView(9.0, 0.5, 1.0, [1.0])
    for pace in (None, slow):
        assert admit(pool, missing=2, growth=1000, pace=pace) == Admit("alone")
    assert admit(pool, missing=3, growth=0, pace=slow) == Defer("pages")


@pytest.mark.parametrize(
    ("targets", "verdict"),
    [
        ([2.0, 2.0, 2.0], Admit("fits")),
        ([1.9, 1.9, 1.9], Defer("pace")),
        ([None, None, 1.9], Admit("fits")),
        ([None, 1.9, 1.9], Defer("pace")),
        ([1.9, 9.0, 9.0], Admit("fits")),
        ([1.9, 1.9, 9.0, 9.0], Admit("fits")),
        ([0.5, 1.9, 9.0], Defer("pace")),
        # Rows that nobody could serve as fast as they want keep nobody out, nor let anybody in.
        ([0.4, 0.4, 0.4], Admit("fits")),
        ([0.4, 0.4, 9.0], Admit("fits")),
        ([0.4, 0.4, 9.0, 1.9, 1.9], Defer("pace")),
        ([0.4, None, None, 1.9], Admit("fits")),
    ],
)
def test_steps_must_not_get_too_long_for_most_rows(targets, verdict):
    assert admit(POOL, missing=2, growth=8, pace=PaceView(2.0, 0.5, 1.0, targets)) == verdict


@pytest.mark.parametrize(("share", "waits"), [(1.0, False), (0.99, True), (0.8, True)])
def test_a_tighter_pace_leaves_steps_less_of_their_targets(share: float, waits: bool):
    pace = PaceView(2.0, 0.5, share, [2.0, 2.0])
    verdict = Defer("pace") if waits else Admit("fits")
    assert admit(POOL, missing=2, growth=8, pace=pace) == verdict


def test_too_few_pages_are_told_before_too_long_steps():
    slow = PaceView(2.0, 0.5, 1.0, [1.0])
    assert admit(POOL, missing=2, growth=9, pace=slow) == Defer("growth")


@given(st.integers(0, 1000), st.integers(1, 64))
def test_pages_for_is_the_least_number_of_pages(tokens: int, page_size: int):
    pages = pages_for(tokens, page_size)
    assert pages * page_size >= tokens > (pages - 1) * page_size or pages == tokens == 0
