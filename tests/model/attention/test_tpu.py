"""The TPU backend: all around the kernel against the reference, and that it lowers for TPUs.

The kernel cannot be interpreted. In its place stands the reference function that JAX publishes with
it; only the tests marked `tpu` run the kernel itself.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas.ops.tpu.ragged_paged_attention import ref_ragged_paged_attention

from model.attention import tpu
from model.attention.choice import AttentionError, choose
from model.attention.inputs import StepInputs
from model.attention.paged import BLOCKED, REFERENCE
from model.attention.tpu import RAGGED, Ragged, pack_rows, pages_per_block, plan_calls
from model.sharding import DECODE, TENSOR, partition
from tests.model.attention.test_paged import CHUNK, PAGE, PASTS, ROWS, TOKENS, attended, step
from tests.model.test_parameters import LLAMA_8B
from tests.support import tpus


def published(
    q, kv, kv_len, pages, ends, count, *, num_kv_pages_per_block, num_queries_per_block, **how
):
    """JAX's reference, traced for the lengths at hand; NaN where the kernel writes nothing."""

    def run(q, kv, kv_len, pages, ends, count):
        attend = partial(ref_ragged_paged_attention, **how)
        # Lengths stay numbers, because the function slices by them.
        lengths: list[Any] = [np.asarray(x) for x in (kv_len, ends, count)]
        found = jax.jit(
            lambda q, kv, pages: attend(q, kv, lengths[0], pages, lengths[1], lengths[2])
        )(q, kv, pages)
        out = np.full(q.shape, np.nan, q.dtype)
        out[: len(found)] = found
        return out

    return jax.pure_callback(
        run, jax.ShapeDtypeStruct(q.shape, q.dtype), q, kv, kv_len, pages, ends, count
    )


STAND_IN = Ragged(published)


def combined(pool):
    """Lay head-major pages [L, P, 2, K, size, H] out as [L, P, size, 2K, H]."""
    pages = np.transpose(pool, (0, 1, 4, 3, 2, 5))
    return pages.reshape(*pages.shape[:3], -1, pages.shape[-1])


def test_pages_are_read_as_those_of_other_backends():
    (pool, *_), _ = step([9], [], heads=2, group=1, seed=3, tokens=8, table_len=4)
    pages = jnp.array([[4, 1], [2, 2]])
    found = RAGGED.read(jnp.asarray(combined(pool)), 1, pages)
    for own, other in zip(found, BLOCKED.read(pool, 1, pages), strict=True):
        np.testing.assert_array_equal(own, other)


def check(arrays, inputs, real, *, window=None, backend=STAND_IN, atol=3e-6, layer=1):
    """Compare a backend with the reference on the real tokens, and what they leave in the pool."""
    pool, *qkv = arrays
    how = {"inputs": inputs, "window": window}
    _, wanted, after = attended(pool, jnp.int32(layer), *qkv, **how, backend=REFERENCE)
    _, out, pages = attended(combined(pool), jnp.int32(layer), *qkv, **how, backend=backend)
    np.testing.assert_allclose(np.asarray(out)[real], np.asarray(wanted)[real], atol=atol)
    assert np.isfinite(np.asarray(out)).all()  # padding too
    # The reference stores this layer's tokens alone; of the others it collected zeros.
    np.testing.assert_array_equal(pages[layer, 1:], combined(after)[layer, 1:])
    np.testing.assert_array_equal(pages[1 - layer], combined(pool)[1 - layer])


def real_tokens(decode, chunks):
    return [*range(len(decode)), *range(ROWS, ROWS + sum(n for _, n in chunks))]


def compare(decode, chunks, *, heads=2, group=2, window=None, seed=0, **sizes):
    arrays, inputs = step(decode, chunks, heads=heads, group=group, seed=seed)
    check(arrays, inputs, real_tokens(decode, chunks), window=window, **sizes)


# Page edges before, on and behind (pages of 4), empty pasts, padding rows and chunks, one token.
@pytest.mark.parametrize(
    ("heads", "group", "window"),
    [
        (2, 2, 130),
        pytest.param(2, 2, None, marks=pytest.mark.slow),
        pytest.param(2, 2, 3, marks=pytest.mark.slow),
        pytest.param(4, 1, None, marks=pytest.mark.slow),
        pytest.param(1, 4, 130, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_ragged_rows_equal_the_reference(heads, group, window):
    lengths = [0, 4], [(0, 5), (8, 1), (127, 20)]
    compare(*lengths, heads=heads, group=group, window=window)


@pytest.mark.slow
def test_pages_of_eight_bits_equal_the_reference():
    (pool, *qkv), inputs = step([7, 200], [(150, 30)], heads=2, group=2, seed=3)
    small = [pool.astype(jnp.float8_e4m3fn), *qkv]
    check(small, inputs, real_tokens([7, 200], [(150, 30)]))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.lists(PASTS, max_size=ROWS),
    st.lists(CHUNK, max_size=3),
    st.sampled_from([None, 1, 5, 130]),
    st.integers(0, 99),
)
def test_any_lengths_equal_the_reference(decode, chunks, window, seed):
    compare(decode, chunks, window=window, seed=seed)


@pytest.mark.slow
def test_a_step_may_lack_either_segment():
    arrays, inputs = step([6, 40], [(3, 3)], heads=2, group=2, seed=4)
    pool, *qkv = arrays
    no_chunks = inputs._replace(
        **{name: getattr(inputs, name)[:0] for name in ("chunk_len", "chunk_start", "chunk_pages")}
    )
    no_rows = inputs._replace(
        decode_position=inputs.decode_position[:0], decode_pages=inputs.decode_pages[:0]
    )
    check([pool, *(x[:ROWS] for x in qkv)], no_chunks, [0, 1])
    check([pool, *(x[ROWS:] for x in qkv)], no_rows, [0, 1, 2])
    padding = no_rows._replace(chunk_len=no_rows.chunk_len * 0, chunk_start=no_rows.chunk_start * 0)
    check([pool, *(x[ROWS:] for x in qkv)], padding, [])


def test_rows_are_packed_as_the_kernel_wants_them():
    inputs = StepInputs(
        decode_position=jnp.array([7, 0]),
        decode_pages=jnp.array([[5, 6], [0, 0]]),
        chunk_len=jnp.array([3, 1, 0]),
        chunk_start=jnp.array([4, 0, 0]),
        chunk_pages=jnp.array([[8, 9], [3, 0], [0, 0]]),
    )
    rows = jax.jit(pack_rows)(inputs)
    assert rows.kv_len.tolist() == [8, 1, 7, 1, 0]
    assert rows.ends.tolist() == [0, 1, 2, 5, 6, 6]
    assert rows.real.tolist() == [4]
    assert rows.pages.tolist() == [[5, 6], [0, 0], [8, 9], [3, 0], [0, 0]]
    assert {x.dtype for x in rows} == {jnp.dtype("int32")}


def test_a_step_of_padding_alone_has_one_row():
    """Its kernel would else start reading a page and never wait for it."""
    nothing = jnp.zeros((0,), jnp.int32)
    zeros = jnp.zeros((2,), jnp.int32)
    inputs = StepInputs(nothing, jnp.zeros((0, 3), jnp.int32), zeros, zeros, jnp.zeros((2, 3)))
    rows = jax.jit(pack_rows)(inputs._replace(chunk_pages=inputs.chunk_pages.astype(jnp.int32)))
    assert rows.real.tolist() == [1]
    assert rows.kv_len.tolist() == [1, 0]
    assert rows.ends.tolist() == [0, 1, 1]


@pytest.mark.slow
def test_page_tables_too_large_for_one_call_are_shared_out(monkeypatch):
    arrays, inputs = step([0, 9, 40], [(6, 30), (0, 2)], heads=2, group=2, seed=4)
    num_tokens = ROWS + TOKENS
    assert [call.tokens for call in plan_calls(inputs, num_tokens)] == [slice(0, num_tokens)]
    monkeypatch.setattr(tpu, "TABLE_BYTES", 2 * 4 * tpu.LANES)  # two rows
    parts = [slice(0, 2), slice(2, 3), slice(3, num_tokens)]
    assert [call.tokens for call in plan_calls(inputs, num_tokens)] == parts
    anew = Ragged(partial(published))  # what is compiled already has another limit
    check(arrays, inputs, [0, 1, 2, *range(ROWS, ROWS + 32)], backend=anew)


def test_blocks_are_of_two_mebibytes_and_sixteen_pages_at_most():
    half = 128 * 2 * 8 * 128 * 2  # 128 positions of 8 heads of 128 in bfloat16: 512 KiB
    assert pages_per_block(half, 1024) == 4
    assert pages_per_block(half // 8, 1024) == 16
    assert pages_per_block(half // 8, 5) == 5
    assert pages_per_block(half * 8, 1024) == 1


def test_a_pool_is_split_by_its_heads():
    assert RAGGED.pool_shape(LLAMA_8B, num_pages=9, page_size=16) == (32, 9, 16, 16, 128)
    assert partition(RAGGED.pool_axes, DECODE) == jax.P(None, None, None, TENSOR, None)


@pytest.mark.parametrize(
    ("change", "degree", "reason"),
    [
        ({}, 1, None),
        ({}, 8, None),
        ({"dtype": "float32"}, 2, None),
        ({"head_dim": 64}, 1, "its heads must be of 128, and are of 64"),
        ({"head_dim": 256}, 1, "its heads must be of 128"),
        ({"num_kv_heads": 6, "num_heads": 12}, 1, "6 key-value heads a device, in bfloat16"),
        ({"num_kv_heads": 6, "num_heads": 12, "dtype": "float32"}, 2, "3 key-value heads"),
        ({"kv_dtype": "float8_e4m3fn"}, 4, None),
        ({"kv_dtype": "float8_e4m3fn"}, 8, "1 key-value heads a device, in float8_e4m3fn"),
    ],
)
def test_what_the_kernel_cannot_take_is_said(change, degree, reason):
    config = replace(LLAMA_8B, **change)
    sizes = {"page_size": 16, "degrees": (degree,), "platform": "tpu"}
    chosen = choose("auto", config, **sizes)
    if reason is None:
        assert chosen.backend == RAGGED
        assert str(choose("tpu", config, **sizes)) == "tpu"
        return
    assert chosen.backend is BLOCKED
    assert f"tpu cannot serve: {reason}" in str(chosen)
    with pytest.raises(AttentionError, match=reason):
        choose("tpu", config, **sizes)


def test_without_a_tpu_it_is_refused_by_name_and_not_thought_of_otherwise():
    sizes = {"page_size": 16, "degrees": (1,), "platform": "cpu"}
    with pytest.raises(AttentionError, match="it needs a TPU, and the devices here"):
        choose("tpu", LLAMA_8B, **sizes)
    assert str(choose("auto", LLAMA_8B, **sizes)) == "blocked"


def abstract(rows, chunks, tokens, *, heads, group, dtype):
    """A step's arguments of a pool with heads of 128, as shapes."""

    def ints(*shape) -> Any:
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def floats(*shape):
        return jax.ShapeDtypeStruct(shape, dtype)

    shapes: list[Any] = [(rows,), (rows, 8), (chunks,), (chunks,), (chunks, 8)]
    inputs = StepInputs(*(ints(*shape) for shape in shapes))
    total, new = rows + tokens, floats(rows + tokens, heads, 128)
    pool = floats(2, 9, PAGE, 2 * heads, 128)
    return pool, ints(), floats(total, heads, group, 128), new, new, inputs


@pytest.mark.parametrize("kind", tpus.KINDS)
@pytest.mark.parametrize(
    ("sizes", "dtype", "window"),
    [
        ((8, 2, 32), "bfloat16", 100),
        pytest.param((8, 0, 0), "bfloat16", None, marks=pytest.mark.slow),
        pytest.param((0, 2, 32), "float32", None, marks=pytest.mark.slow),
    ],
    ids=["mixed", "decode", "prefill"],
)
def test_it_lowers_for_tpus(kind, sizes, dtype, window):
    arguments = abstract(*sizes, heads=2, group=4, dtype=dtype)
    how = {"window": window, "backend": RAGGED}
    assert "tpu_custom_call" in tpus.lowered(attended, *arguments, on=tpus.mesh(kind), **how)


@pytest.mark.tpu
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("window", [None, 5, 130])
@pytest.mark.parametrize(("heads", "group"), [(1, 4), (2, 3), (8, 4)])
def test_the_kernel_equals_the_reference_on_a_device(tpu_device, dtype, window, heads, group):
    decode, chunks = [0, 4, 200], [(0, 30), (190, 33)]
    (pool, *qkv), inputs = step(decode, chunks, heads=heads, group=group, seed=1)
    wide = [jnp.tile(x, 16).astype(dtype) for x in (pool, *qkv)]  # heads of 128
    real = real_tokens(decode, chunks)
    with jax.default_device(tpu_device):
        check(wide, inputs, real, window=window, backend=RAGGED, atol=2e-2)
