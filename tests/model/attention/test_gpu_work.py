"""Work for a GPU's programs: all of it, none twice, in even shares."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.attention.gpu_work import (
    LEAST_SPAN,
    chunk_tiles,
    decode_tiles,
    most_parts,
    share,
)
from model.attention.inputs import StepInputs

ROWS, CHUNKS, TOKENS, TILE, KEYS = 5, 3, 24, 4, 8


def inputs(decode, chunks):
    """Rows with `decode` past lengths, chunks of (past, new) lengths, and padding."""
    pasts = [*decode, *[0] * (ROWS - len(decode))]
    pages = [[1]] * len(decode) + [[0]] * (ROWS - len(decode))
    chunks = [*chunks, *[(0, 0)] * (CHUNKS - len(chunks))]
    return StepInputs(
        decode_position=jnp.array(pasts, jnp.int32),
        decode_pages=jnp.array(pages, jnp.int32),
        chunk_len=jnp.array([new for _, new in chunks], jnp.int32),
        chunk_start=jnp.array([past for past, _ in chunks], jnp.int32),
        chunk_pages=jnp.zeros((CHUNKS, 1), jnp.int32),
    )


@partial(jax.jit, static_argnames=("window", "programs"))
def work_of(inputs, *, window, programs):
    cut = partial(share, key_tile=KEYS, window=window, programs=programs)
    chunks = chunk_tiles(inputs, num_chunk_tokens=TOKENS, tile=TILE)
    return cut(decode_tiles(inputs)), cut(chunks)


def seen(pieces):
    """Every (row, position of a query, key tile) that the pieces look at."""
    return [
        (int(row), int(position) + i, key)
        for _, tokens, position, row, first, end, _, _ in pieces
        for i in range(tokens)
        for key in range(first, end)
    ]


def wanted(rows, window):
    """What they must look at: `rows` are (row, first position, tokens)."""
    found = []
    for row, start, tokens in rows:
        for tile in range(start, start + tokens, TILE):
            last = min(tile + TILE, start + tokens) - 1
            oldest = 0 if window is None else max(tile - window + 1, 0)
            for position in range(tile, last + 1):
                found += [(row, position, key) for key in range(oldest // KEYS, last // KEYS + 1)]
    return found


PASTS = st.integers(0, 300) | st.sampled_from([0, 7, 8, 9])
CHUNK = st.tuples(PASTS, st.integers(1, TOKENS // CHUNKS))


@settings(max_examples=20)
@given(
    st.lists(PASTS, max_size=ROWS),
    st.lists(CHUNK, max_size=CHUNKS),
    st.sampled_from([None, 20]),
)
@example([0, 300, 7], [(0, 8), (299, 3), (8, 8)], None)
@example([], [], None)
def test_every_key_tile_is_seen_once_in_even_shares(decode, chunks, window):
    rows = [(i, past, 1) for i, past in enumerate(decode)]
    spans = [(i, past, new) for i, (past, new) in enumerate(chunks)]
    programs = 6
    both = work_of(inputs(decode, chunks), window=window, programs=programs)
    for work, expected in zip(both, (rows, spans), strict=True):
        pieces = np.array(work.pieces)
        assert sorted(seen(pieces)) == sorted(wanted(expected, window))
        shares = pieces[:, 5] - pieces[:, 4]
        assert shares.max() <= max(LEAST_SPAN, -(-shares.sum() // programs))
        partial_ones = pieces[(shares > 0) & (pieces[:, 6] > 1)]
        assert len(set(partial_ones[:, 7])) == len(partial_ones)
        assert (partial_ones[:, 7] < most_parts(programs)).all()
        for token, _, parts, first in np.array(work.tiles):
            mine = partial_ones[partial_ones[:, 0] == token]
            assert list(mine[:, 7]) == (list(range(first, first + parts)) if parts > 1 else [])


def test_tokens_of_tiles_stand_where_the_chunks_do():
    _, work = work_of(inputs([], [(9, 6), (0, 0), (3, 1)]), window=None, programs=2)
    tiles = [tuple(tile[:2]) for tile in np.array(work.tiles) if tile[1]]
    assert tiles == [(0, 4), (4, 2), (6, 1)]


def test_one_long_past_beside_short_ones_is_spread():
    """As many positions in one row as in all others: no program does more than its share."""
    inputs = StepInputs(
        decode_position=jnp.array([32767] + [511] * 31, jnp.int32),
        decode_pages=jnp.ones((32, 1), jnp.int32),
        chunk_len=jnp.zeros(0, jnp.int32),
        chunk_start=jnp.zeros(0, jnp.int32),
        chunk_pages=jnp.zeros((0, 1), jnp.int32),
    )
    cut = jax.jit(partial(share, key_tile=64, window=None, programs=66))
    pieces = np.array(cut(jax.jit(decode_tiles)(inputs)).pieces)
    shares = pieces[:, 5] - pieces[:, 4]
    assert shares.sum() == 512 + 31 * 8
    assert shares.max() == -(-(512 + 31 * 8) // 66)
