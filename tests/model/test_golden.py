"""The model agrees with transformers: the recorded logits and greedy tokens of every family."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model.config import ModelConfig, RopeConfig
from model.generate import Sampling, generate, prompt_logits
from model.head import logits
from model.parameters import declare, map_parameters
from model.transformer import forward
from tests.model.checkpoints import GOLDEN, NAMES, load

TOLERANCE = 1e-4  # absolute, float32, against logits of magnitude up to 11


def expected(name: str) -> Any:
    return np.load(GOLDEN / name / "expected.npz")


@pytest.mark.parametrize("name", NAMES)
def test_logits_at_every_position(name: str):
    config, params = load(GOLDEN / name)
    found = prompt_logits(params, config, expected(name)["prompt"].tolist())
    np.testing.assert_allclose(found, expected(name)["logits"], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_tokens(name: str):
    config, params = load(GOLDEN / name)
    greedy = expected(name)["greedy"].tolist()
    reply = generate(params, config, expected(name)["prompt"].tolist(), Sampling(), len(greedy))
    assert list(reply.tokens) == greedy


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("llama", {"rope": RopeConfig(500.0, None)}),
        ("mistral", {"sliding_window": 9}),
        ("qwen3", {"qk_norm": False}),
    ],
)
def test_the_goldens_notice_a_setting_that_is_not_obeyed(name: str, change: dict[str, Any]):
    config, params = load(GOLDEN / name)
    prompt = expected(name)["prompt"].tolist()
    found = prompt_logits(params, replace(config, **change), prompt)
    assert np.abs(found - expected(name)["logits"]).max() > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["llama-biases", "qwen2"])
def test_bfloat16_stays_close_to_float32(name: str):
    config, params = load(GOLDEN / name, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("bfloat16")}
    found = prompt_logits(params, config, expected(name)["prompt"].tolist())
    reference = expected(name)["logits"]
    # bfloat16 keeps 8 bits: about 0.4 % per rounding, and a few dozen roundings lie in the way.
    assert np.abs(found - reference).mean() < 0.05 * np.abs(reference).mean()


def dense_attend(config: ModelConfig) -> Any:
    """Attention within one prompt, keys and values kept nowhere."""

    def attend(kv: Any, layer: Any, q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        distance = jnp.arange(q.shape[0])[:, None] - jnp.arange(q.shape[0])
        seen = (distance >= 0) & (distance < (config.sliding_window or q.shape[0]))
        scores = jnp.einsum("tkgh,skh->kgts", q, k) * config.head_dim**-0.5
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
        return kv, jnp.einsum("kgts,skh->tkgh", weights, v)

    return attend


@pytest.mark.parametrize("name", ["llama-biases", "qwen2"])
def test_a_split_model_gives_the_same_logits(name: str):
    config, params = load(GOLDEN / name)
    mesh = Mesh(np.array(jax.devices()[2:4]), ("tp",))
    split = {"kv_heads": "tp", "mlp": "tp", "vocab": "tp"}
    specs = map_parameters(lambda _, p: P(*map(split.get, p.axes)), declare(config))

    def run(params: Any, tokens: jax.Array) -> jax.Array:
        positions = jnp.arange(tokens.shape[0])
        hidden, _ = forward(
            params, tokens, positions, (), dense_attend(config), config=config, axis="tp"
        )
        return logits(params, hidden, config=config, axis="tp")

    sharded = jax.shard_map(run, mesh=mesh, in_specs=(specs, P()), out_specs=P(), check_vma=False)
    found = jax.jit(sharded)(
        jax.tree.map(np.asarray, params), jnp.asarray(expected(name)["prompt"])
    )
    np.testing.assert_allclose(found, expected(name)["logits"], atol=TOLERANCE, rtol=0)


def test_leading_dimensions_are_generic():
    config, params = load(GOLDEN / "llama")
    prompt = jnp.asarray(expected("llama")["prompt"])
    tokens = jnp.stack([prompt, prompt[::-1]])
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
    attend = jax.vmap(dense_attend(config), in_axes=(None, None, 0, 0, 0), out_axes=(None, 0))

    @jax.jit
    def run(tokens: jax.Array, positions: jax.Array) -> jax.Array:
        hidden, _ = forward(params, tokens, positions, (), attend, config=config, axis=None)
        return logits(params, hidden, config=config, axis=None)

    found = run(tokens, positions)
    np.testing.assert_allclose(found[0], expected("llama")["logits"], atol=TOLERANCE, rtol=0)
