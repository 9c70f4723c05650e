from hypothesis import given
from hypothesis import strategies as st

from serving.forecast.survival import EDGES, Survival
from serving.policy.admit import Admit, Defer, admit, pages_for
from serving.policy.views import GrowthView, PoolView


def certainly(tokens: int) -> Survival:
    """Make the curve of a reply that has about `tokens` tokens to come, to the edges' grain."""
    return Survival(tuple(float(edge < tokens) for edge in EDGES))


def one_in_four_is_long(short: int, long: int) -> Survival:
    return Survival(tuple(1.0 if edge < short else 0.25 if edge < long else 0.0 for edge in EDGES))


def growth(prompt_len: int, max_new_len: int, expected: int = 8) -> GrowthView:
    return GrowthView(prompt_len, max_new_len, certainly(expected))


def ask(task: GrowthView, pool: PoolView, *, missing: int, quantile: float = 0.9) -> Admit | Defer:
    return admit(task, pool, missing=missing, page_size=4, quantile=quantile)


def test_a_task_that_fits_with_its_growth_is_admitted_and_its_growth_promised():
    pool = PoolView(available=10, promised=2, live=1)
    assert ask(growth(8, 100), pool, missing=2) == Admit(2, "fits")


def test_a_task_whose_growth_would_take_promised_pages_waits():
    pool = PoolView(available=10, promised=7, live=1)
    assert ask(growth(8, 100), pool, missing=2) == Defer("growth")


def test_the_last_page_that_is_not_promised_may_be_taken():
    pool = PoolView(available=10, promised=6, live=1)
    assert ask(growth(8, 100), pool, missing=2) == Admit(2, "fits")


def test_a_longer_forecast_reserves_more():
    pool = PoolView(available=20, promised=0, live=1)
    assert ask(growth(8, 100, expected=16), pool, missing=2) == Admit(4, "fits")


def test_the_quantile_decides_how_much_of_a_tail_is_reserved():
    pool = PoolView(available=100, promised=0, live=1)
    task = GrowthView(8, 1000, one_in_four_is_long(short=8, long=64))
    assert ask(task, pool, missing=2, quantile=0.5) == Admit(2, "fits")
    assert ask(task, pool, missing=2, quantile=0.99) == Admit(16, "fits")


def test_a_task_without_pages_for_its_prompt_waits_even_alone():
    pool = PoolView(available=1, promised=0, live=0)
    assert ask(growth(8, 1), pool, missing=2) == Defer("pages")


def test_a_task_alone_is_admitted_whatever_it_may_become():
    pool = PoolView(available=2, promised=0, live=0)
    assert ask(growth(8, 100), pool, missing=2) == Admit(2, "alone")


def test_no_more_is_reserved_than_the_task_may_produce():
    pool = PoolView(available=10, promised=0, live=1)
    assert ask(growth(8, 3, expected=512), pool, missing=2) == Admit(1, "fits")


def test_a_reply_that_fits_the_last_page_reserves_nothing():
    pool = PoolView(available=2, promised=0, live=1)
    assert ask(growth(5, 3), pool, missing=2) == Admit(0, "fits")


def test_a_task_that_decodes_elsewhere_reserves_nothing():
    pool = PoolView(available=2, promised=0, live=3)
    assert ask(growth(8, 0), pool, missing=2) == Admit(0, "fits")


@given(
    prompt_len=st.integers(1, 60),
    max_new_len=st.integers(0, 60),
    expected=st.integers(0, 60),
    cached_pages=st.integers(0, 15),
    quantile=st.sampled_from((0.1, 0.5, 0.9, 0.99)),
    page_size=st.integers(1, 8),
    pool=st.builds(PoolView, st.integers(0, 40), st.integers(0, 40), st.integers(0, 4)),
)
def test_what_is_admitted_beside_others_never_eats_into_promises(
    prompt_len: int,
    max_new_len: int,
    expected: int,
    cached_pages: int,
    quantile: float,
    page_size: int,
    pool: PoolView,
):
    missing = max(0, pages_for(prompt_len, page_size) - cached_pages)
    curve = certainly(expected)
    verdict = admit(
        GrowthView(prompt_len, max_new_len, curve),
        pool,
        missing=missing,
        page_size=page_size,
        quantile=quantile,
    )
    if isinstance(verdict, Admit):
        assert missing <= pool.available
        most = pages_for(prompt_len + min(max_new_len, curve.quantile(quantile)), page_size)
        assert verdict.reserve == most - pages_for(prompt_len, page_size)
        if pool.live:
            assert missing + verdict.reserve + pool.promised <= pool.available
    else:
        fits = missing <= pool.available
        assert not (fits and pool.live == 0), "a task alone was refused though it fits"


@given(st.integers(0, 1000), st.integers(1, 64))
def test_pages_for_is_the_least_number_of_pages(tokens: int, page_size: int):
    pages = pages_for(tokens, page_size)
    assert pages * page_size >= tokens > (pages - 1) * page_size or pages == tokens == 0
