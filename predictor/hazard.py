"""How likely is a reply to end in each interval, given that it has reached it? Losses and curves.

A head says one logit per interval between `EDGES`: sigmoid of it is the chance to end there. A
reply that was cut off is known to have outlived what it outlived, and nothing else (right-censored;
papers.md 5.3 and 5.4). Within an interval a reply ends at any token alike, as in
serving/forecast/survival.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from predictor.edges import EDGES


def survival_nll(
    logits: Float[Array, "N K"], remaining: Int[Array, " N"], censored: Bool[Array, " N"]
) -> Float[Array, " N"]:
    """Return each reply's negative log-likelihood, in nats.

    `remaining`: tokens, at least 1, after which the reply ended, or was cut off if `censored`: then
    it would have had more. One that was cut within an interval has outlived its share of it.
    """
    left, right = _bounds(logits.shape[1])
    length = remaining[:, None].astype(jnp.float32)
    stays, ends = jax.nn.log_sigmoid(-logits), jax.nn.log_sigmoid(logits)
    ended_in = (length > left) & (length <= right) & ~censored[:, None]
    share = jnp.clip((length - left) / (right - left), 0, 1)
    cut_in = jnp.log1p(-jnp.where(share < 1, share, 0) * jax.nn.sigmoid(logits))
    outlived = jnp.where(ended_in, 0, jnp.where(share < 1, cut_in, stays))
    return -jnp.sum(outlived + ended_in * ends, axis=1)


def alive_at_edges(logits: Float[Array, "N K"]) -> Float[Array, "N K_plus_1"]:
    """Return the chance of more than `EDGES[i]` tokens still to come, for i in 0..K; 1 at first."""
    log_alive = jnp.cumsum(jax.nn.log_sigmoid(-logits), axis=1)
    return jnp.concatenate([jnp.ones((len(logits), 1)), jnp.exp(log_alive)], axis=1)


def logits_of(alive: Float[np.ndarray, "N K_plus_1"]) -> Float[np.ndarray, "N K"]:
    """Return the logits of curves: what `alive_at_edges` undoes, for curves that stay above 0."""
    stays = alive[:, 1:] / alive[:, :-1]
    return np.log1p(-stays) - np.log(stays)


def _bounds(intervals: int) -> tuple[jax.Array, jax.Array]:
    edges = jnp.array(EDGES[: intervals + 1], jnp.float32)
    return edges[:-1], edges[1:]
