"""How does a hidden state become a score for every token of the vocabulary?

Knows nothing of sampling.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from model.config import ModelConfig
from model.parameters import Params


def logits(
    params: Params, hidden: Float[Array, "*T D"], *, config: ModelConfig, axis: str | None
) -> Float[Array, "*T V"]:
    """Return float32 scores over the full vocabulary, gathered on every shard under `axis`.

    A tied model scores with its embedding table.
    """
    table = params["embed"] if config.tie_embeddings else params["head"]
    scores = jnp.einsum("...d,vd->...v", hidden, table, preferred_element_type=jnp.float32)
    if axis is None:
        return scores
    return jax.lax.all_gather(scores, axis, axis=scores.ndim - 1, tiled=True)
