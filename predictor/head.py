"""Which networks read the remaining length off a row's features?

All give a curve: the chance of more tokens at each of `EDGES` up to the horizon. `HazardHead` is
ours (papers.md 5.4), `PointHead` the one of ARES (arXiv 2510.13668): a four-layer perceptron that
says one number, trained by L1 on the remaining tokens themselves. `BinsHead` is that of TRAIL
(arXiv 2410.01035), which tells classes of equal width apart. Knows nothing of where features come
from, nor of how a head is trained.
"""

from abc import ABC, abstractmethod
from math import log
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int
from numpy.typing import NDArray

from predictor.edges import EDGES, intervals_up_to
from predictor.hazard import alive_at_edges, survival_nll

Weights: TypeAlias = dict[str, dict[str, jax.Array]]
"""What `init` draws and training changes; a plain pytree."""

USUAL_HAZARD = 0.15
"""Chance to end in an interval before anything is learned: about that of lengths spread evenly over
their logarithms."""
BIN_TOKENS = 16


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
        """Return curves that fall from 1 to 0 around the number, at least 1: it is the median."""
        number = jnp.clip(self.read(weights, features) * self.horizon, 1, self.horizon)
        edges = jnp.array(EDGES[: intervals_up_to(self.horizon) + 1], jnp.float32)
        left, right = edges[:-1], edges[1:]
        share = jnp.clip((number - left) / (right - left), 0, 1)
        # A straight line through a half at the number, from 1 or to 0, whichever it reaches.
        ends = jnp.where(share > 0.5, 1 - 0.5 / jnp.maximum(share, 0.5), 0.0)
        begins = jnp.where(share < 0.5, 0.5 / jnp.maximum(1 - share, 0.5), 1.0)
        ahead = jnp.concatenate([begins[:, 1:], jnp.ones((len(begins), 1))], axis=1)
        falls = jnp.where(number > right, ahead, ends)
        return jnp.concatenate([jnp.ones((len(falls), 1)), falls], axis=1)


class BinsHead(Head):
    """One logit per bin of `BIN_TOKENS` remaining tokens; cross-entropy, in nats.

    A reply that was cut off counts as if it had ended. Longer ones fall into the last bin.
    """

    def __init__(self, widths: tuple[int, ...], horizon: int) -> None:
        """Make the network."""
        super().__init__(Perceptron(widths, num_bins(horizon), 0.0), horizon)

    def loss(
        self, weights: Weights, features: jax.Array, remaining: jax.Array, censored: jax.Array
    ) -> jax.Array:
        """Return the cross-entropy of each record."""
        del censored
        logits = self.read(weights, features)
        own = jnp.minimum((remaining - 1) // BIN_TOKENS, logits.shape[1] - 1)
        return optax.softmax_cross_entropy_with_integer_labels(logits, own)

    def chances(self, weights: Weights, features: Float[Array, "N F"]) -> Float[Array, "N B"]:
        """Return the chance of each bin."""
        return jax.nn.softmax(self.read(weights, features))

    def alive(self, weights: Weights, features: jax.Array) -> jax.Array:
        """Return the curves."""
        heights = self.chances(weights, features) @ bin_curves(self.horizon).astype(np.float32)
        return jax.lax.cummin(heights.at[:, 0].set(1.0), axis=1)


def num_bins(horizon: int) -> int:
    """Count the bins up to `horizon` tokens."""
    return -(-horizon // BIN_TOKENS)


def bin_curves(horizon: int) -> NDArray[np.float64]:
    """Return the curve of each bin, [B, E]: its mass is spread evenly over it."""
    edges = np.array(EDGES[: intervals_up_to(horizon) + 1], np.float64)
    ends = BIN_TOKENS * np.arange(1, num_bins(horizon) + 1)
    return np.clip((ends[:, None] - edges[None, :]) / BIN_TOKENS, 0, 1)


def num_parameters(weights: Weights) -> int:
    """Count the numbers in a head."""
    return sum(leaf.size for leaf in jax.tree.leaves(weights))
