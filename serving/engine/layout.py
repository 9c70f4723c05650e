"""Where does each number of a step stand in the one int32 vector that carries them to the device?

One vector a step, because every further argument costs more than its bytes. Offsets depend on the
bucket alone, so inside the program each field is a static slice. Knows nothing of what the numbers
mean to the model.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from model.kv_pages import WRITE_OFF_PAGE
from serving.core.plan import StepPlan
from serving.engine.buckets import Bucket

Host = NDArray[np.int32]


class StepFields(NamedTuple):
    """The fields of a step, on the host or traced; R, C, N of the bucket, M pages a row."""

    decode_slot: Any  # [R]
    decode_position: Any  # [R]
    decode_token: Any  # [R]
    decode_from_host: Any  # [R]; 1: feed decode_token
    decode_reply_index: Any  # [R]
    decode_pages: Any  # [R, M]
    chunk_slot: Any  # [C]; the scratch slot unless the chunk samples
    chunk_reply_index: Any  # [C]
    chunk_len: Any  # [C]
    chunk_start: Any  # [C]
    chunk_pages: Any  # [C, M]
    tokens: Any  # [N]; of the chunks, back to back
    reads: Any  # [1]; 1: the length head is read


@dataclass(frozen=True)
class StepLayout:
    """The vector of one bucket. `scratch_slot` is where padding rows live."""

    bucket: Bucket
    max_pages: int
    scratch_slot: int

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of every field, in their order."""
        rows, tokens, chunks = self.bucket.rows, self.bucket.tokens, self.bucket.chunks
        row, chunk, token = (rows,), (chunks,), (tokens,)
        fields: list[tuple[int, ...]] = [row] * 5 + [(rows, self.max_pages)]
        fields += [chunk] * 4 + [(chunks, self.max_pages)] + [token, (1,)]
        return fields

    @property
    def size(self) -> int:
        """Numbers in the vector."""
        return sum(math.prod(shape) for shape in self.shapes)

    def split(self, packed: Host | jax.Array) -> StepFields:
        """Cut the vector into its fields; numpy fields are views."""
        fields: list[Any] = []
        start = 0
        for shape in self.shapes:
            size = math.prod(shape)
            fields.append(packed[start : start + size].reshape(shape))
            start += size
        return StepFields(*fields)

    def pack(self, plan: StepPlan) -> Host:
        """Write a plan into a fresh vector, which is then read-only.

        The device may read the vector's own memory for as long as the step runs: it must never be
        written again.
        """
        packed = np.zeros(self.size, np.int32)
        fields = self.split(packed)
        _fill_decode(fields, plan, self.scratch_slot)
        _fill_chunks(fields, plan, self.scratch_slot)
        fields.reads[0] = plan.reads or plan.samples_chunk
        packed.setflags(write=False)
        return packed


def _fill_decode(fields: StepFields, plan: StepPlan, scratch_slot: int) -> None:
    rows, num = plan.decode, plan.num_decode
    fields.decode_slot[:num] = rows.slot
    fields.decode_slot[num:] = scratch_slot
    fields.decode_position[:num] = rows.position
    fields.decode_token[:num] = rows.token
    fields.decode_from_host[:num] = rows.from_host
    fields.decode_reply_index[:num] = rows.reply_index
    fields.decode_pages[:num, : rows.pages.shape[1]] = rows.pages


def _fill_chunks(fields: StepFields, plan: StepPlan, scratch_slot: int) -> None:
    fields.chunk_slot[:] = scratch_slot
    at = 0
    for i, chunk in enumerate(plan.chunks):
        stop = at + len(chunk.tokens)
        if chunk.sample:
            fields.chunk_slot[i] = chunk.slot
        fields.chunk_reply_index[i] = chunk.reply_index
        fields.chunk_len[i] = len(chunk.tokens)
        fields.chunk_start[i] = chunk.start
        fields.chunk_pages[i, : len(chunk.pages)] = chunk.pages
        fields.tokens[at:stop] = chunk.tokens
        at = stop


assert WRITE_OFF_PAGE == 0  # padding entries of page tables are zeros
