"""Which random number belongs to a seed and a place? The same on every platform and JAX version.

Threefry-2x32 with 20 rounds (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011),
written out because it compiles in a fraction of the time that a `jax.random` key takes, and every
step program holds a copy. Knows nothing of sampling.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

_PARITY = np.uint32(0x1BD11BDA)
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


def threefry(
    key: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
    counter: tuple[UInt32[Array, "..."], UInt32[Array, "..."]],
) -> tuple[jax.Array, jax.Array]:
    """Return two random words for each pair of counter words; keys and counters broadcast."""
    keys = (*key, key[0] ^ key[1] ^ _PARITY)
    x, y = counter[0] + keys[0], counter[1] + keys[1]
    for group in range(5):
        for rotation in _ROTATIONS[group % 2]:
            x = x + y
            y = ((y << np.uint32(rotation)) | (y >> np.uint32(32 - rotation))) ^ x
        x = x + keys[(group + 1) % 3]
        y = y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def gumbel(seeds: Int[Array, "R 2"], places: Int[Array, " R"], size: int) -> Float[Array, "R size"]:
    """Return standard Gumbel noise; entry (r, i) depends on seeds[r], places[r] and i alone."""
    key = jax.lax.bitcast_convert_type(seeds, jnp.uint32)
    counter = (places.astype(jnp.uint32)[:, None], jnp.arange(size, dtype=jnp.uint32)[None])
    bits, _ = threefry((key[:, :1], key[:, 1:]), counter)
    # 23 random bits become a number in [0, 1) by way of the mantissa of [1, 2).
    one = np.float32(1).view(np.uint32)
    uniform = jax.lax.bitcast_convert_type((bits >> np.uint32(9)) | one, jnp.float32) - 1.0
    return -jnp.log(-jnp.log(jnp.maximum(uniform, np.finfo(np.float32).tiny)))
