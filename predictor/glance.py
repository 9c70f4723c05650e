"""What does a length head see of the prompt itself? A few numbers, looked up once a reply.

A state says what a model needs for its next token, and seldom how much was asked for in all. That
stands in the prompt, whose keys and values lie in the row's pages. So learned queries attend to
those of one layer, over the prompt's last tokens, and what they find is projected to a few numbers
beside the row's states (ours: LOG.md has the figures). One function, for training and serving.

    queries [K, Q, H] . keys [S, K, H] -> softmax over S -> values [S, K, H] -> [K, Q, H] -> numbers

Knows neither pages nor heads.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

GlanceWeights = dict[str, jax.Array]
"""`queries` f32 [K, Q, H], `numbers` f32 [K, Q, H, numbers] and `bias` f32 [numbers]."""


@dataclass(frozen=True, slots=True)
class Glance:
    """How a prompt is looked at.

    `layer`, from 1: whose keys and values. `window`: how many of the prompt's last tokens.
    `queries`: learned for each key-value head; `numbers`: what is kept of all that they find.
    """

    layer: int
    window: int
    queries: int
    numbers: int
    kv_heads: int
    head_dim: int

    def init(self, key: jax.Array) -> GlanceWeights:
        """Draw weights: queries of the size of keys, and numbers of variance about 1."""
        asking, saying = jax.random.split(key)
        shape = (self.kv_heads, self.queries, self.head_dim)
        size = self.kv_heads * self.queries * self.head_dim
        return {
            "queries": jax.random.normal(asking, shape) / 2,
            "numbers": jax.random.normal(saying, (*shape, self.numbers)) * size**-0.5,
            "bias": jnp.zeros(self.numbers),
        }


def look(
    weights: GlanceWeights,
    keys: Float[Array, "N S K H"],
    values: Float[Array, "N S K H"],
    seen: Bool[Array, "N S"],
    axis: str | None,
) -> Float[Array, "N numbers"]:
    """Return what is kept of each prompt; `seen` says which positions belong to it, at least one.

    Under `axis`, the mesh axis of shard_map, keys and values are of this shard's heads only.
    """
    queries, numbers = weights["queries"], weights["numbers"]
    if axis is not None:
        heads = keys.shape[2]
        first = jax.lax.axis_index(axis) * heads
        queries = jax.lax.dynamic_slice_in_dim(queries, first, heads)
        numbers = jax.lax.dynamic_slice_in_dim(numbers, first, heads)
    scale = queries.shape[-1] ** -0.5
    scores = jnp.einsum("kqh,nskh->nkqs", queries * scale, keys.astype(jnp.float32))
    share = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf))
    found = jnp.einsum("nkqs,nskh->nkqh", share, values.astype(jnp.float32))
    said = jnp.einsum("nkqh,kqhm->nm", found, numbers)
    if axis is not None:
        said = jax.lax.psum(said, axis)
    return said + weights["bias"]
