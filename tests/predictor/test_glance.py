"""A look at a prompt: what attention by hand finds, and what it must not depend on."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from predictor.glance import Glance, look

HOW = Glance(layer=1, window=5, queries=3, numbers=2, kv_heads=2, head_dim=4)
N, S = 3, 5


@pytest.fixture
def drawn():
    random = np.random.default_rng(0)
    keys, values = jnp.asarray(random.normal(size=(2, N, S, HOW.kv_heads, HOW.head_dim)))
    seen = jnp.arange(S) < jnp.array([5, 1, 3])[:, None]
    weights = HOW.init(jax.random.key(1)) | {"bias": jnp.array([0.5, -1.0])}
    return weights, keys, values, seen


def test_every_query_weighs_what_it_sees_by_its_likeness(drawn):
    weights, keys, values, seen = drawn
    queries, numbers = np.asarray(weights["queries"]), np.asarray(weights["numbers"])
    wanted = np.tile(np.asarray(weights["bias"]), (N, 1))
    for n in range(N):
        for k in range(HOW.kv_heads):
            for q in range(HOW.queries):
                scores = [keys[n, s, k] @ queries[k, q] / 2 for s in range(int(seen[n].sum()))]
                shares = np.exp(scores) / np.exp(scores).sum()
                found = sum(share * values[n, s, k] for s, share in enumerate(shares))
                wanted[n] += found @ numbers[k, q]
    np.testing.assert_allclose(look(weights, keys, values, seen, None), wanted, rtol=1e-5)


def test_what_is_not_of_the_prompt_does_not_count_whatever_it_is(drawn):
    weights, keys, values, seen = drawn
    clean = look(weights, keys, values, seen, None)
    hidden = ~seen[:, :, None, None]
    other = look(weights, jnp.where(hidden, 1e4, keys), jnp.where(hidden, -7, values), seen, None)
    np.testing.assert_array_equal(clean, other)


def test_shards_of_the_heads_find_together_what_one_device_finds(drawn):
    weights, keys, values, seen = drawn
    mesh = Mesh(np.array(jax.devices()[:2]), ("tensor",))
    heads = P(None, None, "tensor")
    sharded = jax.shard_map(
        partial(look, axis="tensor"),
        mesh=mesh,
        in_specs=(P(), heads, heads, P()),
        out_specs=P(),
    )
    together = jax.jit(sharded)(weights, keys, values, seen)
    np.testing.assert_allclose(together, look(weights, keys, values, seen, None), rtol=1e-5)


def test_drawn_queries_tell_prompts_apart():
    random = np.random.default_rng(2)
    keys, values = jnp.asarray(random.normal(size=(2, 64, S, HOW.kv_heads, HOW.head_dim)))
    said = look(HOW.init(jax.random.key(0)), keys, values, jnp.ones((64, S), bool), None)
    assert (np.std(said, axis=0) > 0.1).all()
