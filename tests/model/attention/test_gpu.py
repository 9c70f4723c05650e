"""The GPU backend against the reference: interpreted, lowered without a device, and on one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import AbstractDevice, AbstractMesh

from model.attention.backend import Backend
from model.attention.choice import AttentionError, choose
from model.attention.gpu import Gpu
from model.attention.inputs import places
from model.attention.paged import BLOCKED, REFERENCE
from model.kv_pages import kept
from tests.model.attention.test_paged import CHUNKS, PAGE, ROWS, attended, step
from tests.model.test_sharding import CONFIG
from tests.support.compiles import no_compiles

pytestmark = pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated")

H, TOKENS, TABLE = 16, 24, 24
MAX_PAST = TABLE * PAGE - TOKENS - 1
INTERPRETED = Gpu(interpret=True, programs=8)  # few, so that tiles are cut into several pieces
ON_DEVICE = Gpu(interpret=False)


def compare(
    decode,
    chunks,
    *,
    backend: Backend = INTERPRETED,
    heads=2,
    group=2,
    window=None,
    kv_dtype=None,
    **sizes,
):
    """Return what the backend and the reference give for the real tokens, and the rest."""
    sizes = {"tokens": TOKENS, "table_len": TABLE, "head_dim": H, "seed": 0, **sizes}
    (pool, q, k, v), inputs = step(decode, chunks, heads=heads, group=group, **sizes)
    pool = pool if kv_dtype is None else kept(pool, kv_dtype)
    results = []
    for one in (backend, REFERENCE):
        _, out, after = attended(pool, jnp.int32(1), q, k, v, inputs, window=window, backend=one)
        results.append((np.array(out, np.float32), np.array(after, np.float32)))
    (got, pages), (wanted, wanted_pages) = results
    # Only layer 1 is attended over; what the portable backends store of layer 0 was never given.
    np.testing.assert_array_equal(pages[1, 1:], wanted_pages[1, 1:])
    if isinstance(backend, Gpu):
        np.testing.assert_array_equal(pages[0], np.array(pool[0], np.float32))
    real = [*range(len(decode)), *range(ROWS, ROWS + sum(n for _, n in chunks))]
    return got[real], wanted[real], np.delete(got, real, axis=0)


def test_a_mixed_step_equals_the_reference_and_padding_is_zero():
    got, wanted, padding = compare([0, 4, 70], [(71, 9), (0, 1), (7, 12)])
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert not padding.any()


def test_what_an_earlier_owner_left_in_a_page_does_not_matter():
    """Not even if it is NaN, and not in the write-off page either."""
    decode, chunks = [0, 4, 70], [(71, 9), (0, 1), (7, 12)]
    (pool, *new), inputs = step(
        decode, chunks, heads=2, group=2, seed=0, tokens=TOKENS, table_len=TABLE, head_dim=H
    )
    pasts = [*zip(inputs.decode_pages, decode, strict=True)]
    pasts += zip(inputs.chunk_pages, [past for past, _ in chunks], strict=True)
    known = np.zeros((pool.shape[1], PAGE), bool)
    for table, past in pasts:
        for position in range(past):
            known[table[position // PAGE], position % PAGE] = True
    dirty = jnp.where(known[None, :, None, None, :, None], pool, jnp.nan)
    clean, got = (
        attended(one, jnp.int32(1), *new, inputs, window=None, backend=INTERPRETED)[1]
        for one in (pool, dirty)
    )
    np.testing.assert_array_equal(clean, got)


@pytest.mark.parametrize(
    ("device_kind", "tokens", "calls"), [("NVIDIA H200", 0, 3), ("NVIDIA H100 80GB HBM3", 16, 5)]
)
def test_it_lowers_for_gpus_without_one(device_kind, tokens, calls):
    """The write; for decode rows, and for chunks if there are any: pieces, and what merges them."""
    sizes = {"tokens": tokens, "head_dim": 128, "dtype": "bfloat16"}
    chunks = [(3, 4)] if tokens else []
    (pool, *new), inputs = step([5], chunks, heads=2, group=4, seed=0, **sizes)
    layer = jnp.int32(0)
    device = AbstractDevice(device_kind=device_kind, num_cores=132, platform="gpu")
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        traced = attended.trace(pool, layer, *new, inputs, window=8, backend=ON_DEVICE)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == calls


def test_what_it_cannot_take_is_said():
    def refusal(platform="gpu", **sizes):
        config = CONFIG if not sizes else CONFIG.__class__(**{**vars(CONFIG), **sizes})
        return ON_DEVICE.refusal(config, page_size=5, degree=1, platform=platform)

    assert refusal(head_dim=64) is None
    assert refusal(head_dim=80) == "head size 80 is none of 16, 32, 64, 128, 256"
    many = refusal(head_dim=64, num_heads=260, num_kv_heads=2)
    assert many == "more than 64 queries share a key-value head: 130"
    assert refusal("cpu", head_dim=64) == "it needs a GPU, and JAX runs on cpu here"


def test_a_pool_that_pallas_would_not_count_right_is_refused():
    """Of one-byte numbers: 32 bits hold an offset of 2**31 with a sign only below it."""
    (_, *_), inputs = step([5], [], heads=2, group=2, seed=0, tokens=0)
    where = places(inputs, num_chunk_tokens=0, page_size=PAGE)

    def over(pages, dtype):
        pool = jax.ShapeDtypeStruct((1, pages, 2, 2, 16, 128), dtype)
        whole = partial(ON_DEVICE.over, inputs=inputs, places=where, group=2, window=None)
        jax.eval_shape(lambda pool: whole(pool).kv, pool)

    over(2**18, "float8_e4m3fn")
    over(2**19 + 1, "float8_e4m3fn")
    over(2**18 + 1, "bfloat16")
    with pytest.raises(ValueError, match="change --kv-pages"):
        over(2**18 + 1, "float8_e4m3fn")
    over(2**25 - 1, "bfloat16")
    with pytest.raises(ValueError, match="use fewer --kv-pages or --attention blocked"):
        over(2**25, "bfloat16")


def test_it_is_chosen_on_gpus_and_refused_elsewhere():
    config = CONFIG.__class__(**{**vars(CONFIG), "head_dim": 64})

    def chosen(wanted, platform, config=config):
        return choose(wanted, config, page_size=16, degrees=(1,), platform=platform)

    assert chosen("auto", "gpu").backend == ON_DEVICE
    fallback = chosen("auto", "gpu", CONFIG)
    assert str(fallback).startswith("blocked (gpu cannot serve: head size 8 is none of")
    assert str(chosen("auto", "cpu")) == "blocked"
    with pytest.raises(AttentionError, match="gpu cannot serve: it needs a GPU"):
        chosen("gpu", "cpu")


PASTS = st.integers(0, MAX_PAST) | st.sampled_from([0, 1, 3, 4, 5, 63, 64])
CHUNK = st.tuples(PASTS, st.integers(1, TOKENS // CHUNKS))


@pytest.mark.slow
@settings(max_examples=25)
@given(st.lists(PASTS, max_size=ROWS), st.lists(CHUNK, max_size=CHUNKS), st.integers(0, 99))
@example([], [(5, 18), (0, 6)], 1)
@example([1, 2, 3], [], 1)
def test_interpreted_equals_reference_over_ragged_lengths(decode, chunks, seed):
    got, wanted, padding = compare(decode, chunks, seed=seed)
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    assert not padding.any()


CASES = [
    {"heads": 1, "group": 3},  # a group that is padded, and wraps into the next token
    {"heads": 4, "group": 1},
    {"head_dim": 256},  # a combine of several rounds
    {"heads": 2, "group": 7, "head_dim": 32},
    {"window": 3},
    {"window": 40},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "window": 17, "group": 5},
    {"kv_dtype": "float8_e4m3fn"},
    {"kv_dtype": "float8_e4m3fn", "dtype": "bfloat16", "head_dim": 128},
]


def tolerance(case):
    """Weights are rounded to the dtype before they meet the values, as matrix units want them."""
    return 2e-2 if case.get("dtype") == "bfloat16" else 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_blocked_equals_reference_over_pages_of_eight_bits(dtype):
    case = {"dtype": dtype, "kv_dtype": "float8_e4m3fn"}
    got, wanted, _ = compare([0, 64, 50], [(60, 9), (13, 15)], backend=BLOCKED, **case)
    np.testing.assert_allclose(got, wanted, atol=tolerance(case))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpreted_equals_reference_for_other_shapes(case):
    got, wanted, padding = compare([0, 64, 50], [(60, 9), (13, 15)], **case)
    np.testing.assert_allclose(got, wanted, atol=tolerance(case))
    assert not padding.any()


@pytest.mark.gpu
@pytest.mark.parametrize("head_dim", [16, 64, 128, 256])
@pytest.mark.parametrize("case", [{}, *CASES], ids=str)
def test_on_a_device_it_equals_the_reference(gpu, case, head_dim):
    case = {**case, "head_dim": head_dim, "tokens": 96, "table_len": 300}
    pasts = [0, 5, 1100], [(1000, 60), (0, 1), (33, 35)]
    with jax.default_device(gpu):
        got, wanted, padding = compare(*pasts, backend=ON_DEVICE, **case)
    np.testing.assert_allclose(got, wanted, atol=max(tolerance(case), 1e-5))
    assert not padding.any()


@pytest.mark.gpu
def test_on_a_device_lengths_compile_nothing_anew(gpu):
    sizes = {"heads": 2, "group": 2, "tokens": TOKENS, "table_len": TABLE, "head_dim": 64}
    mixed = [([0, 4, 70], [(71, 9), (0, 1), (7, 12)]), ([], [(3, 24)]), ([5], [])]
    steps = [step(*lengths, seed=0, **sizes) for lengths in mixed]

    def run(arrays, inputs):
        pool, *new = arrays
        out = attended(pool, jnp.int32(0), *new, inputs, window=None, backend=ON_DEVICE)
        jax.block_until_ready(out)

    with jax.default_device(gpu):
        run(*steps[0])
        with no_compiles():
            for arrays, inputs in steps:
                run(arrays, inputs)
