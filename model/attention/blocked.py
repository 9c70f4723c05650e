"""How is paged attention computed on any platform, at a cost that follows the real lengths?

The past is read in blocks of whole pages by loops whose trip counts are data, so one program serves
every context length: a few decode rows together, up to the longest of them; chunks one after the
other, each up to its own length. A row's result depends neither on its neighbours nor on how long
they are.
"""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from model.attention.inputs import Places, StepInputs, chunk_offsets
from model.attention.softmax import Running

BLOCK_POSITIONS = 64  # positions of the past per iteration
ROW_TILE = 8  # decode rows that attend to a block together: up to their longest, none for padding
QUERY_TILE = 64  # queries of one chunk that attend to its past at once
CHUNK_TILE = 256  # queries that attend to the chunk segment at once


class Past:
    """One layer's pool, cut into the blocks that page tables [..., M] name."""

    def __init__(
        self, pool: jax.Array, layer: jax.Array, *, read_as: DTypeLike, window: int | None
    ) -> None:
        """Look at one layer of pool [L, P, 2, K, size, H] without copying it."""
        self._read_as = read_as
        layers, pages, _, self.heads, self.page_size, self.head_dim = pool.shape
        self._head_pages = pool.reshape(layers * pages * 2 * self.heads, -1)
        self._first_page = layer * pages
        self.window = window
        self.pages_per_block = max(1, BLOCK_POSITIONS // self.page_size)
        self.block = self.pages_per_block * self.page_size

    def padded(self, tables: Int[Array, "*row M"]) -> Int[Array, "*row padded"]:
        """Append write-off pages, so that a table is a whole number of blocks."""
        missing = -tables.shape[-1] % self.pages_per_block
        return jnp.pad(tables, [(0, 0)] * (tables.ndim - 1) + [(0, missing)])

    def span(self, query: jax.Array, length: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the first block and the one after the last that any of these queries sees.

        `query` holds positions and `length` the pasts' lengths; rows without a past do not count.
        """
        last = (jnp.max(length) + self.block - 1) // self.block
        if self.window is None:
            return jnp.int32(0), last
        oldest = jnp.where(length > 0, jnp.maximum(query - self.window + 1, 0), length.max())
        return jnp.min(oldest) // self.block, last

    def read(
        self, tables: Int[Array, "*row M"], index: Int[Array, ""]
    ) -> tuple[Float[Array, "*row K S H"], Float[Array, "*row K S H"]]:
        """Copy block `index` of every row: its keys and its values, head-major."""
        at = index * self.pages_per_block
        pages = jax.lax.dynamic_slice_in_dim(tables, at, self.pages_per_block, tables.ndim - 1)
        first = (self._first_page + pages)[..., None, :] * (2 * self.heads)
        keys = first + jnp.arange(self.heads, dtype=jnp.int32)[:, None]
        shape = (*tables.shape[:-1], self.heads, self.block, self.head_dim)

        def copy() -> tuple[jax.Array, jax.Array]:
            k = self._head_pages.at[keys].get(mode="promise_in_bounds")
            v = self._head_pages.at[keys + self.heads].get(mode="promise_in_bounds")
            return k, v

        # The condition always holds. It keeps XLA from fusing the reshape into the copy, which
        # would then run over one position at a time instead of a whole page: on a CPU, a decode
        # step's attention took 1.6 to 1.8 times as long without it.
        empty = jax.eval_shape(copy)
        k, v = jax.lax.cond(
            index >= 0, copy, lambda: tuple(jnp.zeros(x.shape, x.dtype) for x in empty)
        )
        return k.reshape(shape).astype(self._read_as), v.reshape(shape).astype(self._read_as)

    def hide(
        self, scores: jax.Array, index: jax.Array, query: jax.Array, length: jax.Array
    ) -> jax.Array:
        """Set scores [..., S] of block `index` to -inf where the query may not look.

        `query` and `length` broadcast against the scores without their last axis.
        """
        key = index * self.block + jnp.arange(self.block, dtype=jnp.int32)
        seen = key < length[..., None]
        if self.window is not None:
            seen &= query[..., None] - key < self.window
        return jnp.where(seen, scores, -jnp.inf)


def attention(
    past: Past,
    q: Float[Array, "T K G H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    inputs: StepInputs,
    places: Places,
) -> Float[Array, "T K G H"]:
    """Attend from every token to its row's past and to its row's tokens of this step."""
    rows = len(inputs.decode_position)
    parts = []
    if rows:
        with jax.named_scope("decode"):
            parts.append(_decode(past, q[:rows], k[:rows], v[:rows], inputs))
    if len(places.chunk):
        with jax.named_scope("chunks"):
            parts.append(_chunks(past, q[rows:], k[rows:], v[rows:], inputs, places))
    return parts[0] if len(parts) == 1 else jnp.concatenate(parts)


def _scaled(q: jax.Array) -> jax.Array:
    """Scale queries by H ** -0.5 in float32, and return their dtype."""
    return (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)


def _dot(spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Contract in y's dtype with float32 sums."""
    return jnp.einsum(spec, x.astype(y.dtype), y, preferred_element_type=jnp.float32)


def _decode(
    past: Past,
    q: Float[Array, "R K G H"],
    k: Float[Array, "R K H"],
    v: Float[Array, "R K H"],
    inputs: StepInputs,
) -> Float[Array, "R K G H"]:
    """Attend from one token a row; the token itself is the first key it sees."""
    rows = len(q)
    scaled = _scaled(q)
    own = _dot("rkgh,rkh->rkg", scaled, k)
    values = jnp.broadcast_to(v[:, :, None].astype(jnp.float32), q.shape)
    running = Running(own, jnp.ones_like(own), values)
    tile = min(rows, ROW_TILE)
    # What fills the last tile up has no past, and is cut off in the end.
    scaled, lengths, tables, running = jax.tree.map(
        lambda x: jnp.pad(x, [(0, -rows % tile)] + [(0, 0)] * (x.ndim - 1)),
        (scaled, inputs.decode_position, past.padded(inputs.decode_pages), running),
    )

    def one_tile(number: jax.Array, running: Running) -> Running:
        start = number * tile

        def cut(x: jax.Array) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(x, start, tile)

        queries, table, length = cut(scaled), cut(tables), cut(lengths)
        position = length[:, None, None]

        def block(index: jax.Array, state: Running) -> Running:
            keys, values = past.read(table, index)
            scores = past.hide(_dot("rkgh,rksh->rkgs", queries, keys), index, position, position)
            return state.add(scores, lambda weights: _dot("rkgs,rksh->rkgh", weights, values))

        first, last = past.span(length, length)
        after = jax.lax.fori_loop(first, last, block, jax.tree.map(cut, running))
        return jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, start, 0), running, after
        )

    if tile == rows:
        running = one_tile(jnp.int32(0), running)
    else:
        ends = jnp.where(lengths > 0, jnp.arange(1, len(lengths) + 1, dtype=jnp.int32), 0)
        running = jax.lax.fori_loop(0, (jnp.max(ends) + tile - 1) // tile, one_tile, running)
    return Running(*(x[:rows] for x in running)).result().astype(q.dtype)


def _chunks(
    past: Past,
    q: Float[Array, "N K G H"],
    k: Float[Array, "N K H"],
    v: Float[Array, "N K H"],
    inputs: StepInputs,
    places: Places,
) -> Float[Array, "N K G H"]:
    """Attend from the chunk segment: first within it, then chunk by chunk to the pasts."""
    scaled = jnp.moveaxis(_scaled(q), 0, 2)  # [K, G, N, H]
    keys, values = jnp.moveaxis(k, 0, 1), jnp.moveaxis(v, 0, 1)  # [K, N, H]
    running = _within(scaled, keys, values, places.chunk, past.window)
    running = _pasts(past, scaled, running, inputs)
    return jnp.moveaxis(running.result(), 2, 0).astype(q.dtype)


def _within(
    q: Float[Array, "K G N H"],
    k: Float[Array, "K N H"],
    v: Float[Array, "K N H"],
    chunk: Int[Array, " N"],
    window: int | None,
) -> Running:
    """Attend from every token of the chunk segment to its own chunk's, itself included."""
    num = len(chunk)
    tile = min(num, CHUNK_TILE)
    index = jnp.arange(num, dtype=jnp.int32)
    # What fills the last tile up attends like the segment's last token, and is cut off in the end.
    padding = -num % tile
    queries = jnp.pad(q, ((0, 0), (0, 0), (0, padding), (0, 0)))
    owners = jnp.pad(chunk, (0, padding), mode="edge")

    def attend(start: jax.Array) -> Running:
        mine = start + jnp.arange(tile, dtype=jnp.int32)
        seen = (owners[mine][:, None] == chunk) & (mine[:, None] >= index)
        if window is not None:
            seen &= mine[:, None] - index < window
        rows = jax.lax.dynamic_slice_in_dim(queries, start, tile, 2)
        scores = jnp.where(seen, _dot("kgnh,ksh->kgns", rows, k), -jnp.inf)
        best = jnp.max(scores, axis=-1)
        weights = jnp.exp(scores - best[..., None])
        return Running(best, jnp.sum(weights, axis=-1), _dot("kgns,ksh->kgnh", weights, v))

    if tile == num:
        return attend(jnp.int32(0))
    tiles = jax.lax.map(attend, jnp.arange(0, num, tile, dtype=jnp.int32))

    def joined(x: jax.Array) -> jax.Array:  # [tiles, K, G, tile, ...] -> [K, G, N, ...]
        x = jnp.moveaxis(x, 0, 2)
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])[:, :, :num]

    return Running(*map(joined, tiles))


def _pasts(past: Past, q: Float[Array, "K G N H"], running: Running, inputs: StepInputs) -> Running:
    """Add every chunk's past, a tile of its queries at a time."""
    num = q.shape[2]
    tile = min(num, QUERY_TILE)
    tables = past.padded(inputs.chunk_pages)
    offsets = chunk_offsets(inputs)

    def one_tile(number: jax.Array, chunk: jax.Array, running: Running) -> Running:
        length = inputs.chunk_start[chunk]
        # The last tile of the segment may begin earlier than asked, so that it stays inside;
        # queries that are not this tile's keep what they have.
        wanted = offsets[chunk] + number * tile
        start = jnp.minimum(wanted, num - tile)
        index = start + jnp.arange(tile, dtype=jnp.int32)
        mine = (index >= wanted) & (index < offsets[chunk] + inputs.chunk_len[chunk])
        rows = jax.lax.dynamic_slice_in_dim(q, start, tile, 2)
        before = Running(*(jax.lax.dynamic_slice_in_dim(x, start, tile, 2) for x in running))
        position = length + index - offsets[chunk]

        def block(index: jax.Array, state: Running) -> Running:
            keys, values = past.read(tables[chunk], index)
            scores = past.hide(_dot("kgnh,ksh->kgns", rows, keys), index, position, length[None])
            return state.add(scores, lambda weights: _dot("kgns,ksh->kgnh", weights, values))

        first, last = past.span(jnp.min(jnp.where(mine, position, position[-1])), length)
        after = jax.lax.fori_loop(first, last, block, before)
        kept = (
            jnp.where(mine.reshape(-1, *[1] * (x.ndim - 3)), x, y)
            for x, y in zip(after, before, strict=True)
        )
        return Running(
            *(
                jax.lax.dynamic_update_slice_in_dim(x, y, start, 2)
                for x, y in zip(running, kept, strict=True)
            )
        )

    def one_chunk(chunk: jax.Array, running: Running) -> Running:
        tiles = jnp.where(
            inputs.chunk_start[chunk] > 0, (inputs.chunk_len[chunk] + tile - 1) // tile, 0
        )
        return jax.lax.fori_loop(0, tiles, lambda i, state: one_tile(i, chunk, state), running)

    real = jnp.sum(inputs.chunk_len > 0, dtype=jnp.int32)
    return jax.lax.fori_loop(0, real, one_chunk, running)
