"""Which blocks do all families share? Norm, gated MLP, embedding, and the reduction after a matmul.

Knows nothing of attention or of the order of blocks. `axis` is the mesh axis name under shard_map,
where weights hold this shard's part of K, F or V, and None outside.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.parameters import Params
from model.quantised import Weight, dot, flattened, scaled_dot


def rms_norm(
    x: Float[Array, "*T D"], weight: Float[Array, " D"], *, eps: float
) -> Float[Array, "*T D"]:
    """Divide by the root mean square over the last axis, then scale; the mean is float32."""
    wide = x.astype(jnp.float32)
    scale = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return weight * (wide * scale).astype(x.dtype)


def reduced(
    spec: str,
    x: Float[Array, "..."],
    weight: Weight,
    bias: Float[Array, "..."] | None,
    *,
    axis: str | None,
) -> Float[Array, "..."]:
    """Return einsum(spec, x, weight) + bias in x's dtype, summed over shards under `axis`.

    Partial sums stay float32 across the shards; the bias, which every shard holds, is added once.
    """
    total = scaled_dot(spec, x, weight)
    if axis is not None:
        total = jax.lax.psum(total, axis)
    total = total.astype(x.dtype)
    return total if bias is None else total + bias


def out_of_heads(
    out: Float[Array, "*T K G H"], layer: Params, *, axis: str | None
) -> Float[Array, "*T D"]:
    """Return the output projection of what the heads have gathered, of one layer.

    All that is summed over stands in one axis: with three, XLA transposes the weights in every step
    on a GPU (seen in what it compiles for an H100; LOG.md).
    """
    flat = out.reshape(*out.shape[:-3], -1)
    return reduced("...i,id->...d", flat, flattened(layer["o"]), layer.get("o_bias"), axis=axis)


def gated_mlp(x: Float[Array, "*T D"], layer: Params, *, axis: str | None) -> Float[Array, "*T D"]:
    """Return down(silu(gate(x)) * up(x)) with the parameters of one layer."""
    both = dot("...d,dcf->...cf", x, layer["gate_up"])
    if "gate_up_bias" in layer:
        both = both + layer["gate_up_bias"]
    inner = jax.nn.silu(both[..., 0, :]) * both[..., 1, :]
    return reduced("...f,fd->...d", inner, layer["down"], layer.get("down_bias"), axis=axis)


def embed(
    tokens: Int[Array, "*T"], table: Float[Array, "V D"], *, axis: str | None
) -> Float[Array, "*T D"]:
    """Look tokens up in the embedding table, whose V is split over the shards under `axis`."""
    if axis is None:
        return table[tokens]
    local = tokens - jax.lax.axis_index(axis) * table.shape[0]
    mine = (local >= 0) & (local < table.shape[0])
    rows = table[jnp.where(mine, local, 0)]
    return jax.lax.psum(jnp.where(mine[..., None], rows, 0), axis)
