"""How is a softmax over keys that arrive in blocks kept? A running maximum, sum and weighted sum.

The online softmax of FlashAttention (section 3.1), in float32. Knows nothing of pages or masks:
masked scores are -inf, and a block of which a query sees nothing changes nothing, bit for bit.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

WeightedSum = Callable[[jax.Array], jax.Array]  # weights f32 [..., S] -> f32 [..., H]


class Running(NamedTuple):
    """The softmax so far of each query [...]; `best` is finite from the start."""

    best: jax.Array  # f32 [...]
    total: jax.Array  # f32 [...]
    weighted: jax.Array  # f32 [..., H]

    def add(self, scores: jax.Array, weighted: WeightedSum) -> "Running":
        """Take in a block: its scores f32 [..., S], and how its values are summed by weight."""
        best = jnp.maximum(self.best, jnp.max(scores, axis=-1))
        weights = jnp.exp(scores - best[..., None])
        fade = jnp.exp(self.best - best)
        return Running(
            best,
            self.total * fade + jnp.sum(weights, axis=-1),
            self.weighted * fade[..., None] + weighted(weights),
        )

    def result(self) -> jax.Array:
        """Return the weighted mean of all values, f32 [..., H]."""
        return self.weighted / self.total[..., None]
