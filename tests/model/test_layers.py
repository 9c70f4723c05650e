"""The shared blocks equal their formulas, and their means are float32."""

import jax.numpy as jnp
import numpy as np

from model.layers import embed, gated_mlp, rms_norm


def test_rms_norm(rng: np.random.Generator):
    x, weight = rng.normal(size=(3, 8)), rng.normal(size=8)
    expected = weight * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 0.1)
    found = rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32), eps=0.1)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_mean_of_a_bfloat16_norm_is_float32():
    # A bfloat16 sum of ones stops growing at 256; the float32 mean is exactly one.
    ones = jnp.ones((1, 4096), jnp.bfloat16)
    found = rms_norm(ones, ones[0], eps=0.0)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, ones)


def test_gated_mlp(rng: np.random.Generator):
    x, gate_up, down = (rng.normal(size=shape) for shape in ((3, 4), (4, 2, 5), (5, 4)))
    gate_up_bias, down_bias = rng.normal(size=(2, 5)), rng.normal(size=4)
    gate, up = x @ gate_up[:, 0] + gate_up_bias[0], x @ gate_up[:, 1] + gate_up_bias[1]
    expected = (gate / (1 + np.exp(-gate)) * up) @ down + down_bias
    layer = {
        "gate_up": gate_up,
        "gate_up_bias": gate_up_bias,
        "down": down,
        "down_bias": down_bias,
    }
    layer = {name: jnp.asarray(value, jnp.float32) for name, value in layer.items()}
    found = gated_mlp(jnp.asarray(x, jnp.float32), layer, axis=None)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_embedding_of_any_leading_shape(rng: np.random.Generator):
    table = rng.normal(size=(7, 4)).astype(np.float32)
    tokens = jnp.asarray([[0, 6], [3, 3]])
    np.testing.assert_array_equal(
        embed(tokens, jnp.asarray(table), axis=None), table[[[0, 6], [3, 3]]]
    )
