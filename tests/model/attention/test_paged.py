"""The blocked backend against the reference, and the reference against sums done by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.attention.inputs import StepInputs, places
from model.attention.paged import BLOCKED, REFERENCE

L, PAGE, H, ROWS, CHUNKS, TOKENS, TABLE = 2, 4, 8, 3, 3, 96, 80
MAX_PAST = TABLE * PAGE - TOKENS - 1


@partial(jax.jit, static_argnames=("window", "backend"))
def attended(pool, layer, q, k, v, inputs, *, window, backend):
    where = places(inputs, num_chunk_tokens=len(q) - len(inputs.decode_position), page_size=PAGE)
    attention = backend.over(pool, inputs, where, group=q.shape[2], window=window)
    kv, out = attention.attend(attention.kv, layer, q, k, v)
    return kv, out, attention.store(kv)


def step(
    decode,
    chunks,
    *,
    heads,
    group,
    seed,
    tokens=TOKENS,
    table_len=TABLE,
    head_dim=H,
    dtype="float32",
    rows=ROWS,
):
    """A random pool and step: `decode` past lengths, `chunks` (past, new) lengths, then padding."""
    rng = np.random.default_rng(seed)
    num_pages = 2 * (rows + CHUNKS) * table_len
    free = iter(rng.permutation(num_pages) + 1)

    def table(length):
        used = -(-length // PAGE)
        return [int(next(free)) for _ in range(used)] + [0] * (table_len - used)

    decode_rows = [(p, table(p + 1)) for p in decode]
    decode_rows += [(0, [0] * table_len)] * (rows - len(decode))
    chunk_rows = [(p, n, table(p + n)) for p, n in chunks]
    chunk_rows += [(0, 0, [0] * table_len)] * (CHUNKS - len(chunks))
    inputs = StepInputs(
        decode_position=jnp.array([p for p, _ in decode_rows], jnp.int32),
        decode_pages=jnp.array([t for _, t in decode_rows], jnp.int32),
        chunk_len=jnp.array([n for _, n, _ in chunk_rows], jnp.int32),
        chunk_start=jnp.array([p for p, _, _ in chunk_rows], jnp.int32),
        chunk_pages=jnp.array([t for _, _, t in chunk_rows], jnp.int32),
    )
    total = rows + tokens
    pool = rng.normal(size=(L, num_pages + 1, 2, heads, PAGE, head_dim))
    q = rng.normal(size=(total, heads, group, head_dim))
    k, v = rng.normal(size=(2, total, heads, head_dim))
    return [jnp.array(x, dtype) for x in (pool, q, k, v)], inputs


def both(decode, chunks, *, heads=2, group=2, window=None, seed=0, rows=ROWS, **sizes):
    (pool, q, k, v), inputs = step(
        decode, chunks, heads=heads, group=group, seed=seed, rows=rows, **sizes
    )
    outs = [
        attended(pool, jnp.int32(1), q, k, v, inputs, window=window, backend=backend)[1]
        for backend in (BLOCKED, REFERENCE)
    ]
    real = [*range(len(decode)), *range(rows, rows + sum(n for _, n in chunks))]
    return np.array(outs[0]), np.array(outs[1])[real], np.array(outs[0])[real]


PASTS = st.integers(0, MAX_PAST) | st.sampled_from([0, 1, 3, 4, 5, 127, 128, 129])
CHUNK = st.tuples(PASTS, st.integers(1, TOKENS // CHUNKS))


@settings(max_examples=25, deadline=None)
@given(st.lists(PASTS, max_size=ROWS), st.lists(CHUNK, max_size=CHUNKS), st.integers(0, 99))
@example([0, 4, 128], [(128, 32), (0, 1), (127, 5)], 0)
@example([], [(5, 70), (0, 26)], 1)
def test_blocked_equals_reference_over_ragged_lengths(decode, chunks, seed):
    everything, wanted, got = both(decode, chunks, seed=seed)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert np.isfinite(everything).all()  # padding rows and tokens too


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("num", [0, 1, 8, 9, 16, 19])
@pytest.mark.parametrize("rows", [8, 9, 16, 20])
def test_more_rows_than_attend_together_need_not_be_a_multiple_of_them(rows, num, window):
    """The first ones of every few are the longest; some in between have no past."""
    decode = [90 - 11 * (i % 8) if i % 5 else 0 for i in range(min(num, rows))]
    everything, wanted, got = both(decode, [(9, 20)], rows=rows, table_len=30, window=window)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert np.isfinite(everything).all()


@pytest.mark.parametrize(("heads", "group"), [(1, 4), (4, 1)])
def test_head_ratios(heads, group):
    _, wanted, got = both([7, 150], [(9, 20), (140, 40)], heads=heads, group=group)
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize("window", [3, 130])
def test_sliding_window(window):
    decode, chunks = [0, 2, 200], [(190, 60), (3, 5)]
    _, wanted, got = both(decode, chunks, window=window)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    _, unlimited, _ = both(decode, chunks)
    assert np.abs(wanted - unlimited).max() > 0.1


@pytest.mark.parametrize("tokens", [256, 300, 512])
def test_a_segment_longer_than_a_tile_need_not_be_a_multiple_of_it(tokens: int):
    chunks = [(9, tokens - 60), (0, 57)]
    everything, wanted, got = both([7], chunks, tokens=tokens, table_len=160)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert np.isfinite(everything).all()


def test_a_row_is_bitwise_independent_of_its_neighbours():
    (pool, q, k, v), inputs = step([100, 219, 3], [(20, 30), (200, 30)], heads=2, group=2, seed=5)
    _, together, _ = attended(pool, jnp.int32(0), q, k, v, inputs, window=None, backend=BLOCKED)
    alone = inputs._replace(
        decode_position=inputs.decode_position.at[1:].set(0),
        decode_pages=inputs.decode_pages.at[1:].set(0),
        chunk_len=inputs.chunk_len.at[1].set(0),
    )
    _, single, _ = attended(pool, jnp.int32(0), q, k, v, alone, window=None, backend=BLOCKED)
    same = [0, *range(ROWS, ROWS + 30)]
    np.testing.assert_array_equal(np.array(together)[same], np.array(single)[same])


def test_reference_by_hand():
    """Keys are all 0, so weights are equal: the result is the mean of the values seen."""
    (pool, q, k, v), inputs = step([2], [(5, 2)], heads=1, group=1, seed=3)
    pool = pool.at[:, :, 0].set(0.0)
    _, out, _ = attended(pool, jnp.int32(0), q, k * 0, v, inputs, window=None, backend=REFERENCE)
    values = np.array(pool)[0, :, 1, 0]
    decode_past = values[int(inputs.decode_pages[0, 0]), :2]
    chunk_past = np.concatenate([values[int(p)] for p in inputs.chunk_pages[0, :2]])[:5]
    own = np.array(v)[:, 0]
    wanted = [
        np.vstack([decode_past, own[:1]]).mean(0),
        np.vstack([chunk_past, own[ROWS : ROWS + 1]]).mean(0),
        np.vstack([chunk_past, own[ROWS : ROWS + 2]]).mean(0),
    ]
    np.testing.assert_allclose(np.array(out)[[0, ROWS, ROWS + 1], 0, 0], wanted, atol=1e-6)


def test_fresh_keys_and_values_land_in_their_pages_and_padding_in_page_zero():
    (pool, q, k, v), inputs = step([6], [(3, 3)], heads=2, group=2, seed=4)
    fresh, _, after = attended(pool, jnp.int32(1), q, k, v, inputs, window=None, backend=BLOCKED)
    wanted = np.array(pool)
    for token, table, position in [
        (0, inputs.decode_pages[0], 6),
        (ROWS, inputs.chunk_pages[0], 3),
        (ROWS + 1, inputs.chunk_pages[0], 4),
        (ROWS + 2, inputs.chunk_pages[0], 5),
    ]:
        page = int(table[position // PAGE])
        wanted[:, page, :, :, position % PAGE] = np.array(fresh)[:, token]
    np.testing.assert_array_equal(np.array(after)[:, 1:], wanted[:, 1:])
    np.testing.assert_array_equal(np.array(fresh)[1, :, 0], np.array(k))
    np.testing.assert_array_equal(np.array(fresh)[1, :, 1], np.array(v))
    assert not np.array(fresh)[0].any()


def test_a_step_may_lack_either_segment():
    (pool, q, k, v), inputs = step([6, 40], [(3, 3)], heads=2, group=2, seed=4)
    both_segments = attended(pool, jnp.int32(0), q, k, v, inputs, window=None, backend=BLOCKED)[1]
    no_chunks = inputs._replace(
        **{name: getattr(inputs, name)[:0] for name in ("chunk_len", "chunk_start", "chunk_pages")}
    )
    no_rows = inputs._replace(
        decode_position=inputs.decode_position[:0], decode_pages=inputs.decode_pages[:0]
    )
    for part, kept in ((slice(0, ROWS), no_chunks), (slice(ROWS, None), no_rows)):
        alone = attended(
            pool, jnp.int32(0), q[part], k[part], v[part], kept, window=None, backend=BLOCKED
        )[1]
        np.testing.assert_allclose(alone, both_segments[part], atol=1e-6)
