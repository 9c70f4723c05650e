"""One declaration gives shapes, axes and initial values; real models have their known sizes."""

import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.config import Llama3Scaling, ModelConfig, RopeConfig, load_config
from model.generate import prompt_logits
from model.parameters import (
    Constant,
    Parameter,
    abstract_params,
    declare,
    init_params,
    leaves,
)
from tests.model.checkpoints import GOLDEN

LLAMA_8B = ModelConfig(
    family="llama",
    vocab_size=128256,
    num_layers=32,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rope=RopeConfig(500000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
    norm_eps=1e-5,
    tie_embeddings=False,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    qk_norm=False,
    sliding_window=None,
    max_position=131072,
    dtype="bfloat16",
    eos_ids=(128001,),
    bos_id=128000,
)


def test_a_known_model_has_its_known_size():
    shapes = jax.tree.leaves(abstract_params(LLAMA_8B))
    assert sum(math.prod(leaf.shape) for leaf in shapes) == 8_030_261_248  # Llama 3.1 8B
    assert LLAMA_8B.kv_bytes_per_token == 131072


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return load_config(GOLDEN / "llama-biases")


def test_initial_parameters_match_their_declaration(config: ModelConfig):
    params = init_params(config, jax.random.key(0))
    wanted = abstract_params(config)
    assert jax.tree.structure(params) == jax.tree.structure(wanted)
    found = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    assert found == wanted
    for path, parameter in leaves(declare(config)):
        values = np.asarray(dict(leaves(params))[path])
        if isinstance(parameter.init, Constant):
            assert (values == parameter.init.value).all()
        else:
            assert values.std() == pytest.approx(parameter.init.std, rel=0.15)
            assert abs(values.mean()) < 0.1 * parameter.init.std


def test_the_axes_name_the_config_sizes():
    qkv = declare(load_config(GOLDEN / "qwen2"))["layers"]["qkv"]
    assert qkv.axes == ("layers", "embed", "kv_heads", "qkv_group", "head_dim")
    assert qkv.shape == (2, 32, 2, 4, 8)
    with pytest.raises(ValueError, match="differ in length"):
        Parameter((1, 2), ("embed",), Constant(0.0))


def test_a_parameter_does_not_depend_on_its_neighbours(config: ModelConfig):
    fewer = replace(config, tie_embeddings=True, qkv_bias=False)
    one, other = (init_params(each, jax.random.key(3)) for each in (config, fewer))
    np.testing.assert_array_equal(one["layers"]["down"], other["layers"]["down"])
    np.testing.assert_array_equal(one["embed"], other["embed"])


def test_random_models_start_near_a_uniform_guess(config: ModelConfig):
    scores = prompt_logits(init_params(config, jax.random.key(0)), config, list(range(32)))
    assert bool(jnp.isfinite(scores).all())
    assert float(jnp.abs(scores).max()) < 1.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_layers", 0),
        ("num_kv_heads", 5),
        ("head_dim", 5),
        ("norm_eps", -1.0),
        ("sliding_window", 0),
        ("dtype", "float64"),
        ("bos_id", -1),
        ("eos_ids", (128256,)),
    ],
)
def test_contradictory_sizes_are_refused(field: str, value: object):
    with pytest.raises(ValueError, match=r"."):
        replace(LLAMA_8B, **{field: value})  # pyright: ignore[reportArgumentType]
