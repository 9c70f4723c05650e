"""Where do keys and values live between steps? One pool of fixed pages per worker.

The pool is one array [L, P, ...]: layers, pages, and what a page looks like, which is up to the
backend of attention. Page 0 is never handed out: padding writes there. Whole pages are moved
without a look into them; `pool_shape` and `write` are of head-major pages [2, K, page_size, H]:
keys then values, key-value heads, positions within the page, head dimension. These are head-major
because a batched matmul over one head's positions then reads consecutive memory.

Knows nothing of who owns a page or of which tokens it holds. Programs that return a pool are meant
to be compiled with the pool donated, so that they update it in place.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from model.config import ModelConfig

WRITE_OFF_PAGE = 0
AXES = ("layers", "pages", "pair", "kv_heads", "position", "head_dim")
"""The logical axes of a pool of head-major pages."""


def pool_shape(config: ModelConfig, *, num_pages: int, page_size: int) -> tuple[int, ...]:
    """Return the shape of a pool of `num_pages` head-major pages, the write-off page among them."""
    heads = (config.num_kv_heads, page_size, config.head_dim)
    return (config.num_layers, num_pages, 2, *heads)


def kept(x: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Round keys or values to the dtype of pages; what 8 bits cannot hold is cut, not NaN."""
    if jnp.finfo(dtype).bits < 16:
        most = float(jnp.finfo(dtype).max)
        x = jnp.clip(x, -most, most)
    return x.astype(dtype)


def write(
    pool: Float[Array, "L P 2 K size H"],
    fresh: Float[Array, "L T 2 K H"],
    page: Int[Array, " T"],
    offset: Int[Array, " T"],
) -> Float[Array, "L P 2 K size H"]:
    """Store token t's keys and values of all layers at position `offset[t]` of page `page[t]`."""
    return pool.at[:, page, :, :, offset].set(jnp.moveaxis(fresh, 1, 0))


def read(
    pool: Float[Array, "L P 2 K size H"], layer: int, pages: Int[Array, "*n"]
) -> tuple[Float[Array, "*n size K H"], Float[Array, "*n size K H"]]:
    """Copy one layer's keys and values out of pages."""
    copied = jnp.swapaxes(pool[layer, pages], -3, -2)  # [*n, 2, size, K, H]
    return copied[..., 0, :, :, :], copied[..., 1, :, :, :]


def gather(pool: Float[Array, "L P *page"], pages: Int[Array, " n"]) -> Float[Array, "L n *page"]:
    """Copy whole pages out of the pool into one stacked array."""
    return jnp.take(pool, pages, axis=1, mode="clip")


def scatter(
    pool: Float[Array, "L P *page"],
    payload: Float[Array, "L n *page"],
    pages: Int[Array, " n"],
) -> Float[Array, "L P *page"]:
    """Overwrite whole pages of the pool; several may name the write-off page."""
    return pool.at[:, pages].set(payload)


def gather_apart(
    pool: Float[Array, "L P *page"], pages: Int[Array, " n"]
) -> tuple[Float[Array, " L *page"], ...]:
    """Copy whole pages out of the pool, each into an array of its own."""
    return tuple(lax.dynamic_index_in_dim(pool, page, axis=1, keepdims=False) for page in pages)


def scatter_apart(
    pool: Float[Array, "L P *page"],
    apart: Sequence[Float[Array, " L *page"]],
    pages: Int[Array, " n"],
) -> Float[Array, "L P *page"]:
    """Overwrite whole pages of the pool one by one; where a page is named twice, the last stays."""
    for i, page in enumerate(apart):
        pool = lax.dynamic_update_index_in_dim(pool, page, pages[i], axis=1)
    return pool
