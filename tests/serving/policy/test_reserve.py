"""What all rows of a worker will need at once: by hand, for drawn replies, and in its limits."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.forecast.survival import EDGES, Survival
from serving.policy.reserve import growth, relief
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


# ---- what one that leaves brings the others -----------------------------------------------------


def left(
    view: GrowingView, quantile: float = 0.9, *, num_pages: int
) -> tuple[list[bool], list[float]]:
    found = relief(view, page_size=1, quantile=quantile, num_pages=num_pages)
    return found.suffices.tolist(), found.away_steps.tolist()


def test_one_that_leaves_suffices_if_what_it_held_is_all_that_the_others_lack():
    small, large, growing = (2, certainly(64)), (8, certainly(64)), (10, certainly(6))
    suffices, _ = left(rows(small, large, growing), num_pages=20)
    assert suffices == [False, False, False]
    # When the third has ended, the large one grows to 65 pages and the small one to 59, for sure.
    suffices, _ = left(rows(small, large, growing), num_pages=62)
    assert suffices == [False, True, False]
    suffices, _ = left(rows(small, large, growing), num_pages=66)
    assert suffices == [True, True, False]


def test_it_is_out_until_the_others_have_left_room_for_all_that_it_may_need():
    short, long = (8, certainly(4)), (8, certainly(16))
    _, away = left(rows(short, long), num_pages=24)
    # The long one grows to 24 pages and leaves; the short one's four tokens more are no hindrance.
    assert away[0] == 16
    _, away = left(rows(short, long), num_pages=36)
    assert away[0] == 1


def test_who_is_alone_may_come_back_at_once():
    assert left(rows((8, certainly(8))), num_pages=16) == ([True], [1.0])


@given(
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(2.0, 300.0), st.integers(0, 60)),
        min_size=2,
        max_size=6,
    ),
    st.sampled_from([1, 16]),
    st.integers(0, 100),
)
def test_it_suffices_where_the_others_alone_would_fit_on_average(
    drawn: list[tuple[int, float, int]], page_size: int, spare: int
):
    tokens, means, limits = (np.array(column) for column in zip(*drawn, strict=True))
    view = GrowingView(
        tokens=tokens,
        pages=-(-tokens // page_size),
        left=limits,
        alive=np.array([geometric(mean).alive for mean in means]),
        since=np.zeros(len(drawn), np.int64),
    )
    held = int(view.pages.sum()) + spare
    found = relief(view, page_size=page_size, quantile=0.9, num_pages=held)
    for r in range(len(drawn)):
        rest = np.arange(len(drawn)) != r
        others = GrowingView(
            *(getattr(view, name)[rest] for name in ("tokens", "pages", "left", "alive", "since"))
        )
        # Half of the time they need no more than their mean.
        lacking = growth(others, page_size=page_size, quantile=0.5) - (
            held - int(others.pages.sum())
        )
        # The sums are made in another order: one that is just met may be just missed.
        if lacking < 0 or lacking > 1:
            assert found.suffices[r] == (lacking < 0)


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(2.0, 300.0)), min_size=1, max_size=6))
def test_the_more_pages_there_are_the_sooner_each_comes_back(drawn: list[tuple[int, float]]):
    view = rows(*((tokens, geometric(mean)) for tokens, mean in drawn))
    held = int(view.pages.sum())
    away = [np.array(left(view, num_pages=held + more)[1]) for more in (0, 50, 500, 5000)]
    assert all((later <= sooner).all() for sooner, later in pairwise(away))
