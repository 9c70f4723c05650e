"""Which program of a GPU kernel attends where? Even shares of all pasts, however skewed these are.

Queries stand in *query tiles*: a few consecutive tokens of one row. The positions that a tile sees
are cut into *key tiles*, and a run of those is a *piece*: what one program works through. One span
holds for all, chosen such that all tiles together make about as many pieces as the device runs
programs. So one long past beside many short ones is spread over many programs, and a batch of equal
pasts is not cut without need. The number of programs depends on shapes alone; those without a piece
exit at once. This is the idea of Flash-Decoding (split keys, combined by their log-sum-exp) with
the split chosen over the batch instead of row by row.

    row 0, 9 key tiles    [- - - -][- - - -][-]     span 4: three pieces
    row 1, 2 key tiles    [- -]                     one piece

Knows nothing of heads, pages or kernels.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from model.attention.inputs import StepInputs, chunk_offsets
from model.kv_pages import WRITE_OFF_PAGE

LEAST_SPAN = 2  # key tiles; a piece of one would be mostly set-up (ours, not measured)


class QueryTiles(NamedTuple):
    """Tiles of queries, int32; `tokens` is 0 for padding."""

    token: jax.Array  # [Q]; the first token, counted within the segment
    tokens: jax.Array  # [Q]; how many tokens
    position: jax.Array  # [Q]; where the first token stands in its row
    row: jax.Array  # [Q]; the page table to look in


class Work(NamedTuple):
    """What the programs do, int32."""

    pieces: jax.Array  # [N, 8]; token, tokens, position, row, first key tile, end, parts, part
    tiles: jax.Array  # [Q, 4]; token, tokens, parts, first part

    # `parts` is how many pieces a tile has been cut into, 0 for padding. Where there are several,
    # each leaves a partial result at its `part`.


def decode_tiles(inputs: StepInputs) -> QueryTiles:
    """Return one tile a decode row."""
    # A row without a past has position 0 as padding has, but a page to write to.
    real = inputs.decode_pages[:, 0] != WRITE_OFF_PAGE
    index = jnp.arange(len(real), dtype=jnp.int32)
    return QueryTiles(index, real.astype(jnp.int32), inputs.decode_position, index)


def chunk_tiles(inputs: StepInputs, *, num_chunk_tokens: int, tile: int) -> QueryTiles:
    """Cut every chunk into tiles of `tile` tokens, the last one shorter."""
    num_chunks = len(inputs.chunk_len)
    index = jnp.arange(-(-num_chunk_tokens // tile) + num_chunks, dtype=jnp.int32)
    ends = jnp.cumsum((inputs.chunk_len + tile - 1) // tile)
    chunk = jnp.minimum(_owner(ends, index), num_chunks - 1)
    before = ends[chunk] - (inputs.chunk_len[chunk] + tile - 1) // tile
    skipped = (index - before) * tile
    tokens = jnp.clip(inputs.chunk_len[chunk] - skipped, 0, tile)
    return QueryTiles(
        token=chunk_offsets(inputs)[chunk] + skipped,
        tokens=jnp.where(index < ends[-1], tokens, 0),
        position=inputs.chunk_start[chunk] + skipped,
        row=chunk,
    )


def most_parts(programs: int) -> int:
    """Return how many partial results there can be: `share` shows that it is enough."""
    return 2 * programs


def share(tiles: QueryTiles, *, key_tile: int, window: int | None, programs: int) -> Work:
    """Share the key tiles of all query tiles among `programs` pieces, and one more a query tile.

    A query sees `window` positions, itself included; None sees all.
    """
    none = tiles.tokens == 0
    end = jnp.where(none, 0, (tiles.position + tiles.tokens + key_tile - 1) // key_tile)
    begin = jnp.zeros_like(end)
    if window is not None:
        begin = jnp.where(none, 0, jnp.maximum(tiles.position - window + 1, 0) // key_tile)
    count = end - begin
    span = jnp.maximum((jnp.sum(count) + programs - 1) // programs, LEAST_SPAN)
    # At most count / span + 1 pieces a tile: `programs` of them together, and one a tile. A tile
    # of several has more key tiles than a span, so that its pieces are fewer than 2 count / span.
    parts = (count + span - 1) // span
    several = jnp.where(parts > 1, parts, 0)
    first_part = jnp.cumsum(several) - several

    index = jnp.arange(programs + len(parts), dtype=jnp.int32)
    ends = jnp.cumsum(parts)
    owner = jnp.minimum(_owner(ends, index), len(parts) - 1)
    nth = index - (ends - parts)[owner]
    first = begin[owner] + nth * span
    last = jnp.minimum(first + span, end[owner])
    fields = (
        *(x[owner] for x in tiles),
        first,
        jnp.where(index < ends[-1], last, first),
        parts[owner],
        first_part[owner] + nth,
    )
    return Work(
        jnp.stack(fields, axis=1).astype(jnp.int32),
        jnp.stack([tiles.token, tiles.tokens, parts, first_part], axis=1).astype(jnp.int32),
    )


def _owner(ends: Int[Array, " n"], index: Int[Array, " m"]) -> Int[Array, " m"]:
    """Return for each index the first entry of `ends` that is larger; n if there is none."""
    return jnp.sum(index[:, None] >= ends, axis=1, dtype=jnp.int32)
