"""What does a head keep of recorded prompts? Those of like length are looked at together.

For training and evaluation: a server looks at prompts in its pages (serving/engine/probe) by the
same function (predictor/glance).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from predictor.glance import Glance, GlanceWeights, look
from predictor.prompts import Prompts

LEAST_LENGTH = 32
"""Shorter prompts are padded to it; longer ones to the next of its multiples by powers of four."""
AT_ONCE = 128
"""Prompts that are looked at together."""


def padded_lengths(counts: NDArray[np.int64], window: int) -> NDArray[np.int64]:
    """Return to how many tokens prompts with so many are padded: few lengths, `window` at most."""
    power = np.ceil(np.log2(np.maximum(counts, LEAST_LENGTH) / LEAST_LENGTH) / 2)
    return np.minimum(LEAST_LENGTH * 4 ** power.astype(np.int64), max(window, LEAST_LENGTH))


def cut_out(
    kv: Float[Array, "T 2 K H"], begin: Int[Array, " N"], count: Int[Array, " N"], length: int
) -> tuple[Float[Array, "N S K H"], Float[Array, "N S K H"], Bool[Array, "N S"]]:
    """Return keys, values and which of them are there, of N prompts of at most `length` tokens."""
    place = jnp.arange(length, dtype=jnp.int32)
    own = kv[jnp.minimum(begin[:, None] + place, len(kv) - 1)]
    return own[:, :, 0], own[:, :, 1], place < count[:, None]


def glanced(
    how: Glance, weights: GlanceWeights, prompts: Prompts, kv: Float[Array, "T 2 K H"]
) -> NDArray[np.float32]:
    """Return what is kept of every prompt, [P, numbers]; `kv` is theirs, on a device."""
    begin, count = prompts.spans(how.window)
    lengths = padded_lengths(count, how.window)
    out = np.zeros((len(count), how.numbers), np.float32)
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        for start in range(0, len(alike), AT_ONCE):
            some = alike[start : start + AT_ONCE]
            padded = np.resize(some, AT_ONCE)
            said = _look(weights, kv, begin[padded], count[padded], length=int(length))
            out[some] = np.asarray(said)[: len(some)]
    return out


@partial(jax.jit, static_argnames="length")
def _look(
    weights: GlanceWeights, kv: jax.Array, begin: jax.Array, count: jax.Array, *, length: int
) -> jax.Array:
    keys, values, seen = cut_out(kv, begin, count, length)
    return look(weights, keys, values, seen, None)
