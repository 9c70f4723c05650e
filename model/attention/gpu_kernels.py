"""What does the GPU run in a layer? Three Pallas kernels: write, attend, combine.

    write     stores the step's new keys and values in their pages, in place
    attend    one piece of `gpu_work`: a tile of queries against a run of key tiles, read from the
              pages; its result, or the partial one if the tile has several pieces
    combine   merges the partial results of a tile by their log-sum-exp

Everything is addressed by rows of H numbers: a pool [L, P, 2, K, size, H] is L * P * 2 * K * size
such rows, queries and results [T, K, G, H] are T * K * G. So pages may have any size. Softmax and
sums are float32; scores count in powers of two, because that is what the hardware has. Nothing that
is masked is ever read from a page: positions beyond a row's last are read as that one, so that what
an earlier owner left there, be it NaN, does not matter.

Written for Pallas' Triton compiler, which JAX has deprecated since 0.11: it is what runs without
further packages, in command buffers, and can be interpreted on a CPU.
"""

from functools import partial
from math import e, log2
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

from model.attention.gpu_work import QueryTiles, Work, most_parts, share
from model.attention.inputs import Places
from model.kv_pages import kept

LOWEST = -1e30  # a finite start of the running maximum: exp2(LOWEST - LOWEST) is 1, not NaN
WRITE_TOKENS = 16  # tokens per program of the write
COMBINED_ROWS = 8  # of a query tile, per program of the combine
COMBINED = 4096  # numbers of partial results that a program of the combine holds at once
KEY_TILE_BYTES = 16 * 1024
"""Of the keys of a tile, and as much of values, as they are multiplied: fp8 is widened for that."""
MOST_KEYS = 128  # positions of a key tile
QUERY_TILE_NUMBERS = 16 * 1024  # float32 sums of a query tile: 64 KiB of a program's registers
MOST_ROWS = 128  # of a query tile
MATRIX_ROWS = 16  # the least that a matrix unit takes
MOST_GROUP = QUERY_TILE_NUMBERS // 256  # with the largest head size


class Shape(NamedTuple):
    """The sizes of the attention of one segment."""

    heads: int  # K, of this shard
    group: int  # G
    head_dim: int
    page_size: int
    pages: int  # P, of one layer
    tokens: int  # of a query tile
    key_tile: int  # positions
    window: int | None

    @classmethod
    def of(cls, pool: jax.Array, *, group: int, tokens: int, window: int | None) -> "Shape":
        """Choose tiles for a segment in which up to `tokens` tokens of a row stand together."""
        _, pages, _, heads, page_size, head_dim = pool.shape
        keys = KEY_TILE_BYTES // (head_dim * max(2, pool.dtype.itemsize))
        rows = min(MOST_ROWS, QUERY_TILE_NUMBERS // head_dim)
        return cls(
            heads,
            group,
            head_dim,
            page_size,
            pages,
            tokens=max(1, min(rows // power_of_two(group), power_of_two(tokens))),
            key_tile=min(MOST_KEYS, keys),
            window=window,
        )

    @property
    def padded_group(self) -> int:
        """G, rounded up to a power of two."""
        return power_of_two(self.group)

    @property
    def used_rows(self) -> int:
        """Rows of a query tile that may hold a query: tokens times padded group."""
        return self.tokens * self.padded_group

    @property
    def rows(self) -> int:
        """Rows of a query tile as it is computed."""
        return max(MATRIX_ROWS, self.used_rows)


class Segment(NamedTuple):
    """The tokens of a step that are attended for by one call, and the work of it."""

    shape: Shape
    tables: jax.Array  # [R, M]
    work: Work
    most_parts: int

    @classmethod
    def of(cls, shape: Shape, tiles: QueryTiles, tables: jax.Array, programs: int) -> "Segment":
        """Share the work of these query tiles, whose rows have these page tables."""
        work = share(tiles, key_tile=shape.key_tile, window=shape.window, programs=programs)
        return cls(shape, tables, work, most_parts(programs))


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is at least `number`."""
    return 1 << (number - 1).bit_length()


def write(
    pool: jax.Array,
    layer: jax.Array,
    k: jax.Array,
    v: jax.Array,
    places: Places,
    *,
    interpret: bool,
) -> jax.Array:
    """Store k, v [T, K, H] at their places in one layer of pool [L, P, 2, K, size, H].

    The pool is updated in place: the caller's array must not be used again.
    """
    _, pages, _, heads, page_size, head_dim = pool.shape
    num = len(places.page)
    kernel = partial(_write, num=num, heads=heads, pages=pages, page_size=page_size)
    rows = pool.reshape(-1, head_dim)
    after = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(num, WRITE_TOKENS), heads),
        out_shape=jax.ShapeDtypeStruct(rows.shape, rows.dtype),
        input_output_aliases={5: 0},
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="write_kv",
    )(
        layer.reshape(1),
        places.page,
        places.offset,
        kept(k, pool.dtype).reshape(-1, head_dim),
        kept(v, pool.dtype).reshape(-1, head_dim),
        rows,
    )
    return after.reshape(pool.shape)


def _write(  # noqa: PLR0913 - a kernel takes its arrays one by one
    layer_ref: Any,
    page_ref: Any,
    offset_ref: Any,
    k_ref: Any,
    v_ref: Any,
    _: Any,
    pool_ref: Any,
    *,
    num: int,
    heads: int,
    pages: int,
    page_size: int,
) -> None:
    token = pl.program_id(0) * WRITE_TOKENS + jnp.arange(WRITE_TOKENS, dtype=jnp.int32)
    head = pl.program_id(1)
    real = token < num
    token = jnp.minimum(token, num - 1)
    page = layer_ref[0] * pages + page_ref[token]
    row = (page * (2 * heads) + head) * page_size + offset_ref[token]
    for source, at in ((k_ref, row), (v_ref, row + heads * page_size)):
        _store_rows(pool_ref, at, source[token * heads + head, :], real)


def _store_rows(ref: Any, row: jax.Array, values: jax.Array, real: jax.Array) -> None:
    """Store values [M, H] at rows [M] of ref [N, H], those that are real."""
    row = jnp.where(real, row, ref.shape[0])
    index = jax.lax.broadcast_in_dim(row, values.shape, (0,))
    column = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
    mask = jax.lax.broadcast_in_dim(real, values.shape, (0,))
    plgpu.store(ref.at[index, column], values.astype(ref.dtype), mask=mask)


def attend_segment(
    pool: jax.Array, layer: jax.Array, q: jax.Array, segment: Segment, *, interpret: bool
) -> jax.Array:
    """Attend from q [T, K, G, H] of one segment to the pages of its rows; returns the like.

    The tokens' own keys and values have been written. Tokens of no query tile get zeros.
    """
    shape, tables, work, most_parts = segment
    head_dim = shape.head_dim
    rows = jax.ShapeDtypeStruct((q.size // head_dim, head_dim), q.dtype)
    partials = (shape.heads, most_parts, shape.rows)
    out, *parts = pl.pallas_call(
        partial(_attend, shape=shape),
        grid=(len(work.pieces), shape.heads),
        out_shape=[
            rows,
            jax.ShapeDtypeStruct((shape.heads * most_parts * shape.rows, head_dim), jnp.float32),
            jax.ShapeDtypeStruct(partials, jnp.float32),
            jax.ShapeDtypeStruct(partials, jnp.float32),
        ],
        input_output_aliases={5: 0},
        compiler_params=_attend_params(shape),
        interpret=interpret,
        name="attend",
    )(
        work.pieces,
        layer.reshape(1),
        tables,
        q.reshape(rows.shape),
        pool.reshape(-1, head_dim),
        jnp.zeros(rows.shape, rows.dtype),
    )
    return _combined(out, parts, segment, interpret=interpret).reshape(q.shape)


def _attend_params(shape: Shape) -> plgpu.CompilerParams:
    """Choose warps, such that sums fit into registers, and how far ahead pages are fetched.

    Fetching keys takes two stages, of which the first fetches page ids. Small tiles wait for
    memory, so that they get two more: keys and values are then fetched two tiles ahead. Compiled
    for an H100, nothing spills registers in bfloat16; float32 does, which has no matrix unit.
    """
    large = shape.rows * shape.head_dim >= QUERY_TILE_NUMBERS
    return plgpu.CompilerParams(num_warps=8 if large else 4, num_stages=3 if large else 5)


def _attend(  # noqa: PLR0913 - a kernel takes its arrays one by one
    work_ref: Any,
    layer_ref: Any,
    tables_ref: Any,
    q_ref: Any,
    pool_ref: Any,
    _: Any,
    out_ref: Any,
    sum_ref: Any,
    best_ref: Any,
    total_ref: Any,
    *,
    shape: Shape,
) -> None:
    nth, head = pl.program_id(0), pl.program_id(1)
    first, end = work_ref[nth, 4], work_ref[nth, 5]

    @pl.when(first < end)
    def _() -> None:
        token, tokens, position, row = (work_ref[nth, i] for i in range(4))
        rows = jnp.arange(shape.rows, dtype=jnp.int32)
        own, group, query_row = _queries(shape, head, token, rows)
        real = (own < tokens) & (group < shape.group)
        # A row of the tile that is none repeats a real one; its result is not stored.
        q = q_ref[jnp.where(real, query_row, (token * shape.heads + head) * shape.group), :]
        scale = shape.head_dim**-0.5 * log2(e)
        last = position + tokens - 1  # nobody in this tile looks further
        page_rows = 2 * shape.heads * shape.page_size
        in_pool = layer_ref[0] * shape.pages

        def key_tile(index: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            best, total, weighted = state
            key = index * shape.key_tile + jnp.arange(shape.key_tile, dtype=jnp.int32)
            there = jnp.minimum(key, last)
            page = in_pool + tables_ref[row, jax.lax.div(there, shape.page_size)]
            at = page * page_rows + head * shape.page_size + jax.lax.rem(there, shape.page_size)
            k = pool_ref[at, :]
            v = pool_ref[at + shape.heads * shape.page_size, :]
            distance = (position + own)[:, None] - key[None, :]
            seen = distance >= 0
            if shape.window is not None:
                seen &= distance < shape.window
            scores = jnp.where(seen, _dot(q, k.astype(q.dtype).T) * scale, -jnp.inf)
            newest = jnp.maximum(best, jnp.max(scores, axis=1))
            weights = jnp.exp2(scores - newest[:, None])
            fade = jnp.exp2(best - newest)
            return (
                newest,
                total * fade + jnp.sum(weights, axis=1),
                weighted * fade[:, None] + _dot(weights.astype(q.dtype), v.astype(q.dtype)),
            )

        nothing = jnp.zeros(shape.rows, jnp.float32)
        state = (nothing + LOWEST, nothing, jnp.zeros((shape.rows, shape.head_dim), jnp.float32))
        best, total, weighted = jax.lax.fori_loop(first, end, key_tile, state)

        whole = work_ref[nth, 6] == 1
        mean = weighted / jnp.where(real, total, 1.0)[:, None]
        _store_rows(out_ref, query_row, mean, real & whole)
        most_parts = best_ref.shape[1]
        part = work_ref[nth, 7]
        partial_one = real & jnp.logical_not(whole)
        _store_rows(sum_ref, (head * most_parts + part) * shape.rows + rows, weighted, partial_one)
        plgpu.store(best_ref.at[head, part, :], best, mask=partial_one)
        plgpu.store(total_ref.at[head, part, :], total, mask=partial_one)


def _queries(
    shape: Shape, head: jax.Array, token: jax.Array, index: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Say of each row of a query tile: which token and which of the group, and where it lies."""
    own, group = jax.lax.div(index, shape.padded_group), jax.lax.rem(index, shape.padded_group)
    return own, group, ((token + own) * shape.heads + head) * shape.group + group


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    # The highest precision is what bfloat16 has anyway; float32 would be rounded to tf32 without.
    highest = jax.lax.Precision.HIGHEST
    return jnp.dot(x, y, precision=highest, preferred_element_type=jnp.float32)


def _combined(
    out: jax.Array, parts: list[jax.Array], segment: Segment, *, interpret: bool
) -> jax.Array:
    """Write the results of query tiles of several pieces into `out` [T * K * G, H], in place."""
    shape, work = segment.shape, segment.work
    rows = min(shape.used_rows, COMBINED_ROWS)
    sums, best, total = parts
    return pl.pallas_call(
        partial(
            _combine,
            shape=shape,
            most_parts=segment.most_parts,
            rows=rows,
            at_once=max(1, COMBINED // (rows * shape.head_dim)),
        ),
        grid=(len(work.tiles), shape.heads, shape.used_rows // rows),
        out_shape=jax.ShapeDtypeStruct(out.shape, out.dtype),
        input_output_aliases={4: 0},
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=1),
        interpret=interpret,
        name="combine",
    )(work.tiles, sums, best.reshape(-1), total.reshape(-1), out)


def _combine(  # noqa: PLR0913 - a kernel takes its arrays one by one
    tiles_ref: Any,
    sum_ref: Any,
    best_ref: Any,
    total_ref: Any,
    _: Any,
    out_ref: Any,
    *,
    shape: Shape,
    most_parts: int,
    rows: int,
    at_once: int,
) -> None:
    nth, head, block = (pl.program_id(i) for i in range(3))
    token, tokens, parts, first = (tiles_ref[nth, i] for i in range(4))

    @pl.when(parts > 1)
    def _() -> None:
        row = block * rows + jnp.arange(rows, dtype=jnp.int32)

        def some(index: jax.Array, state: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            best, total, weighted = state
            part = index * at_once + jnp.arange(at_once, dtype=jnp.int32)
            there = (part < parts)[:, None]
            part = head * most_parts + first + jnp.minimum(part, parts - 1)
            at = part[:, None] * shape.rows + row[None, :]
            bests = jnp.where(there, best_ref[at], LOWEST)
            newest = jnp.maximum(best, jnp.max(bests, axis=0))
            fade = jnp.exp2(best - newest)
            weights = jnp.where(there, jnp.exp2(bests - newest[None, :]), 0.0)
            return (
                newest,
                total * fade + jnp.sum(weights * total_ref[at], axis=0),
                weighted * fade[:, None] + jnp.sum(weights[:, :, None] * sum_ref[at, :], axis=0),
            )

        nothing = jnp.zeros(rows, jnp.float32)
        state = (nothing + LOWEST, nothing, jnp.zeros((rows, shape.head_dim), jnp.float32))
        end = jax.lax.div(parts + at_once - 1, at_once)
        _, total, weighted = jax.lax.fori_loop(0, end, some, state)

        own, group, query_row = _queries(shape, head, token, row)
        real = (own < tokens) & (group < shape.group)
        _store_rows(out_ref, query_row, weighted / jnp.where(real, total, 1.0)[:, None], real)
