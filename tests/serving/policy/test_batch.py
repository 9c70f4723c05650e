from hypothesis import given
from hypothesis import strategies as st

from serving.policy.batch import batch
from serving.policy.views import ChunkView


def shares(*remaining: int, max_tokens: int, max_rows: int = 8) -> list[int]:
    return batch([ChunkView(r) for r in remaining], max_tokens=max_tokens, max_rows=max_rows)


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
