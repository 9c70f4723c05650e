"""What does attention have to know of a step besides queries, keys and values?

A step runs T tokens, packed without padding between rows: first R decode tokens, one a row, then
the chunk segment of N tokens, in which up to C chunks stand back to back. A token attends to what
its row has in the pool (its *past*) and to the tokens of its own row in this step up to itself.

    tokens   | d0 d1 .. dR-1 | c0 c0 c0 c1 c2 c2 . . |      T = R + N, dots are padding
    past     position of d   | start of its chunk    |      how many tokens the row's pages hold

Knows nothing of slots, sampling or where token ids come from.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.kv_pages import WRITE_OFF_PAGE


class StepInputs(NamedTuple):
    """The rows of one step, all int32. Padding rows have position, length, start and pages 0.

    Every row's page table has M entries; entries that it does not need are 0. Padding chunks come
    after the real ones.
    """

    decode_position: jax.Array  # [R]; where the fed token stands, so also the length of its past
    decode_pages: jax.Array  # [R, M]
    chunk_len: jax.Array  # [C]; tokens of each chunk in this step
    chunk_start: jax.Array  # [C]; length of the chunk's past
    chunk_pages: jax.Array  # [C, M]


class Places(NamedTuple):
    """Where the T tokens of a step stand, all int32."""

    position: jax.Array  # [T]; 0 for padding
    page: jax.Array  # [T]; the page that a token's keys and values go to
    offset: jax.Array  # [T]; the position within that page
    chunk: jax.Array  # [N]; the chunk that a token of the chunk segment belongs to, C for padding


def chunk_offsets(inputs: StepInputs) -> jax.Array:
    """Return [C]: where each chunk begins within the chunk segment."""
    return jnp.cumsum(inputs.chunk_len) - inputs.chunk_len


def places(inputs: StepInputs, *, num_chunk_tokens: int, page_size: int) -> Places:
    """Work out every token's place from its row's."""
    entry = inputs.decode_position // page_size
    page = jnp.take_along_axis(inputs.decode_pages, entry[:, None], axis=1)[:, 0]
    if num_chunk_tokens == 0:
        chunk = jnp.zeros(0, jnp.int32)
        return Places(inputs.decode_position, page, inputs.decode_position % page_size, chunk)
    index = jnp.arange(num_chunk_tokens, dtype=jnp.int32)
    chunk = jnp.sum(index[:, None] >= jnp.cumsum(inputs.chunk_len), axis=1, dtype=jnp.int32)
    real = chunk < len(inputs.chunk_len)
    # Indices beyond the last chunk (padding) are clipped by the gathers and then thrown away.
    start = (inputs.chunk_start - chunk_offsets(inputs))[chunk]
    position = jnp.where(real, start + index, 0)
    chunk_page = jnp.where(real, inputs.chunk_pages[chunk, position // page_size], WRITE_OFF_PAGE)
    position = jnp.concatenate([inputs.decode_position, position])
    return Places(position, jnp.concatenate([page, chunk_page]), position % page_size, chunk)
