"""Predicted prefill times, with costs whose every step can be computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.costs.costs import Costs, Link
from serving.costs.padded import Padded
from serving.policy.options import Options
from serving.policy.prefill_times import PrefillTimes, Steps, split
from serving.policy.route import RouteConfig, RouteContext
from tests.support.fake_costs import LinearCosts
from tests.support.route_views import owner, prefill, residents, turn

A_SECOND_A_TOKEN = LinearCosts(new_s=1.0, kv_bytes_per_token=2)
SLOW_LINK = Link(latency_s=0.0, bytes_per_s=1.0)  # two seconds a token


def times(
    prompt_len: int, home, *, costs: Costs = A_SECOND_A_TOKEN, min_chunk_len: int = 1
) -> PrefillTimes:
    return PrefillTimes(turn(prompt_len), home, costs, min_chunk_len)


@given(
    new_len=st.integers(1, 200),
    cached_len=st.integers(0, 200),
    chunk_len=st.integers(1, 50),
    cached_s=st.floats(0, 1),
)
def test_the_middle_full_chunk_stands_for_all_when_costs_are_straight_lines(
    new_len: int, cached_len: int, chunk_len: int, cached_s: float
):
    def step_s(new: int, cached: int) -> float:
        return 5.0 + 2.0 * new + cached_s * cached

    one_by_one = sum(
        step_s(min(chunk_len, new_len - start), cached_len + start)
        for start in range(0, new_len, chunk_len)
    )
    steps = split(step_s, new_len, cached_len, chunk_len)
    half_a_token = cached_s / 2  # the middle of an even number of chunks may lie between tokens
    assert steps.total_s == pytest.approx(one_by_one, abs=1e-9 + steps.full * half_a_token)
    assert steps.full * chunk_len + steps.last_len == new_len


def test_a_prompt_of_whole_chunks_ends_in_a_full_one():
    assert split(lambda new, _: float(new), 20, 0, 10) == Steps(1, 10.0, 10, 10.0)


def test_the_owner_computes_what_its_pages_lack():
    assert times(100, owner(60)).local().total_s == 40


def test_the_last_token_is_computed_even_if_all_are_cached():
    assert times(100, owner(100)).local().total_s == 1


def test_on_the_owner_every_chunk_waits_for_the_rows_that_decode():
    costs = LinearCosts(new_s=1.0, row_s=3.0, kv_s=0.5)
    home = owner(0, rows=residents(9, 9), kv_tokens=8, chunk_len=10)
    assert times(30, home, costs=costs).local().total_s == 30 + 3 * (2 * 3 + 8 * 0.5)


def test_the_owners_chunk_shrinks_until_the_tightest_target_holds():
    home = owner(0, rows=residents(9, 9, tpot_s=4.0), chunk_len=10)
    assert times(8, home).local() == Steps(1, 4.0, 4, 4.0)


def test_the_owners_chunk_shrinks_no_further_than_allowed():
    home = owner(0, rows=residents(9, tpot_s=0.5), chunk_len=10)
    assert times(6, home, min_chunk_len=3).local() == Steps(1, 3.0, 3, 3.0)


def test_a_chunk_does_not_shrink_where_its_step_would_be_padded_to_the_same():
    padded = Padded(A_SECOND_A_TOKEN, lambda rows, tokens: (rows, -(-tokens // 8) * 8))
    home = owner(0, rows=residents(9, tpot_s=0.5), chunk_len=10)
    assert times(6, home, costs=padded, min_chunk_len=3).local() == Steps(0, 0.0, 6, 8.0)


def test_rows_without_a_target_do_not_shrink_the_chunk():
    assert times(10, owner(0, rows=residents(9), chunk_len=10)).local().full == 0


def test_an_owner_that_decodes_nothing_keeps_its_chunk():
    assert times(10, owner(0, chunk_len=10)).local() == Steps(0, 0.0, 10, 10.0)


def test_the_wait_in_the_queue_comes_before_the_prefill():
    sent = times(10, owner(0)).remote(prefill(queued_s=7.0), None)
    assert sent.ttft_s == pytest.approx(7 + 10)


def test_a_prefill_elsewhere_is_as_slow_as_the_rows_beside_it_make_it():
    costs = LinearCosts(base_s=0.0, new_s=1.0, row_s=2.0)
    beside = prefill(rows=residents(9, 9, 9), chunk_len=10)
    sent = times(30, owner(0), costs=costs).remote(beside, None)
    assert sent.ttft_s == 30 + 3 * 3 * 2.0
    assert sent.steps == Steps(2, 16.0, 10, 16.0)
    # Chunks shrink for the targets of the rows that are there, not of the owner's.
    home = owner(0, rows=residents(9, tpot_s=0.1))
    tight = prefill(rows=residents(9, tpot_s=7.0), chunk_len=10)
    assert times(30, home, costs=costs).remote(tight, None).steps.full_s == 7.0


def test_a_pull_shorter_than_the_queue_costs_no_time():
    home = owner(6)
    worker = prefill(queued_s=20.0, link=SLOW_LINK)
    sent = times(10, home).remote(worker, 12.0)
    assert sent.ttft_s == 20 + 4 + 2 * 4


def test_a_pull_waits_for_what_its_owner_fetches():
    home, worker = owner(6, fetch_s=3.0), prefill(cached_len=2, link=SLOW_LINK)
    assert times(10, home).pull_s(worker) == 3 + 2 * 4


def test_what_the_worker_fetches_itself_comes_behind_the_queue_and_beside_a_pull():
    worker = prefill(cached_len=2, link=SLOW_LINK, queued_s=7.0, fetch_s=5.0)
    assert times(10, owner(2)).remote(worker, None).ttft_s == 7 + 5 + 8 + 2 * 8
    assert times(10, owner(6)).remote(worker, 11.0).ttft_s == 7 + 5 + 4 + 2 * 4
    assert times(10, owner(6)).remote(worker, 14.0).ttft_s == 14 + 4 + 2 * 4


@pytest.mark.parametrize(("queued_s", "start_s"), [(0.0, 3.0), (2.0, 3.0), (7.0, 7.0)])
def test_nobody_prefills_before_the_owner_has_fetched_what_it_has(queued_s: float, start_s: float):
    home, worker = owner(2, fetch_s=3.0), prefill(cached_len=2, queued_s=queued_s)
    assert times(10, home).remote(worker, None).ttft_s == start_s + 8


def test_what_the_owner_fetches_comes_before_its_prefill():
    home = owner(6, queued_s=7.0, fetch_s=3.0)
    context = RouteContext(A_SECOND_A_TOKEN, RouteConfig(), None)
    assert Options(turn(10), home, [], context).local().ttft_s == 7 + 3 + 4


def test_a_pull_longer_than_the_queue_delays_the_prefill():
    sent = times(10, owner(6)).remote(prefill(queued_s=5.0, link=SLOW_LINK), 12.0)
    assert sent.ttft_s == 12 + 4 + 2 * 4


def test_pulled_and_returned_bytes_are_only_what_each_side_lacks():
    sent = times(10, owner(6)).remote(prefill(cached_len=2, link=SLOW_LINK), 8.0)
    assert sent.moved_bytes == 2 * (6 - 2) + 2 * (10 - 6)


def test_all_but_the_last_chunk_is_sent_behind_the_computation():
    fast = Link(latency_s=0.0, bytes_per_s=20.0)  # a tenth of a second a token
    sent = times(25, owner(0)).remote(prefill(chunk_len=10, link=fast), None)
    assert sent.ttft_s == pytest.approx(25 + 0.1 * 5)


def test_a_link_slower_than_the_computation_hides_all_but_the_first_chunk():
    sent = times(25, owner(0)).remote(prefill(chunk_len=10, link=SLOW_LINK), None)
    assert sent.ttft_s == 10 + 2 * 25


def test_nothing_is_transferred_at_no_cost():
    far = Link(latency_s=9.0, bytes_per_s=1.0)
    assert times(10, owner(10)).transfer_s(0, prefill(link=far)) == 0
