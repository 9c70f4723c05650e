import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry_2x32

from model.noise import gumbel, threefry


def test_threefry_is_the_published_function():
    """Against JAX's own, for which a flat vector of counters holds all first words first."""
    rng = np.random.default_rng(0)
    key, counter = rng.integers(0, 2**32, 2), rng.integers(0, 2**32, (2, 50))
    wanted = threefry_2x32(jnp.array(key, jnp.uint32), jnp.array(counter.ravel(), jnp.uint32))
    words = [jnp.array(words, jnp.uint32) for words in (*key, *counter)]
    got = threefry((words[0], words[1]), (words[2], words[3]))
    np.testing.assert_array_equal(np.concatenate(got), wanted)


def test_noise_has_the_moments_of_the_gumbel_distribution():
    """Mean 0.5772 and variance pi^2 / 6; the standard error of the mean of 100 000 is 0.004."""
    noise = np.array(gumbel(jnp.array([[1, -1]]), jnp.array([5]), 100_000))
    assert abs(noise.mean() - np.euler_gamma) < 0.016
    assert abs(noise.var() - np.pi**2 / 6) < 0.05
    assert np.isfinite(noise).all()


def test_noise_is_that_of_its_row():
    seeds, places = jnp.array([[1, 2], [3, 4]]), jnp.array([7, 7])
    together = gumbel(seeds, places, 9)
    np.testing.assert_array_equal(together[1:], gumbel(seeds[1:], places[1:], 9))
    assert (together[0] != together[1]).all()
    assert (together[0] != gumbel(seeds[:1], jnp.array([8]), 9)[0]).all()
