"""What does a worker's executor have to do next? The values between a batcher and its executor.

Knows nothing of devices: numpy arrays and ids. An executor carries commands out in the order given;
each sees the effects of those before it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.messages import (
    DEAD_END,
    NOT_FINITE,
    Decision,
    Event,
    TaskId,
    ToWorker,
    TransferId,
    WorkerId,
)
from serving.request import SamplingParams, TokenLogprobs


@dataclass(frozen=True, slots=True)
class LoadSlot:
    """Prepare a slot for a row: its sampling, and the history that penalties look at.

    `turn_number` is for the length head: the replies before it in its conversation.

    Must come before the first step that uses the slot for this row. It may come again as the reply
    grows elsewhere.
    """

    slot: int
    sampling: SamplingParams
    prompt: tuple[int, ...]
    reply: tuple[int, ...]
    turn_number: int


@dataclass(frozen=True, slots=True)
class SendPages:
    """Copy these pages of this worker's pool to worker `to`; what was written before is in them.

    `slot` is set with the last pages of a row that decodes on there: what the length head remembers
    of it, as the steps launched before leave it, is copied with them.
    """

    transfer: TransferId
    task: TaskId
    pages: tuple[int, ...]
    to: WorkerId
    slot: int | None


@dataclass(frozen=True, slots=True)
class ReceivePages:
    """Write the pages of a transfer that has arrived into these pages of this worker's pool.

    `slot` is that of a row which is whole with them, and decodes here: what the length head
    remembers of it, if that came, is written there.
    """

    transfer: TransferId
    task: TaskId
    pages: tuple[int, ...]
    slot: int | None


@dataclass(frozen=True, slots=True)
class DropTransfer:
    """A transfer that has arrived is not wanted any more: let go of its payload."""

    transfer: TransferId


@dataclass(frozen=True, slots=True)
class OffloadPages:
    """Copy pages of this worker's pool to slots of its host memory, before they change."""

    pages: tuple[int, ...]
    host_slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FetchPages:
    """Copy slots of host memory into a payload for this worker itself, as if a peer sent it."""

    transfer: TransferId
    task: TaskId
    host_slots: tuple[int, ...]


Command = LoadSlot | SendPages | ReceivePages | DropTransfer | OffloadPages | FetchPages


# What is made anew for every step is a NamedTuple: a frozen dataclass takes four times as long.


class DecodeRows(NamedTuple):
    """The rows that decode one token each in a step; arrays are aligned, one entry a row.

    `position` is where the fed token stands (its KV is written there; it then attends to
    position + 1 tokens). The fed token is the one the slot sampled last, unless `from_host` is set:
    then it is `token`, as it always is where there is a grammar. `reply_index` is the place in the
    reply of the token sampled now.
    `pages[i]` is the row's page table, padded with 0. `kv_tokens` are the tokens that all rows
    attend to together. While the same rows go on, `slot` is the same array.
    """

    slot: NDArray[np.int32]
    position: NDArray[np.int32]
    token: NDArray[np.int32]
    from_host: NDArray[np.bool_]
    reply_index: NDArray[np.int32]
    pages: NDArray[np.int32]
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one task, prefilled on top of the `start` tokens whose KV its pages hold.

    With `sample` the chunk ends the prompt and one token is sampled into `slot`.
    `pages` is the task's page table, padded with 0. With `targets` (one a token: its successor in
    the prompt) the step also scores each target.
    """

    slot: int
    start: int
    tokens: NDArray[np.int32]
    sample: bool
    reply_index: int
    pages: NDArray[np.int32]
    targets: NDArray[np.int32] | None


class StepPlan(NamedTuple):
    """One step: rows that decode, then chunks that prefill. Never empty.

    `logprobs`: some row wants log-probabilities, so they are worth reading back.
    `decode_tasks` and `chunk_tasks` name the rows for `Batcher.complete`, in order. `reads`: the
    length head is to be read for all rows that decode; for chunks that sample it always is.
    """

    decode: DecodeRows
    chunks: tuple[Chunk, ...]
    logprobs: bool
    decode_tasks: tuple[TaskId, ...]
    chunk_tasks: tuple[TaskId, ...]
    reads: bool

    @property
    def num_decode(self) -> int:
        """Rows that decode."""
        return len(self.decode_tasks)

    @property
    def samples_chunk(self) -> bool:
        """Whether a chunk ends its prompt."""
        return any(chunk.sample for chunk in self.chunks)

    @property
    def num_new_tokens(self) -> int:
        """Tokens run through the model."""
        return self.num_decode + sum(len(chunk.tokens) for chunk in self.chunks)


class StepResult(NamedTuple):
    """What a step sampled.

    `decode_ids[i]` belongs to the plan's i-th decode row, `chunk_ids[j]` to its j-th chunk (without
    meaning where the chunk does not sample). Log-probabilities are present if the plan asked.
    `prompt_logprobs[j]` scores chunk j's targets, one a token, for chunks that have targets.
    `decode_readings` [num_decode, E] and `chunk_readings` [chunks, E] are the length head's: the
    chance that more tokens than each of the first `EDGES` are still to come, the sampled one
    included. Present if there is a head and the plan asked, and of chunks if one samples.
    `broken_rows` and `broken_chunks` are indices of those that computed something that is no number
    (NaN or infinite): what they sampled means nothing, nor does the KV that they wrote.
    `stuck_rows` and `stuck_chunks` are those whose grammar left nothing to sample.
    """

    decode_ids: list[int]
    chunk_ids: list[int]
    decode_logprobs: list[TokenLogprobs] | None
    chunk_logprobs: list[TokenLogprobs] | None
    prompt_logprobs: dict[int, tuple[TokenLogprobs, ...]]
    decode_readings: NDArray[np.float32] | None = None
    chunk_readings: NDArray[np.float32] | None = None
    broken_rows: tuple[int, ...] = ()
    broken_chunks: tuple[int, ...] = ()
    stuck_rows: tuple[int, ...] = ()
    stuck_chunks: tuple[int, ...] = ()

    @property
    def failed(self) -> Sequence[tuple[str, tuple[int, ...], tuple[int, ...]]]:
        """List the rows and chunks whose samples mean nothing, with why."""
        by_reason = (
            (NOT_FINITE, self.broken_rows, self.broken_chunks),
            (DEAD_END, self.stuck_rows, self.stuck_chunks),
        )
        return [failed for failed in by_reason if failed[1] or failed[2]]


class Launch(NamedTuple):
    """Dispatch a step now: after the commands before it, before those behind it."""

    plan: StepPlan


Output = Command | Launch | Event | ToWorker | Decision
