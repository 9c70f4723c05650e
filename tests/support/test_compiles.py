import jax
import jax.numpy as jnp
import pytest

from tests.support.compiles import no_compiles


def test_no_compiles_fires_on_a_new_shape_only():
    double = jax.jit(lambda x: x * 2)
    old, new = jnp.zeros(3), jnp.zeros(4)
    double(old).block_until_ready()
    with no_compiles():
        double(old).block_until_ready()
    with pytest.raises(AssertionError, match="compiled after warm-up"), no_compiles():
        double(new).block_until_ready()
    double(jnp.zeros(5))  # the listener is gone
