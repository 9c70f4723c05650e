"""How does the model attend over pages? One operation, and a choice between its backends.

The pool is only read while the layers run; each layer's new keys and values are collected, and
`kv_pages.write` stores them all at once afterwards. So the pool needs no copy, and the update is
one scatter a step. Knows nothing of slots, sampling or what the tokens are.
"""

from typing import Literal, assert_never

import jax
import jax.numpy as jnp

from model.attention import blocked, reference
from model.attention.inputs import Places, StepInputs
from model.transformer import Attend

Backend = Literal["reference", "blocked"]


def empty_fresh(pool: jax.Array, num_tokens: int) -> jax.Array:
    """Return [L, T, 2, K, H] of zeros: where a step collects its tokens' keys and values."""
    layers, _, _, heads, _, head_dim = pool.shape
    return jnp.zeros((layers, num_tokens, 2, heads, head_dim), pool.dtype)


def attend_over(
    pool: jax.Array,
    inputs: StepInputs,
    places: Places,
    *,
    window: int | None,
    backend: Backend,
) -> Attend:
    """Return the `attend` of one step over pool [L, P, 2, K, page_size, H].

    Its kv is `empty_fresh`, into which it writes layer by layer.
    """

    def attend(
        fresh: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        new = jnp.stack([k, v], axis=1).astype(fresh.dtype)
        fresh = jax.lax.dynamic_update_index_in_dim(fresh, new, layer, 0)
        match backend:
            case "blocked":
                past = blocked.Past(pool, layer, window=window)
                out = blocked.attention(past, q, k, v, inputs, places)
            case "reference":
                out = reference.attention(pool[layer], q, k, v, inputs, places, window=window)
            case unreachable:
                assert_never(unreachable)
        return fresh, out

    return attend
