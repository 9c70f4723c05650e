import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.buckets import Bucket, least_rows, make_buckets
from serving.messages import Role

LIMITS = {"min_rows": 1, "max_rows": 20, "max_tokens": 100, "max_chunks": 3, "max_pages": 70}


@given(rows=st.integers(0, 20), tokens=st.integers(0, 100), role=st.sampled_from(Role))
def test_every_step_that_a_role_may_meet_fits(rows, tokens, role):
    rows = 0 if role is Role.PREFILL else rows
    if rows + tokens == 0 or (role is Role.PREFILL and tokens == 0):
        return
    chunks = min(3, tokens)
    bucket = make_buckets(role, **LIMITS).fit(rows=rows, tokens=tokens, chunks=chunks)
    assert bucket.rows >= rows
    assert bucket.tokens >= tokens
    assert bucket.chunks >= chunks
    assert tokens or not bucket.tokens, "a step without chunks runs no chunk segment"


def test_the_smallest_bucket_is_chosen():
    buckets = make_buckets(Role.BOTH, **LIMITS)
    assert buckets.fit(rows=2, tokens=0, chunks=0) == Bucket(4, 0, 0)
    assert buckets.fit(rows=0, tokens=9, chunks=2) == Bucket(0, 32, 3)


def test_a_prefill_worker_has_no_decode_buckets():
    assert {bucket.rows for bucket in make_buckets(Role.PREFILL, **LIMITS).steps} == {0}


@pytest.mark.parametrize("platform", ["gpu", "cuda"])
def test_no_row_decodes_alone_on_a_gpu(platform: str):
    assert (least_rows(platform), least_rows("cpu"), least_rows("tpu")) == (2, 1, 1)
    buckets = make_buckets(Role.DECODE, **{**LIMITS, "min_rows": 2})
    assert [buckets.fit(rows=n, tokens=0, chunks=0).rows for n in (1, 2, 3, 9)] == [2, 2, 8, 20]


def test_a_worker_with_one_slot_decodes_one_row_anywhere():
    buckets = make_buckets(Role.DECODE, **{**LIMITS, "min_rows": 2, "max_rows": 1})
    assert {bucket.rows for bucket in buckets.steps} == {0, 1}


def test_the_set_stays_small():
    sizes = {"min_rows": 1, "max_rows": 64, "max_tokens": 256, "max_chunks": 8, "max_pages": 128}
    assert {role: len(make_buckets(role, **sizes).steps) for role in Role} == {
        Role.PREFILL: 2,
        Role.DECODE: 7,
        Role.BOTH: 10,
    }


def test_tokens_are_padded_to_twice_as_many_at_most_where_they_cost_what_they_are():
    sizes = {**LIMITS, "max_tokens": 3000}
    for role in Role:
        buckets = make_buckets(role, **sizes)
        fitted = [buckets.fit(rows=0, tokens=n, chunks=1).tokens for n in (1, 33, 257, 513, 2049)]
        assert fitted == [32, 256, 512, 1024, 3000]


def test_what_a_decode_worker_appends_is_not_padded_to_its_largest_step():
    buckets = make_buckets(Role.DECODE, **{**LIMITS, "max_tokens": 2048})
    assert buckets.fit(rows=2, tokens=300, chunks=1) == Bucket(20, 512, 3)
    assert buckets.fit(rows=0, tokens=300, chunks=1) == Bucket(20, 512, 3)
    assert buckets.fit(rows=0, tokens=30, chunks=1) == Bucket(0, 32, 3)


def test_a_step_is_padded_as_it_is_run_if_there_is_a_bucket():
    buckets = make_buckets(Role.BOTH, **LIMITS)
    assert [buckets.pad(*step) for step in ((2, 0), (0, 9), (2, 33), (4, 101), (21, 0))] == [
        *((4, 0), (0, 32), (16, 100), (4, 101), (21, 0))
    ]


def test_pages_are_padded_to_a_bucket():
    buckets = make_buckets(Role.DECODE, **LIMITS)
    assert [buckets.fit_pages(n) for n in (1, 2, 16, 17, 65, 70)] == [1, 4, 16, 64, 70, 70]
    with pytest.raises(ValueError, match="no bucket holds 71 pages"):
        buckets.fit_pages(71)


@pytest.mark.parametrize("role", Role)
def test_the_masks_of_any_step_fit_a_bucket(role: Role):
    buckets = make_buckets(role, **LIMITS)
    most = max(bucket.rows + bucket.chunks for bucket in buckets.steps)
    assert [buckets.fit_masks(n) >= n for n in range(1, most + 1)] == [True] * most
    assert buckets.masks[0] == 1
    assert buckets.masks[-1] == most


def test_what_fits_nowhere_is_an_error():
    with pytest.raises(ValueError, match="no bucket holds 21 rows and 0 tokens"):
        make_buckets(Role.DECODE, **LIMITS).fit(rows=21, tokens=0, chunks=0)
