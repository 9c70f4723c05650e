"""How do the portable backends attend? They read the pool in every layer and write it once.

Each layer's new keys and values are collected, and `kv_pages.write` stores them all at once after
the last layer. So the pool needs no copy, and the update is one scatter a step. Knows nothing of
slots, sampling or what the tokens are.
"""

from dataclasses import dataclass
from typing import Literal, assert_never

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model import kv_pages
from model.attention import blocked, reference
from model.attention.backend import StepAttention
from model.attention.inputs import Places, StepInputs
from model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class Portable:
    """A backend in plain JAX over head-major pages: it runs anywhere and refuses nothing."""

    name: Literal["reference", "blocked"]
    pool_axes: tuple[str, ...] = kv_pages.AXES

    def pool_shape(self, config: ModelConfig, *, num_pages: int, page_size: int) -> tuple[int, ...]:
        """Return [L, P, 2, K, page_size, H]."""
        return kv_pages.pool_shape(config, num_pages=num_pages, page_size=page_size)

    def refusal(
        self, config: ModelConfig, *, page_size: int, degree: int, platform: str
    ) -> str | None:
        """Return None."""
        return None

    def over(
        self,
        pool: jax.Array,
        inputs: StepInputs,
        places: Places,
        *,
        group: int,
        window: int | None,
    ) -> StepAttention:
        """Attend over pool [L, P, 2, K, page_size, H]; kv collects [L, T, 2, K, H]."""

        def attend(
            fresh: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
        ) -> tuple[jax.Array, jax.Array]:
            new = kv_pages.kept(jnp.stack([k, v], axis=1), fresh.dtype)
            fresh = jax.lax.dynamic_update_index_in_dim(fresh, new, layer, 0)
            k, v = new[:, 0].astype(k.dtype), new[:, 1].astype(v.dtype)
            match self.name:
                case "blocked":
                    past = blocked.Past(pool, layer, read_as=q.dtype, window=window)
                    out = blocked.attention(past, q, k, v, inputs, places)
                case "reference":
                    out = reference.attention(pool[layer], q, k, v, inputs, places, window=window)
                case unreachable:
                    assert_never(unreachable)
            return fresh, out

        def store(fresh: jax.Array) -> jax.Array:
            return kv_pages.write(pool, fresh, places.page, places.offset)

        layers, _, _, heads, _, head_dim = pool.shape
        num_tokens = len(places.position)
        fresh = jnp.zeros((layers, num_tokens, 2, heads, head_dim), pool.dtype)
        return StepAttention(fresh, attend, store)

    def read(
        self, pool: jax.Array, layer: int, pages: Int[Array, "*n"]
    ) -> tuple[Float[Array, "*n size K H"], Float[Array, "*n size K H"]]:
        """Copy keys and values of a layer out of pool [L, P, 2, K, page_size, H]."""
        return kv_pages.read(pool, layer, pages)


REFERENCE = Portable("reference")
BLOCKED = Portable("blocked")
