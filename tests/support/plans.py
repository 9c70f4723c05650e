"""Make plans by hand, and drive an executor row by row, for tests of the compiled step."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from serving.core.plan import Chunk, DecodeRows, StepPlan
from serving.messages import TaskId
from serving.request import TurnId
from tests.support.turns import SAMPLING

NEUTRAL = replace(SAMPLING, max_tokens=1000, temperature=0.0)


def table(pages: Sequence[int], max_pages: int) -> np.ndarray:
    return np.array([*pages, *[0] * (max_pages - len(pages))], np.int32)


def chunk(slot, start, tokens, pages, *, sample=True, reply_index=0, targets=None) -> Chunk:
    return Chunk(
        slot=slot,
        start=start,
        tokens=np.array(tokens, np.int32),
        sample=sample,
        reply_index=reply_index,
        pages=pages,
        targets=None if targets is None else np.array(targets, np.int32),
    )


def row(slot, position, pages, *, reply_index, token=None):
    """One decode row, as the tuple that `plan` takes."""
    return slot, position, pages, reply_index, token


def plan(rows=(), chunks=(), *, max_pages, logprobs=False, reads=False) -> StepPlan:
    """A step of rows made by `row` and chunks made by `chunk`."""
    names = [TaskId(TurnId(str(i)), 0) for i in range(len(rows) + len(chunks))]
    pages = [r[2] for r in rows] or np.zeros((0, max_pages))
    return StepPlan(
        decode=DecodeRows(
            slot=np.array([r[0] for r in rows], np.int32),
            position=np.array([r[1] for r in rows], np.int32),
            token=np.array([r[4] or 0 for r in rows], np.int32),
            from_host=np.array([r[4] is not None for r in rows], np.bool_),
            reply_index=np.array([r[3] for r in rows], np.int32),
            pages=np.array(pages, np.int32),
            kv_tokens=sum(r[1] + 1 for r in rows),
        ),
        chunks=tuple(chunks),
        logprobs=logprobs,
        decode_tasks=tuple(names[: len(rows)]),
        chunk_tasks=tuple(names[len(rows) :]),
        reads=reads,
    )
