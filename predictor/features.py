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


def num_features(num_layers: int, hidden_size: int) -> int:
    """Return the width of what `features` makes of `num_layers` hidden states."""
    return num_layers * hidden_size + NUM_SCALARS


def features(
    hidden: Float[Array, "N L D"],
    generated: Int[Array, " N"],
    prompt_len: Int[Array, " N"],
    turn: Int[Array, " N"],
) -> Float[Array, "N F"]:
    """Put a row's hidden states and its place in the conversation side by side, in float32.

    `hidden`: of the last position that was run, one state for each layer that is looked at; each is
    normalised to mean 0 and variance 1, so that layers of unlike scale count alike. `generated`:
    tokens of the reply before the one that this state is about to sample. `turn`: 0 for the first
    of a conversation. Counts enter by their logarithm: what matters is their scale.
    """
    states = hidden.astype(jnp.float32)
    states = states - jnp.mean(states, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(states), axis=-1, keepdims=True)
    states = states * jax.lax.rsqrt(variance + EPSILON)
    counts = jnp.stack([generated, prompt_len, turn], axis=-1).astype(jnp.float32)
    return jnp.concatenate([states.reshape(len(states), -1), jnp.log1p(counts) / 4], axis=-1)


def pick_layers(
    hidden: NDArray[np.float16], recorded: tuple[int, ...], wanted: tuple[int, ...]
) -> NDArray[np.float16]:
    """Return those of the states [N, L, D] of `recorded` layers that a head wants, in its order.

    Raises ValueError for a layer that was not recorded.
    """
    for layer in wanted:
        if layer not in recorded:
            raise ValueError(f"layer {layer} was not recorded; recorded are {recorded}")
    return hidden[:, [recorded.index(layer) for layer in wanted]]
