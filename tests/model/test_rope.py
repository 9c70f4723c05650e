"""Rotations equal complex multiplication; scalings equal their definitions."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.config import LinearScaling, Llama3Scaling, RopeConfig
from model.rope import inverse_frequencies, rotate, rotation

PLAIN = RopeConfig(10000.0, None)


def turned(x: np.ndarray, positions: list[int], rope: RopeConfig) -> np.ndarray:
    cos, sin = rotation(jnp.asarray(positions), rope, x.shape[-1])
    return np.asarray(rotate(jnp.asarray(x), cos, sin))


def test_a_pair_is_one_complex_number(rng: np.random.Generator):
    x = rng.normal(size=(3, 2, 5, 8)).astype(np.float32)  # T, two axes of heads, H
    positions = [0, 7, 1000]
    angles = np.array(positions)[:, None] * 10000.0 ** -(np.arange(4) / 4)
    whole = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * angles)[:, None, None]
    expected = np.concatenate([whole.real, whole.imag], axis=-1)
    np.testing.assert_allclose(turned(x, positions, PLAIN), expected, atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(a=st.integers(0, 500), b=st.integers(0, 500), shift=st.integers(0, 500))
def test_scores_depend_on_the_distance_alone(a: int, b: int, shift: int):
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 16)).astype(np.float32)

    def score(i: int, j: int) -> float:
        return float((turned(q, [i], PLAIN) * turned(k, [j], PLAIN)).sum())

    assert score(a, b) == pytest.approx(score(a + shift, b + shift), abs=2e-3)


def test_linear_scaling_divides_positions(rng: np.random.Generator):
    x = rng.normal(size=(2, 8)).astype(np.float32)
    scaled = turned(x, [8, 12], RopeConfig(10000.0, LinearScaling(4.0)))
    np.testing.assert_allclose(scaled, turned(x, [2, 3], PLAIN), atol=1e-5)


def test_llama3_keeps_short_waves_and_slows_long_ones():
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    plain = inverse_frequencies(RopeConfig(500000.0, None), 128)
    scaled = inverse_frequencies(RopeConfig(500000.0, scaling), 128)
    wavelengths = 2 * np.pi / plain
    short, long = wavelengths < 8192 / 4, wavelengths > 8192 / 1
    assert short.any()
    assert long.any()
    np.testing.assert_allclose(scaled[short], plain[short], rtol=1e-6)
    np.testing.assert_allclose(scaled[long], plain[long] / 8, rtol=1e-6)
    between = ~short & ~long
    assert between.any()
    # Llama 3.1's own formula for the ramp between.
    smooth = (8192 / wavelengths[between] - 1) / (4 - 1)
    expected = (1 - smooth) * plain[between] / 8 + smooth * plain[between]
    np.testing.assert_allclose(scaled[between], expected, rtol=1e-5)


def test_the_dtype_of_the_input_is_kept(rng: np.random.Generator):
    cos, sin = rotation(jnp.asarray([3]), PLAIN, 8)
    x = jnp.asarray(rng.normal(size=(1, 8)), jnp.bfloat16)
    exact = rotate(x.astype(jnp.float32), cos, sin)
    assert rotate(x, cos, sin).dtype == jnp.bfloat16
    # One rounding at the end, none inside: float32 arithmetic.
    np.testing.assert_array_equal(rotate(x, cos, sin), exact.astype(jnp.bfloat16))
