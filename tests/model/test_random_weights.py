"""Random parameters follow their declaration, on any sharding, and never exist anywhere else."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from model import random_weights
from model.config import ModelConfig, load_config
from model.parameters import Constant, abstract_params, declare, leaves, map_parameters
from model.quantised import dequantised
from model.random_weights import draw_params
from model.sharding import DECODE, TENSOR, param_shardings, partition
from tests.model.checkpoints import GOLDEN

SHAPES = Path(__file__).parents[2] / "benchmarks" / "shapes"
SEED = -6


def some(config: ModelConfig) -> dict[str, Any]:
    """Parameters of every kind: all of them would only take longer to compile."""
    tree = declare(config)
    layers = {name: tree["layers"][name] for name in ("attn_norm", "down", "o_bias")}
    return {"embed": tree["embed"], "layers": layers}


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_config(GOLDEN / "llama-biases")


@pytest.fixture(autouse=True)
def declared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(random_weights, "declare", some)


def drawn(config: ModelConfig, seed: int) -> dict[str, jax.Array]:
    here = SingleDeviceSharding(jax.devices()[0])
    shardings = map_parameters(lambda *_: here, some(config))
    return dict(leaves(draw_params(config, seed, shardings, "float32", None)))


def test_values_follow_their_declaration(config: ModelConfig):
    one = drawn(config, SEED)
    for path, parameter in leaves(some(config)):
        values = np.asarray(one[path])
        assert values.shape == parameter.shape
        if isinstance(parameter.init, Constant):
            assert (values == parameter.init.value).all()
            continue
        scaled = values.ravel() / parameter.init.std
        # Bounds of five standard errors, and the share of a normal distribution beyond one.
        assert abs(scaled.mean()) < 5 / math.sqrt(scaled.size)
        assert abs(scaled.std() - 1) < 5 / math.sqrt(2 * scaled.size)
        assert abs((abs(scaled) > 1).mean() - 0.317) < 2.5 / math.sqrt(scaled.size)
        assert len(np.unique(values)) > 0.99 * values.size, "values are repeated"
    again, other = drawn(config, SEED), drawn(config, -SEED)
    assert all((again[path] == one[path]).all() for path in one)
    down = one["layers/down"]
    for unrelated in (other["layers/down"], one["embed"]):
        assert alike(down, unrelated) < 5 / math.sqrt(down.size)


def alike(a: jax.Array, b: jax.Array) -> float:
    return abs(np.corrcoef(np.ravel(a), np.ravel(b)[: a.size])[0, 1])


def test_any_sharding_and_any_block_hold_the_same_values(
    config: ModelConfig, monkeypatch: pytest.MonkeyPatch
):
    one = drawn(config, SEED)
    monkeypatch.setattr(random_weights, "BLOCK", 100)
    mesh = Mesh(np.array(jax.devices()[3:5]), (TENSOR,))
    shardings = map_parameters(
        lambda _, parameter: NamedSharding(mesh, partition(parameter.axes, DECODE)), some(config)
    )
    calls: list[tuple[int, int]] = []
    params = draw_params(config, SEED, shardings, "float32", lambda *call: calls.append(call))
    for path, sharding in leaves(shardings):
        found = dict(leaves(params))[path]
        assert found.sharding == sharding
        # Another way of fusing may round a logarithm otherwise.
        np.testing.assert_allclose(found, one[path], rtol=1e-5, atol=1e-7)
    held = sum(s.data.nbytes for x in jax.tree.leaves(params) for s in x.addressable_shards)
    assert {total for _, total in calls} == {held}, "progress counts what all devices hold"
    assert calls[-1][0] == held


@pytest.mark.parametrize(
    ("name", "num_parameters", "kv_bytes"),
    [("llama-3.1-8b", 8_030_261_248, 131_072), ("qwen3-8b", 8_190_735_360, 147_456)],
)
def test_the_shapes_of_real_models(name: str, num_parameters: int, kv_bytes: int):
    config = load_config(SHAPES / name)
    shapes = jax.tree.leaves(abstract_params(config))
    assert sum(math.prod(leaf.shape) for leaf in shapes) == num_parameters
    assert config.kv_bytes_per_token == kv_bytes
    assert config.dtype == "bfloat16"


def test_a_device_needs_little_beside_the_parameter_itself():
    """Compiled at a real size, not run."""
    parameter = declare(load_config(SHAPES / "llama-3.1-8b"))["layers"]["gate_up"]
    shape = parameter.shape
    what = random_weights.Drawn(parameter.init.std, shape, shape, True, jnp.dtype("bfloat16"))
    words, start = (jax.ShapeDtypeStruct((count,), np.uint32) for count in (3, len(shape)))
    memory = random_weights._normal.lower(words, start, what).compile().memory_analysis()
    assert memory is not None
    assert memory.output_size_in_bytes == 2 * math.prod(shape)
    assert memory.temp_size_in_bytes <= 8 * 4 * random_weights.BLOCK


def test_quantised_ones_stand_for_the_values_that_would_have_been_drawn(config: ModelConfig):
    mesh = Mesh(np.array(jax.devices()[:2]), (TENSOR,))
    rounded = replace(config, quantize="int8")
    whole = drawn(config, SEED)["layers/down"]
    shardings = {**param_shardings(rounded, mesh, DECODE)}
    wanted = {name: shardings["layers"][name] for name in ("attn_norm", "down", "o_bias")}
    where = {"embed": shardings["embed"], "layers": wanted}
    params = draw_params(rounded, SEED, where, "float32", None)
    down = params["layers"]["down"]
    assert down.values.dtype == jnp.int8
    assert down.values.sharding == where["layers"]["down"].values
    summed = declare(rounded)["layers"]["down"].summed_places
    off = np.abs(np.asarray(dequantised(down, summed)) - np.asarray(whole))
    assert (off <= 0.51 * np.expand_dims(np.asarray(down.scale), summed)).all()
