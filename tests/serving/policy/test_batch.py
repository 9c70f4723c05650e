from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.costs.costs import Estimate
from serving.costs.padded import Padded
from serving.policy.batch import ChunkLimits, batch
from serving.policy.views import ChunkView, DecodingView
from tests.support.fake_costs import LinearCosts

# A step of r rows takes 10 + r seconds, and 1 for each new token.
COSTS = LinearCosts(base_s=10, row_s=1, kv_s=0, new_s=1)
NOBODY = DecodingView(rows=0, kv_tokens=0, slack_s=inf)


def decoding(slack_s: float, rows: int = 2) -> DecodingView:
    return DecodingView(rows=rows, kv_tokens=100, slack_s=slack_s)


def shares(
    *remaining: int,
    beside: DecodingView = NOBODY,
    max_tokens: int,
    max_rows: int = 8,
    min_tokens: int = 1,
) -> list[int]:
    return batch(
        [ChunkView(r, 0) for r in remaining],
        beside,
        costs=COSTS,
        limits=ChunkLimits(max_tokens, max_rows, min_tokens),
    )


def test_several_short_prompts_share_a_step():
    assert shares(3, 2, 4, max_tokens=10) == [3, 2, 4]


def test_a_long_prompt_is_cut_at_the_budget():
    assert shares(100, max_tokens=16) == [16]


def test_the_last_prompt_gets_what_is_left():
    assert shares(3, 100, max_tokens=10) == [3, 7]


def test_nobody_behind_a_full_budget_gets_an_empty_chunk():
    assert shares(10, 1, max_tokens=10) == [10]


def test_at_most_so_many_prompts_share_a_step():
    assert shares(1, 1, 1, max_tokens=10, max_rows=2) == [1, 1]


def test_nothing_waiting_is_an_empty_batch():
    assert shares(max_tokens=10) == []
    assert shares(max_tokens=10, beside=decoding(0)) == []


def test_rows_without_a_target_leave_the_whole_budget():
    assert shares(100, max_tokens=16, beside=decoding(inf)) == [16]


def test_without_rows_slack_does_not_count():
    assert shares(100, max_tokens=16, beside=decoding(0, rows=0)) == [16]


def test_a_chunk_takes_the_slack_that_the_rows_leave_and_no_more():
    assert shares(100, max_tokens=64, beside=decoding(12 + 25)) == [25]


def test_more_rows_leave_less_room():
    assert shares(100, max_tokens=64, beside=decoding(37, rows=7)) == [20]


def stairs(rows: int, tokens: int) -> tuple[int, int]:
    return rows, -(-tokens // 32) * 32


@pytest.mark.parametrize(
    ("slack_s", "remaining", "chunk"),
    [(0, 100, 32), (0, 20, 20), (12 + 50, 100, 32), (12 + 70, 100, 64), (0, 33, 32)],
)
def test_what_makes_a_padded_step_no_longer_rides_along(slack_s, remaining, chunk):
    limits = ChunkLimits(64, 8, min_tokens=8)
    waiting = [ChunkView(remaining, 0)]
    assert batch(waiting, decoding(slack_s), costs=Padded(COSTS, stairs), limits=limits) == [chunk]


def test_the_slack_is_shared_out_in_order():
    assert shares(10, 20, 20, max_tokens=64, beside=decoding(12 + 25)) == [10, 15]


def test_a_chunk_beside_rows_is_a_multiple_of_the_grain():
    assert shares(100, max_tokens=64, min_tokens=8, beside=decoding(12 + 25)) == [24]


def test_a_worker_that_falls_behind_sheds_chunk_size_down_to_the_least():
    assert shares(100, max_tokens=64, min_tokens=8, beside=decoding(1)) == [8]
    assert shares(100, max_tokens=64, min_tokens=8, beside=decoding(-3)) == [8]


def test_a_prompt_shorter_than_the_least_chunk_is_not_padded():
    assert shares(5, max_tokens=64, min_tokens=8, beside=decoding(-3)) == [5]


def test_history_makes_a_chunk_dearer():
    costs = LinearCosts(base_s=0, row_s=0, kv_s=0, new_s=1, past_s=0.01)

    def chunk(kv_len: int) -> list[int]:
        limits = ChunkLimits(64, 8, 1)
        return batch([ChunkView(100, kv_len)], decoding(30), costs=costs, limits=limits)

    assert (chunk(0), chunk(100)) == ([30], [15])


def test_what_a_chunk_attends_to_is_weighed_by_its_tokens():
    costs = LinearCosts(base_s=0, row_s=0, kv_s=0, new_s=1, past_s=0.01)
    waiting = [ChunkView(10, 100), ChunkView(100, 0)]  # 20 s for the first ten, then 1 s a token
    limits = ChunkLimits(64, 8, 10)
    assert batch(waiting, decoding(41), costs=costs, limits=limits) == [10, 20]
    assert batch(waiting[::-1], decoding(41), costs=costs, limits=limits) == [40]


@pytest.mark.parametrize("limits", [(0, 1, 1), (8, 0, 1), (8, 1, 0), (8, 1, 9)])
def test_limits_that_let_nothing_through_are_refused(limits: tuple[int, int, int]):
    with pytest.raises(ValueError, match="prefill tokens"):
        ChunkLimits(*limits)


def test_costs_are_asked_a_handful_of_times():
    asked: list[int] = []

    class Counted(LinearCosts):
        def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
            asked.append(new_len)
            return super().mixed(rows, kv_tokens, new_len, cached_len)

    limits = ChunkLimits(max_tokens=2048, max_rows=8, min_tokens=16)
    waiting = [ChunkView(5000, 0)]
    batch(waiting, decoding(inf), costs=Counted(base_s=10, row_s=1, new_s=1), limits=limits)
    assert asked == []
    batch(waiting, decoding(1e9), costs=Counted(base_s=10, row_s=1, new_s=1), limits=limits)
    assert asked == [2048]
    asked.clear()
    batch(waiting, decoding(500), costs=Counted(base_s=10, row_s=1, new_s=1), limits=limits)
    assert len(asked) == 9  # once for all, once for the least, then log2(2048 / 16)


@given(
    st.lists(st.integers(1, 50), max_size=12),
    st.integers(1, 64),
    st.integers(1, 8),
)
def test_the_oldest_are_served_in_order_within_the_budget_and_none_is_wasted(
    remaining: list[int], max_tokens: int, max_rows: int
):
    chunks = shares(*remaining, max_tokens=max_tokens, max_rows=max_rows)
    assert len(chunks) <= max_rows
    assert sum(chunks) == min(max_tokens, sum(remaining[:max_rows]))
    assert all(chunk > 0 for chunk in chunks)
    assert all(chunk == left for chunk, left in zip(chunks[:-1], remaining, strict=False)), (
        "only the last chunk may be cut"
    )


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6),
    st.integers(-5, 80),
    st.integers(1, 6),
    st.integers(1, 8),
    st.integers(8, 64),
)
def test_beside_rows_the_total_is_the_largest_of_all_that_keep_the_slack(
    remaining: list[int], slack_s: int, rows: int, min_tokens: int, max_tokens: int
):
    chunks = shares(
        *remaining,
        beside=decoding(slack_s, rows=rows),
        max_tokens=max_tokens,
        min_tokens=min_tokens,
    )
    most = min(max_tokens, sum(remaining))
    floor = min(most, min_tokens)
    kept = [
        total
        for total in range(floor, most + 1)
        if (total % min_tokens == 0 or total == most) and 10 + rows + total <= slack_s
    ]
    assert sum(chunks) == max([floor, *kept])
