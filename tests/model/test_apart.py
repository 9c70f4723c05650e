"""Parameters of one tree a layer: the same numbers in the same places, and the same states."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model.apart import apart, each_layer
from model.config import load_config
from model.generate import prompt_logits
from model.parameters import init_params
from model.quantised import Quantised
from model.sharding import DECODE, TENSOR, param_shardings

GOLDEN = Path(__file__).parents[1] / "golden"


def stacked(quantize, degree=2):
    """Return a config and its parameters on a mesh, which nobody else holds."""
    config = replace(load_config(GOLDEN / "qwen2"), quantize=quantize)
    mesh = Mesh(np.array(jax.devices()[:degree]), (TENSOR,))
    params = init_params(config, jax.random.key(0))
    placed = jax.device_put(params, param_shardings(config, mesh, DECODE))
    return config, mesh, jax.tree.map(jnp.copy, placed)


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_every_layer_is_what_its_slice_was_and_where_it_was(quantize):
    config, mesh, params = stacked(quantize)
    wanted = each_layer(jax.tree.map(np.array, params), lambda stack, i: stack[i])
    stacks = jax.tree.leaves(params["layers"])
    got = apart(params)
    assert isinstance(got["layers"], tuple)
    assert len(got["layers"]) == config.num_layers
    jax.tree.map(np.testing.assert_array_equal, got, wanted)
    qkv = got["layers"][1]["qkv"]
    values = qkv.values if isinstance(qkv, Quantised) else qkv
    assert values.sharding == NamedSharding(mesh, P(None, TENSOR, None, None))
    assert all(stack.is_deleted() for stack in stacks), "or weights would be there twice"


def test_hidden_states_are_the_same():
    config, _, params = stacked("int8", degree=1)
    tokens = [3, 1, 4, 1, 5]
    wanted = np.array(prompt_logits(params, config, tokens))
    got = prompt_logits(apart(params), config, tokens)
    np.testing.assert_allclose(got, wanted, atol=1e-5)
