"""What does a length head see of a row? One function, for collection, training and serving.

Knows neither heads nor engines.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

NUM_SCALARS = 3
EPSILON = 1e-6


def num_features(num_states: int, hidden_size: int) -> int:
    """Return the width of what `features` makes of `num_states` hidden states."""
    return num_states * hidden_size + NUM_SCALARS


def normalised(states: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
    """Return states with mean 0 and variance 1 in float32: layers of unlike scale count alike."""
    states = states.astype(jnp.float32)
    states = states - jnp.mean(states, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(states), axis=-1, keepdims=True)
    return states * jax.lax.rsqrt(variance + EPSILON)


def recent_mean(
    mean: Float[Array, "*N D"],
    states: Float[Array, "*N D"],
    count: Int[Array, "..."],
    reach: int,
) -> Float[Array, "*N D"]:
    """Return the mean of a row's normalised states, with the newest of them folded in.

    `count`: states that the mean is then of, at least 1; broadcast over the states. Up to `reach`
    all of them weigh alike, from there on older ones fade. At one place a model knows what it needs
    for the next token; over some, how far it has come (ours: LOG.md has the figures).
    """
    share = 1 / jnp.minimum(count, reach).astype(jnp.float32)
    return mean + (normalised(states) - mean) * share


def features(
    hidden: Float[Array, "N L D"],
    generated: Int[Array, " N"],
    prompt_len: Int[Array, " N"],
    turn: Int[Array, " N"],
    glanced: Float[Array, "N numbers"] | None = None,
) -> Float[Array, "N F"]:
    """Put a row's hidden states and its place in the conversation side by side, in float32.

    `hidden`: of the last position that was run, one state for each layer that is looked at, then,
    if the head wants them, the recent mean of each. `generated`: tokens of the reply before the one
    that this state is about to sample. `turn`: 0 for the first of a conversation. Counts enter by
    their logarithm: what matters is their scale. `glanced`: what was kept of the prompt
    (predictor/glance), if the head looks at it.
    """
    states = normalised(hidden)
    counts = jnp.stack([generated, prompt_len, turn], axis=-1).astype(jnp.float32)
    seen = [states.reshape(len(states), -1), jnp.log1p(counts) / 4]
    return jnp.concatenate(seen if glanced is None else [*seen, glanced], axis=-1)


def pick_layers(
    hidden: NDArray[np.float16],
    recorded: tuple[int, ...],
    wanted: tuple[int, ...],
    *,
    means: bool,
) -> NDArray[np.float16]:
    """Return those of the states [N, L, D] of `recorded` layers that a head wants, in its order.

    With `means` the recent means of the same layers follow; they are the second half of `hidden`.
    Raises ValueError for what was not recorded.
    """
    for layer in wanted:
        if layer not in recorded:
            raise ValueError(f"layer {layer} was not recorded; recorded are {recorded}")
    places = [recorded.index(layer) for layer in wanted]
    if means:
        if hidden.shape[1] != 2 * len(recorded):
            raise ValueError("recent means were not recorded; collect with --reach")
        places += [len(recorded) + place for place in places]
    return hidden[:, places]
