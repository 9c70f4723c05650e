"""A length head for the tiny model of `tiny_cluster`, with weights as training may leave them."""

import jax

from predictor.head import Weights
from predictor.saved import HeadSpec

HIDDEN_SIZE = 32
REACH = 4
LAYERS = (2, 1)


def head_spec(reach: int | None = REACH) -> HeadSpec:
    return HeadSpec("hazard", (8,), 256, LAYERS, HIDDEN_SIZE, "weights", "tokens", reach)


def head_weights(spec: HeadSpec) -> Weights:
    """Weights with which curves differ from place to place."""
    drawn = spec.build().init(jax.random.key(3), spec.num_features)
    return jax.tree.map(lambda leaf: leaf * 2 + 0.05, drawn)
