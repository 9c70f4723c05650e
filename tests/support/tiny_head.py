"""A length head for the tiny model of `tiny_cluster`, with weights as training may leave them."""

import jax

from predictor.glance import Glance
from predictor.head import Weights
from predictor.saved import HeadSpec

HIDDEN_SIZE = 32
REACH = 4
LAYERS = (2, 1)
GLANCE = Glance(layer=2, window=6, queries=2, numbers=3, kv_heads=2, head_dim=8)
"""Looks at fewer tokens than prompts have here, and at no whole number of pages."""


def head_spec(reach: int | None = REACH, glance: Glance | None = GLANCE) -> HeadSpec:
    return HeadSpec("hazard", (8,), 256, LAYERS, HIDDEN_SIZE, "weights", "tokens", reach, glance)


def head_weights(spec: HeadSpec) -> Weights:
    """Weights with which curves differ from place to place, and from prompt to prompt."""
    drawn = spec.init(jax.random.key(3))
    return jax.tree.map(lambda leaf: leaf * 2 + 0.05, drawn)
