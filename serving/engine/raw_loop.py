"""How is the compiled step driven without any scheduler around it? For measurements alone.

The loop is the worker's own: one step is always queued behind the one that runs, and every step's
ids are read back. What tokens say does not matter here, nor what pages held before.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.core.plan import Chunk, DecodeRows, LoadSlot, StepPlan
from serving.engine.executor_protocol import Executor
from serving.engine.programs import ExecutorSizes
from serving.messages import TaskId
from serving.request import GREEDY, TurnId

Tables = NDArray[np.int32]


def load_slots(executor: Executor, count: int) -> None:
    """Prepare the first `count` slots for greedy rows."""
    for slot in range(count):
        executor.load_slot(LoadSlot(slot, GREEDY, (), (), 0))


def own_pages(sizes: ExecutorSizes, lengths: Sequence[int]) -> Tables:
    """Give every row pages of its own for its tokens: page tables [rows, max_pages].

    Raises ValueError if the pool does not hold them.
    """
    tables = np.zeros((len(lengths), sizes.max_pages), np.int32)
    first = 1  # page 0 takes what padding writes
    for row, length in enumerate(lengths):
        behind = first + -(-length // sizes.page_size)
        tables[row, : behind - first] = np.arange(first, behind)
        first = behind
    if first > sizes.num_pages:
        raise ValueError(f"{first} pages are needed, the pool has {sizes.num_pages}")
    return tables


def make_plan(
    tables: Tables,
    position: int,
    reply_index: int,
    chunks: Sequence[Chunk],
    *,
    reads: bool = False,
) -> StepPlan:
    """Plan a step in which row r decodes at `position` in slot r, and chunks are prefilled.

    The fed token comes from the host at the start of a reply, then from the slot. `reads`: the
    length head is read, if there is one.
    """
    rows = len(tables)
    decode = DecodeRows(
        slot=np.arange(rows, dtype=np.int32),
        position=np.full(rows, position, np.int32),
        token=np.zeros(rows, np.int32),
        from_host=np.full(rows, reply_index == 0),
        reply_index=np.full(rows, reply_index, np.int32),
        pages=tables,
        kv_tokens=rows * (position + 1),
    )
    names = [TaskId(TurnId(str(number)), 0) for number in range(rows + len(chunks))]
    return StepPlan(
        decode, tuple(chunks), False, tuple(names[:rows]), tuple(names[rows:]), reads=reads
    )


def make_chunk(table: Tables, start: int, length: int) -> Chunk:
    """Plan a chunk of `length` tokens on the `start` that the pages of table [max_pages] hold.

    It does not end its prompt, so that it needs no slot; its step samples all the same.
    """
    return Chunk(
        slot=0,
        start=start,
        tokens=np.zeros(length, np.int32),
        sample=False,
        reply_index=0,
        pages=table,
        targets=None,
    )


def drive(executor: Executor, plans: Sequence[StepPlan]) -> None:
    """Run steps one behind the other and read what each sampled. Blocks until the last is done."""
    pending = executor.launch(plans[0])
    for plan in plans[1:]:
        behind = executor.launch(plan)
        executor.collect(pending)
        pending = behind
    executor.collect(pending)
