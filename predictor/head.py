"""Which networks read the remaining length off a row's features?

Both give a curve: the chance of more tokens at each of `EDGES` up to the horizon. `HazardHead` is
ours (papers.md 5.4), `PointHead` the one of ARES (arXiv 2510.13668): a four-layer perceptron that
says one number, trained by L1 on the remaining tokens themselves. Knows nothing of where features
come from, nor of how a head is trained.
"""

from abc import ABC, abstractmethod
from math import log
from typing import Any, TypeAlias

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


class Head(ABC):
    """A network with its loss, for remaining lengths of up to `horizon` tokens.

    Immutable; its weights are kept apart.
    """

    def __init__(self, net: Perceptron, horizon: int) -> None:
        self.horizon = horizon
        self._net = net

    def init(self, key: jax.Array, num_features: int) -> Weights:
        """Draw weights."""
        made: Any = self._net.init(key, jnp.zeros((1, num_features)))
        return dict(made["params"])

    def read(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, "N O"]:
        """Return what the network says."""
        said: Any = self._net.apply({"params": weights}, features)
        return said

    @abstractmethod
    def loss(
        self,
        weights: Weights,
        features: Float[Array, "N F"],
        remaining: Int[Array, " N"],
        censored: Bool[Array, " N"],
    ) -> Float[Array, " N"]:
        """Return what training makes small, for each record."""

    @abstractmethod
    def alive(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, "N E"]:
        """Return the chance of more than `EDGES[i]` tokens still to come, up to the horizon."""


class HazardHead(Head):
    """One logit per interval of remaining tokens; censored survival likelihood, in nats."""

    def __init__(self, widths: tuple[int, ...], horizon: int) -> None:
        """Make the network."""
        bias = log(USUAL_HAZARD / (1 - USUAL_HAZARD))
        super().__init__(Perceptron(widths, intervals_up_to(horizon), bias), horizon)

    def loss(
        self, weights: Weights, features: jax.Array, remaining: jax.Array, censored: jax.Array
    ) -> jax.Array:
        """Return the negative log-likelihood of each record."""
        return survival_nll(self.read(weights, features), remaining, censored)

    def alive(self, weights: Weights, features: jax.Array) -> jax.Array:
        """Return the curves."""
        return alive_at_edges(self.read(weights, features))


class PointHead(Head):
    """One number: the remaining tokens. L1; a reply that was cut off counts as if it had ended.

    The number is learned in units of the horizon, with the same minimum: at the scale of tokens an
    L1 gradient of one takes very long to reach thousands (papers.md 4.2).
    """

    def __init__(self, widths: tuple[int, ...], horizon: int) -> None:
        """Make the network."""
        super().__init__(Perceptron(widths, 1, 0.0), horizon)

    def loss(
        self, weights: Weights, features: jax.Array, remaining: jax.Array, censored: jax.Array
    ) -> jax.Array:
        """Return each record's absolute error, in horizons."""
        del censored
        return jnp.abs(self.read(weights, features)[:, 0] - remaining / self.horizon)

    def alive(self, weights: Weights, features: jax.Array) -> jax.Array:
        """Return curves that fall from 1 to 0 at the edge next to the number, at least 1."""
        number = jnp.clip(self.read(weights, features) * self.horizon, 1, self.horizon)
        edges = jnp.array(EDGES[: intervals_up_to(self.horizon) + 1], jnp.float32)
        return (edges[None, :] < number).astype(jnp.float32)


def num_parameters(weights: Weights) -> int:
    """Count the numbers in a head."""
    return sum(leaf.size for leaf in jax.tree.leaves(weights))
