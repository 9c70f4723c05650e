"""Who gets pages: what is there, what the others will need, and who is alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.admit import Admit, Defer, admit, pages_for
from serving.policy.views import PoolView


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
    assert admit(PoolView(available=10, live=1), missing=missing, growth=growth) == verdict


def test_a_task_alone_is_admitted_whatever_it_may_become():
    pool = PoolView(available=2, live=0)
    assert admit(pool, missing=2, growth=1000) == Admit("alone")
    assert admit(pool, missing=3, growth=0) == Defer("pages")


@given(st.integers(0, 1000), st.integers(1, 64))
def test_pages_for_is_the_least_number_of_pages(tokens: int, page_size: int):
    pages = pages_for(tokens, page_size)
    assert pages * page_size >= tokens > (pages - 1) * page_size or pages == tokens == 0
