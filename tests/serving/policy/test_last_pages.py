"""For whom the last pages are kept: by hand."""

import numpy as np
import pytest

from serving.forecast.survival import EDGES, Survival
from serving.policy.last_pages import FEW, Kept, last_pages
from serving.policy.views import GrowingView

FULL = 16
"""Tokens of a row that has filled its two pages of eight."""


def certainly(tokens: int) -> Survival:
    return Survival(tuple(float(edge < tokens) for edge in EDGES))


def rows(*expected: int, tokens: int = FULL, limit: int = 10**6, since: int = 0) -> GrowingView:
    """Rows of two pages, of which so many tokens are to come."""
    count = len(expected)
    return GrowingView(
        tokens=np.full(count, tokens),
        pages=np.full(count, 2),
        left=np.full(count, limit),
        alive=np.array([certainly(n).alive for n in expected]).reshape(count, len(EDGES)),
        since=np.full(count, since),
    )


def kept(view: GrowingView, available: int = 1) -> Kept | None:
    return last_pages(view, available=available, page_size=8, likely=0.9)


def test_they_are_kept_for_the_row_that_ends_with_them():
    assert kept(rows(64, 6, 64)) == Kept(row=1, pages=1)
    assert kept(rows(64, 16, 64)) is None
    assert kept(rows(64, 16, 64), available=2) == Kept(row=1, pages=2)


def test_of_several_for_the_one_that_ends_first_and_then_for_the_first_of_them():
    assert kept(rows(6, 3, 5)) == Kept(row=1, pages=1)
    assert kept(rows(64, 5, 5)) == Kept(row=1, pages=1)


def test_nothing_is_kept_for_rows_that_need_none_or_are_all_far_from_their_ends():
    assert kept(rows(64, 3, tokens=FULL - 4)) is None
    assert kept(rows(64, 128)) is None
    assert kept(rows()) is None


@pytest.mark.parametrize("available", [0, FEW + 1])
def test_nothing_is_kept_of_no_pages_and_nothing_of_many(available: int):
    assert kept(rows(64, 6), available=available) is None


def test_a_row_ends_at_its_limit_and_tokens_that_have_come_count():
    assert kept(rows(64, 64, limit=8)) == Kept(row=0, pages=1)
    assert kept(rows(16, since=10)) == Kept(row=0, pages=1)


def test_who_may_well_need_more_is_not_likely_to_end_with_them():
    view = rows(64, 64)
    unsure = [1.0 if edge < 5 else 0.2 if edge < 64 else 0.0 for edge in EDGES]
    doubtful = GrowingView(
        view.tokens, view.pages, view.left, np.array([unsure, unsure]), view.since
    )
    assert kept(doubtful) is None
    assert last_pages(doubtful, available=1, page_size=8, likely=0.7) == Kept(row=0, pages=1)
