"""Eight bits are as close as they can be, and the same on any sharding."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model.config import WEIGHT_BYTES, ModelConfig, load_config
from model.errors import CheckpointError
from model.generate import prompt_logits
from model.head import logits
from model.parameters import (
    Constant,
    Parameter,
    abstract_params,
    declare,
    init_params,
    leaves,
    weight_bytes,
)
from model.quantised import FORMATS, Quantised, dequantised, dot, largest, quantise, scaled_dot
from model.sharding import DECODE, param_partitions, param_shardings
from model.transformer import forward
from model.weights import checkpoint_tensors, load_params
from tests.model.checkpoints import GOLDEN, NAMES, copied, edit_tensors, load
from tests.model.test_golden import dense_attend
from tests.model.test_parameters import LLAMA_8B

WEIGHTS = ("qkv", "o", "gate_up", "down")


def quantised(weight: Any, summed: tuple[int, ...], form: str) -> Quantised:
    return quantise(weight, largest(weight, summed), summed, form)


def load_split(
    name: str, degree: int, form: str, dtype: str = "float32", calls: list[Any] | None = None
) -> tuple[ModelConfig, Any]:
    """Load a checkpoint of the golden files in a format to so many devices."""
    config = load_config(GOLDEN / name, dtype=dtype, quantize=form)
    mesh = Mesh(np.array(jax.devices()[2 : 2 + degree]), ("tp",))
    shardings = param_shardings(config, mesh, DECODE)
    note = None if calls is None else lambda *call: calls.append(call)
    return config, load_params(GOLDEN / name, config, shardings, dtype, note)


@given(
    magnitude=st.floats(-44, 30),
    spread=st.floats(0, 12),
    form=st.sampled_from(sorted(FORMATS)),
    seed=st.integers(0, 99),
)
@example(magnitude=-44.0, spread=0.0, form="fp8", seed=0)  # magnitudes that float32 barely has
@example(magnitude=-42.5, spread=0.0, form="fp8", seed=0)
@example(magnitude=-43.0, spread=0.0, form="int8", seed=0)
def test_values_are_as_close_as_the_format_allows(
    magnitude: float, spread: float, form: str, seed: int
):
    rng = np.random.default_rng(seed)
    weight = (
        rng.normal(size=(7, 3, 5)) * 10.0 ** (magnitude - spread * rng.random((7, 3, 5)))
    ).astype(np.float32)
    weight[:, 1, 2] = 0
    kept = quantised(weight, (0, 1), form)
    assert kept.values.dtype == FORMATS[form]
    assert kept.values.shape == weight.shape
    assert kept.scale.shape == (5,)
    found = dequantised(kept, (0, 1))
    error, most = np.abs(found - weight), np.abs(weight).max((0, 1))
    step = most / (127 if form == "int8" else 448)
    if form == "int8":
        bound = np.broadcast_to(step / 2, error.shape)
    else:
        bound = np.maximum(np.abs(weight) / 16, step / 1024)
    # float32 itself rounds, most of all where it has few bits left.
    assert (error <= bound * (1 + 1e-5) + most * 1e-6 + 3e-43).all()
    assert not found[:, 1, 2].any()


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_the_largest_value_of_every_channel_is_hit(form: str):
    weight = np.random.default_rng(0).normal(size=(64, 1000)).astype(np.float32)
    values = quantised(weight, (0,), form).values.astype(np.float32)
    assert (np.abs(values).max(0) == (127 if form == "int8" else 448)).all()


@pytest.mark.parametrize(
    ("spec", "x_shape", "shape", "summed"),
    [
        ("...d,dkgh->...kgh", (3, 8), (8, 2, 4, 6), (0,)),
        ("...kgh,kghd->...d", (3, 2, 4, 6), (2, 4, 6, 8), (0, 1, 2)),
        ("...d,dcf->...cf", (2, 3, 8), (8, 2, 5), (0,)),
        ("...f,fd->...d", (3, 5), (5, 8), (0,)),
    ],
)
def test_a_matmul_equals_one_with_the_weight_it_stands_for(
    spec: str, x_shape: tuple[int, ...], shape: tuple[int, ...], summed: tuple[int, ...]
):
    rng = np.random.default_rng(1)
    x = rng.normal(size=x_shape).astype(np.float32)
    kept = quantised(rng.normal(size=shape).astype(np.float32), summed, "int8")
    wanted = np.einsum(spec, x, dequantised(kept, summed))
    found = jax.jit(partial(scaled_dot, spec))(x, kept)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_sums_are_float32_and_results_in_the_dtype_of_the_activations():
    x = np.ones((1, 4096), jnp.bfloat16)
    kept = quantised(np.ones((4096, 1), np.float32), (0,), "int8")
    program = jax.jit(partial(dot, "td,df->tf")).lower(x, kept)
    assert program.out_info.dtype == jnp.bfloat16
    assert "(tensor<1x4096xbf16>, tensor<4096x1xbf16>) -> tensor<1x1xf32>" in program.as_text()


def test_the_config_counts_the_bytes_of_every_format():
    assert {form: jnp.dtype(dtype).itemsize for form, dtype in FORMATS.items()} == WEIGHT_BYTES


def test_the_bytes_of_a_known_model():
    whole, half = weight_bytes(LLAMA_8B), weight_bytes(replace(LLAMA_8B, quantize="int8"))
    assert whole == 2 * 8_030_261_248
    in_eight_bits = 32 * (4096 * 48 * 128 + 32 * 128 * 4096 + 3 * 4096 * 14336)
    scales = 32 * 4 * (48 * 128 + 4096 + 2 * 14336 + 4096)
    assert half == whole - in_eight_bits + scales


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("qwen3", "int8"),
        ("llama-biases", "fp8"),
        *(pytest.param(name, "int8", marks=pytest.mark.slow) for name in NAMES),
    ],
)
def test_every_family_is_loaded_alike_however_it_is_split(name: str, form: str):
    calls: list[Any] = []
    config, one = load_split(name, 1, form)
    _, two = load_split(name, 2, form, calls=calls)
    _, whole = load(GOLDEN / name)
    where = param_shardings(config, Mesh(np.array(jax.devices()[2:4]), ("tp",)), DECODE)
    split, shardings, plain = (dict(leaves(tree)) for tree in (two, where, whole))
    declared = dict(leaves(declare(config)))
    for path, found in leaves(one):
        assert isinstance(found, Quantised) == (path.split("/")[-1] in WEIGHTS)
        wanted = plain[path]
        if isinstance(found, Quantised):
            wanted = quantised(np.asarray(wanted), declared[path].summed_places, form)
        for array, same, at, right in zip(
            *map(jax.tree.leaves, (found, split[path], shardings[path], wanted)), strict=True
        ):
            np.testing.assert_array_equal(np.asarray(array), np.asarray(right), err_msg=path)
            np.testing.assert_array_equal(np.asarray(array), np.asarray(same), err_msg=path)
            assert same.sharding == at
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(one)) == weight_bytes(config)
    assert calls[-1][0] == calls[-1][1]
    assert {total for _, total in calls} == {calls[-1][1]}


def test_other_parameters_keep_the_dtype_asked_for():
    config, params = load_split("llama", 1, "int8", dtype="bfloat16")
    assert params["embed"].dtype == params["layers"]["attn_norm"].dtype == jnp.bfloat16
    assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
        lambda x: (x.shape, x.dtype), abstract_params(config)
    )
    # from what the file holds, not from what bfloat16 leaves of it
    _, wide = load_split("llama", 1, "int8")
    np.testing.assert_array_equal(
        np.asarray(params["layers"]["qkv"].values), np.asarray(wide["layers"]["qkv"].values)
    )


def test_a_split_quantised_model_says_what_its_dequantised_weights_say():
    config, params = load_split("llama-biases", 1, "fp8")
    params = jax.tree.map(np.asarray, params)
    tokens = jnp.arange(3, 19)

    def run(params: Any) -> jax.Array:
        hidden, _ = forward(
            params, tokens, tokens - 3, (), dense_attend(config), config=config, axis="tp"
        )
        return logits(params, hidden, config=config, axis="tp")

    mesh = Mesh(np.array(jax.devices()[2:4]), ("tp",))
    specs = param_partitions(config, DECODE)
    split = jax.shard_map(run, mesh=mesh, in_specs=(specs,), out_specs=P(), check_vma=False)
    declared = declare(config)["layers"]
    layers = {
        name: dequantised(leaf, declared[name].summed_places)
        if isinstance(leaf, Quantised)
        else leaf
        for name, leaf in params["layers"].items()
    }
    plain = replace(config, quantize=None)
    wanted = prompt_logits({**params, "layers": layers}, plain, tokens.tolist())
    np.testing.assert_allclose(jax.jit(split)(params), wanted, atol=1e-4)


def test_random_parameters_are_quantised_too():
    config = replace(load_config(GOLDEN / "qwen2"), quantize="int8")
    found = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
    assert found == abstract_params(config)


def test_nonsense_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="'int3' is none of int8, fp8"):
        replace(LLAMA_8B, quantize="int3")
    with pytest.raises(ValueError, match="not all among"):
        Parameter((1,), ("embed",), Constant(0.0), ("mlp",))
    config, params = load_split("llama", 1, "int8")
    with pytest.raises(ValueError, match="cannot be exported"):
        next(checkpoint_tensors(params, config))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(tmp_path: Path, bad: float):
    directory = copied("llama", tmp_path)
    key = "model.layers.1.mlp.down_proj.weight"

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[key] = tensors[key].copy()
        tensors[key][3, 4] = bad

    edit_tensors(directory / "model.safetensors", spoil)
    config = load_config(directory, quantize="fp8")
    mesh = Mesh(np.array(jax.devices()[:1]), ("tp",))
    with pytest.raises(CheckpointError, match="layers/down: NaN or Inf cannot be quantised"):
        load_params(directory, config, param_shardings(config, mesh, DECODE), "float32", None)
