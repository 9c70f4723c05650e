"""What is the result of paged attention? Every score of every token, no blocks, no shortcuts.

The oracle that other backends are tested against; slow and large on purpose.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from model.attention.inputs import Places, StepInputs


def attention(
    past: Float[Array, "P 2 K size H"],
    q: Float[Array, "T K G H"],
    k: Float[Array, "T K H"],
    v: Float[Array, "T K H"],
    inputs: StepInputs,
    places: Places,
    *,
    window: int | None,
) -> Float[Array, "T K G H"]:
    """Attend from every token to its row's past and to its row's tokens of this step.

    `past` is one layer's pool. A token sees `window` positions, itself included; None sees all.
    """
    num_rows = len(inputs.decode_position)
    known = jnp.minimum(places.chunk, max(len(inputs.chunk_len) - 1, 0))
    row = jnp.concatenate([jnp.arange(num_rows), num_rows + places.chunk])
    length = jnp.concatenate([inputs.decode_position, inputs.chunk_start[known]])
    pages = jnp.concatenate([inputs.decode_pages, inputs.chunk_pages[known]])

    stored = past[pages]  # [T, M, 2, K, size, H]
    stored = jnp.moveaxis(stored, (2, 3), (0, 1))
    stored = stored.reshape(2, stored.shape[1], len(row), -1, stored.shape[-1])
    stored_position = jnp.arange(stored.shape[3])
    sees_stored = stored_position < length[:, None]
    sees_fresh = (row[:, None] == row) & (places.position[:, None] >= places.position)
    if window is not None:
        sees_stored &= places.position[:, None] - stored_position < window
        sees_fresh &= places.position[:, None] - places.position < window

    wide = q.astype(jnp.float32) * q.shape[-1] ** -0.5
    to_stored = jnp.einsum("tkgh,ktsh->tkgs", wide, stored[0].astype(jnp.float32))
    to_fresh = jnp.einsum("tkgh,skh->tkgs", wide, k.astype(jnp.float32))
    scores = jnp.concatenate([to_stored, to_fresh], axis=-1)
    seen = jnp.concatenate([sees_stored, sees_fresh], axis=-1)[:, None, None, :]
    weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
    size = stored.shape[3]
    out = jnp.einsum("tkgs,ktsh->tkgh", weights[..., :size], stored[1].astype(jnp.float32))
    out = out + jnp.einsum("tkgs,skh->tkgh", weights[..., size:], v.astype(jnp.float32))
    return out.astype(q.dtype)
