"""Which networks read the remaining length off a row's features?

Both give a curve: the chance of more tokens at each of `EDGES` up to the horizon. `HazardHead` is
ours (papers.md 5.4), `PointHead` the one of ARES (arXiv 2510.13668): a four-layer perceptron that
says one number, trained by L1 on the remaining tokens themselves. Knows nothing of where features
come from, nor of how a head is trained.
"""

from math import log
from typing import Any, Protocol, TypeAlias, runtime_checkable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from predictor.edges import EDGES, intervals_up_to
from predictor.hazard import alive_at_edges, survival_nll

Weights: TypeAlias = dict[str, dict[str, jax.Array]]
"""What `init` draws and training changes; a plain pytree."""

USUAL_HAZARD = 0.15
"""Chance to end in an interval before anything is learned: about that of lengths spread evenly over
their logarithms."""


@runtime_checkable
class Head(Protocol):
    """A network with its loss. Immutable; its weights are kept apart."""

    horizon: int

    def init(self, key: jax.Array, num_features: int) -> Weights:
        """Draw weights."""
        ...

    def loss(
        self,
        weights: Weights,
        features: Float[Array, "N F"],
        remaining: Int[Array, " N"],
        censored: Bool[Array, " N"],
    ) -> Float[Array, " N"]:
        """Return what training makes small, for each record."""
        ...

    def alive(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, "N E"]:
        """Return the chance of more than `EDGES[i]` tokens still to come, up to the horizon."""
        ...


class Perceptron(nn.Module):
    """Dense layers with SiLU in between."""

    widths: tuple[int, ...]
    outputs: int
    first_bias: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [N, outputs]."""
        for width in self.widths:
            x = nn.silu(nn.Dense(width)(x))
        bias = nn.initializers.constant(self.first_bias)
        return nn.Dense(self.outputs, bias_init=bias)(x)


class HazardHead:
    """One logit per interval of remaining tokens; censored survival likelihood."""

    def __init__(self, widths: tuple[int, ...], horizon: int) -> None:
        """Read remaining lengths of up to `horizon` tokens."""
        self.horizon = horizon
        bias = log(USUAL_HAZARD / (1 - USUAL_HAZARD))
        self._net = Perceptron(widths, intervals_up_to(horizon), bias)

    def init(self, key: jax.Array, num_features: int) -> Weights:
        """Draw weights."""
        return _init(self._net, key, num_features)

    def logits(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, "N K"]:
        """Return the hazards' logits."""
        return _apply(self._net, weights, features)

    def loss(
        self,
        weights: Weights,
        features: Float[Array, "N F"],
        remaining: Int[Array, " N"],
        censored: Bool[Array, " N"],
    ) -> Float[Array, " N"]:
        """Return the negative log-likelihood of each record, in nats."""
        return survival_nll(self.logits(weights, features), remaining, censored)

    def alive(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, "N E"]:
        """Return the curves."""
        return alive_at_edges(self.logits(weights, features))


class PointHead:
    """One number: the remaining tokens. L1; a reply that was cut off counts as if it had ended.

    The number is learned in units of the horizon, with the same minimum: at the scale of tokens an
    L1 gradient of one takes very long to reach thousands (papers.md 4.2).
    """

    def __init__(self, widths: tuple[int, ...], horizon: int) -> None:
        """Read remaining lengths of up to `horizon` tokens."""
        self.horizon = horizon
        self._net = Perceptron(widths, 1, 0.0)

    def init(self, key: jax.Array, num_features: int) -> Weights:
        """Draw weights."""
        return _init(self._net, key, num_features)

    def remaining(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, " N"]:
        """Return the tokens still to come, at least 1."""
        share = _apply(self._net, weights, features)[:, 0]
        return jnp.clip(share * self.horizon, 1, self.horizon)

    def loss(
        self,
        weights: Weights,
        features: Float[Array, "N F"],
        remaining: Int[Array, " N"],
        censored: Bool[Array, " N"],
    ) -> Float[Array, " N"]:
        """Return each record's absolute error, in horizons."""
        del censored
        share = _apply(self._net, weights, features)[:, 0]
        return jnp.abs(share - remaining / self.horizon)

    def alive(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, "N E"]:
        """Return curves that fall from 1 to 0 at the edge next to the number."""
        edges = jnp.array(EDGES[: intervals_up_to(self.horizon) + 1], jnp.float32)
        return (edges[None, :] < self.remaining(weights, features)[:, None]).astype(jnp.float32)


def num_parameters(weights: Weights) -> int:
    """Count the numbers in a head."""
    return sum(leaf.size for leaf in jax.tree.leaves(weights))


def _init(net: Perceptron, key: jax.Array, num_features: int) -> Weights:
    made: Any = net.init(key, jnp.zeros((1, num_features)))
    return dict(made["params"])


def _apply(net: Perceptron, weights: Weights, features: jax.Array) -> jax.Array:
    out = net.apply({"params": weights}, features)
    assert isinstance(out, jax.Array)
    return out
