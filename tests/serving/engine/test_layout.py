import numpy as np
import pytest

from serving.engine.buckets import Bucket
from serving.engine.layout import StepLayout
from tests.support.plans import chunk, plan, row, table

LAYOUT = StepLayout(Bucket(rows=3, tokens=8, chunks=2), max_pages=4, scratch_slot=9)
PLAN = plan(
    [row(5, 6, table([1, 2], 4), reply_index=3), row(2, 0, table([3], 4), reply_index=0, token=44)],
    [chunk(7, 4, [10, 11, 12], table([6, 8], 4), targets=[11, 12, 13], sample=False)],
    max_pages=4,
    logprobs=True,
)


def test_every_field_arrives_and_padding_is_harmless():
    fields = LAYOUT.split(LAYOUT.pack(PLAN))
    assert fields.decode_slot.tolist() == [5, 2, 9]
    assert fields.decode_position.tolist() == [6, 0, 0]
    assert fields.decode_token.tolist() == [0, 44, 0]
    assert fields.decode_from_host.tolist() == [0, 1, 0]
    assert fields.decode_reply_index.tolist() == [3, 0, 0]
    assert fields.decode_pages.tolist() == [[1, 2, 0, 0], [3, 0, 0, 0], [0] * 4]
    assert fields.chunk_slot.tolist() == [9, 9], "a chunk that does not sample writes no slot"
    assert fields.chunk_len.tolist() == [3, 0]
    assert fields.chunk_start.tolist() == [4, 0]
    assert fields.chunk_pages.tolist() == [[6, 8, 0, 0], [0] * 4]
    assert fields.tokens.tolist() == [10, 11, 12, 0, 0, 0, 0, 0]
    assert fields.reads.tolist() == [0]


def test_a_vector_is_never_written_twice():
    first, second = LAYOUT.pack(PLAN), LAYOUT.pack(PLAN)
    assert not np.shares_memory(first, second)
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
