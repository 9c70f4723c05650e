"""How does a position turn into a rotation of queries and keys?

Knows nothing of attention, caches or layers. Angles and rotations are computed in float32.
Dimension i of the first half of a head is paired with dimension i of the second half, which is
the layout of Hugging Face checkpoints.
"""

import math
from typing import assert_never

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from model.rope_config import LinearScaling, Llama3Scaling, RopeConfig


def inverse_frequencies(rope: RopeConfig, head_dim: int) -> np.ndarray:
    """Return float32 [H/2]: radians per position of each pair of dimensions.

    The plain form is theta ** (-2i / H) (RoFormer, section 3.2.2).
    """
    plain = rope.theta ** -(np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    match rope.scaling:
        case None:
            scaled = plain
        case LinearScaling(factor):
            scaled = plain / factor
        case Llama3Scaling() as scaling:
            scaled = _llama3(plain, scaling)
        case unreachable:
            assert_never(unreachable)
    return scaled.astype(np.float32)


def _llama3(plain: np.ndarray, scaling: Llama3Scaling) -> np.ndarray:
    """Blend plain and slowed frequencies by how often each turns in the original context.

    At most `low_freq_factor` turns: divided by `factor`; at least `high_freq_factor` turns:
    unchanged; linear in the number of turns between (the `llama3` rope type of Llama 3.1).
    """
    turns = scaling.original_max_position * plain / (2 * math.pi)
    span = scaling.high_freq_factor - scaling.low_freq_factor
    kept = np.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    return kept * plain + (1.0 - kept) * plain / scaling.factor


def rotation(
    positions: Int[Array, "*T"], rope: RopeConfig, head_dim: int
) -> tuple[Float[Array, "*T half"], Float[Array, "*T half"]]:
    """Return cosines and sines, float32 [T..., H/2], of every position's angles."""
    frequencies = jnp.asarray(inverse_frequencies(rope, head_dim))
    angles = positions[..., None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def rotate(
    x: Float[Array, "*T_heads H"],
    cos: Float[Array, "*T half"],
    sin: Float[Array, "*T half"],
) -> Float[Array, "*T_heads H"]:
    """Rotate x [T..., heads..., H] by its positions' angles; any number of head axes.

    Returns x's dtype; the arithmetic is float32.
    """
    heads = tuple(range(cos.ndim - 1, x.ndim - 1))
    cos, sin = jnp.expand_dims(cos, heads), jnp.expand_dims(sin, heads)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x.dtype)
