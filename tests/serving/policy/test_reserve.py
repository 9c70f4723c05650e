"""What all rows of a worker will need at once: by hand, for drawn replies, and in its limits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.forecast.survival import EDGES, Survival
from serving.policy.reserve import growth
from serving.policy.views import GrowingView

NO_END = 10**6


def certainly(tokens: int) -> Survival:
    """Make the curve of a reply that has about `tokens` tokens to come, to the edges' grain."""
    return Survival(tuple(float(edge < tokens) for edge in EDGES))


def geometric(mean: float) -> Survival:
    return Survival((*((1 - 1 / mean) ** edge for edge in EDGES[:-1]), 0.0))


def rows(*given: tuple[int, Survival], left: int = NO_END, since: int = 0) -> GrowingView:
    """Rows of so many tokens, each with its curve, on pages of one token."""
    tokens = np.array([held for held, _ in given])
    return GrowingView(
        tokens=tokens,
        pages=tokens,
        left=np.full(len(given), left),
        alive=np.array([curve.alive for _, curve in given]),
        since=np.full(len(given), since),
    )


def needed(view: GrowingView, quantile: float = 0.9, page_size: int = 1) -> int:
    return growth(view, page_size=page_size, quantile=quantile)


def test_a_worker_without_rows_needs_nothing():
    none = np.zeros(0, np.int64)
    assert needed(GrowingView(none, none, none, np.zeros((0, len(EDGES))), none)) == 0


def test_a_reply_whose_length_is_certain_needs_exactly_that():
    assert needed(rows((8, certainly(8))), quantile=0.9) == 8
    assert needed(rows((8, certainly(8))), quantile=0.99) == 8


def test_what_one_row_leaves_another_grows_into():
    short, long = (8, certainly(4)), (8, certainly(16))
    assert needed(rows(short, long)) == 8  # four each, or sixteen of one and none of the other
    assert needed(rows(long, long)) == 2 * needed(rows(long))


def test_no_reply_grows_beyond_its_limit():
    assert needed(rows((8, certainly(512)), left=4)) == 4
    assert needed(rows((8, certainly(512)), left=0)) == 0


def test_tokens_that_have_come_since_the_curve_was_drawn_count():
    assert needed(rows((8, certainly(16)), since=8), quantile=0.99) == 8


def test_pages_that_are_not_full_yet_are_grown_into_first():
    view = rows((5, certainly(3)))
    view = GrowingView(view.tokens, np.array([2]), view.left, view.alive, view.since)
    assert needed(view, page_size=4) == 0


def test_a_higher_quantile_never_sets_less_aside():
    view = rows(*[(20, geometric(100.0))] * 6)
    needs = [needed(view, quantile) for quantile in (0.1, 0.5, 0.9, 0.99)]
    assert needs == sorted(needs)
    assert needs[0] < needs[-1]


def test_no_more_is_set_aside_than_all_can_become():
    view = rows(*[(20, geometric(1000.0))] * 3, left=64)
    assert needed(view, 0.999999) <= 3 * 64


@pytest.mark.parametrize("quantile", [0.5, 0.9])
def test_drawn_replies_stay_within_what_is_set_aside_about_as_often_as_asked(quantile: float):
    """At the moment at which they need most; over a whole future it is exceeded more often."""
    rng, mean, count = np.random.default_rng(0), 200.0, 40
    held = rng.integers(1, 400, count)
    limit = held.sum() + needed(rows(*((int(h), geometric(mean)) for h in held)), quantile)
    replies = rng.geometric(1 / mean, (4000, count))
    shares = [
        (np.where(replies > k, held + k, 0).sum(axis=1) <= limit).mean() for k in range(1, 100, 3)
    ]
    assert quantile - 0.06 < min(shares) < quantile + 0.12


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 200)), min_size=1, max_size=6),
    st.integers(1, 60),
    st.integers(1, 200),
    st.integers(1, 8),
)
def test_more_rows_hold_and_need_together_no_less(
    few: list[tuple[int, int]], held: int, to_come: int, page_size: int
):
    def in_all(some: list[tuple[int, int]]) -> int:
        view = rows(*((tokens, certainly(more)) for tokens, more in some))
        pages = -(-view.tokens // page_size)
        view = GrowingView(view.tokens, pages, view.left, view.alive, view.since)
        return int(pages.sum()) + needed(view, page_size=page_size)

    assert in_all([*few, (held, to_come)]) >= in_all(few)
