"""How does what is no number stay in the row that it comes from?

A mask hides a score but not a value: a weight of 0 times NaN is NaN, so one row's NaN would reach
every row whose attention passes over it, in this step or wherever its page is read later. Hence
keys and values that are not finite are stored, and seen by others, as zeros, and the token that
they belong to attends with NaN instead: its own hidden state is NaN from there on, which whoever
runs the step looks for in the end. All of it is elementwise work on arrays that are at hand, and
fuses with what made them. Knows no backend; every backend may count on finite keys and values, in
the step and in the pool, and has to keep a query that is NaN from other queries' results.
"""

from typing import Any

import jax
import jax.numpy as jnp

from model.transformer import Attend


def contained(attend: Attend) -> Attend:
    """Return `attend` with every token's NaN and infinities kept to its own output."""

    def inner(
        kv: Any, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[Any, jax.Array]:
        sound = jnp.isfinite(k) & jnp.isfinite(v)  # [T, K, H]
        q = jnp.where(sound[:, :, None], q, jnp.nan)
        return attend(kv, layer, q, jnp.where(sound, k, 0), jnp.where(sound, v, 0))

    return inner
