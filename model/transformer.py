"""How do tokens become hidden states?

Knows nothing of pages, rows or caches: the caller's `attend` stores keys and values and attends
over whatever it keeps. The engine's step, training and the oracle differ only in that function.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from model.config import ModelConfig
from model.layers import embed, gated_mlp, out_of_heads, rms_norm
from model.parameters import Params
from model.quantised import dot
from model.rope import rotate, rotation

KV = TypeVar("KV")
Kept = TypeVar("Kept")

Attend = Callable[[Any, jax.Array, jax.Array, jax.Array, jax.Array], tuple[Any, jax.Array]]
"""(kv, layer, q [T...,K,G,H], k [T...,K,H], v [T...,K,H]) -> (kv, out [T...,K,G,H]).

q and k are already rotated; q is not scaled: `attend` multiplies scores by H ** -0.5, applies the
mask (causal, and the sliding window where the config has one) and takes the softmax in float32.
`layer` is an int32 scalar. The output is not yet projected.
"""


def forward(
    params: Params,
    tokens: Int[Array, "*T"],
    positions: Int[Array, "*T"],
    kv: KV,
    attend: Attend,
    *,
    config: ModelConfig,
    axis: str | None,
) -> tuple[Float[Array, "*T D"], KV]:
    """Run the decoder; return hidden states after the final norm, and the caller's kv.

    Layers run by `lax.scan` with kv as carry, so the kv that `attend` returns must keep its
    structure, shapes and dtypes; layers that are apart (`model.apart`) stand one after the other in
    the program, which takes longer to compile. `axis` names the mesh axis under shard_map; None
    outside.
    """
    hidden, kv, _ = forward_keeping(
        params,
        tokens,
        positions,
        kv,
        attend,
        lambda x: None,
        config=config,
        axis=axis,
    )
    return hidden, kv


def forward_keeping(  # noqa: PLR0913 - what `forward` takes, and `keep`
    params: Params,
    tokens: Int[Array, "*T"],
    positions: Int[Array, "*T"],
    kv: KV,
    attend: Attend,
    keep: Callable[[jax.Array], Kept],
    *,
    config: ModelConfig,
    axis: str | None,
) -> tuple[Float[Array, "*T D"], KV, Kept]:
    """Do as `forward`, and keep `keep(x)` of every layer's output x [T..., D].

    What is kept comes third, with a leading axis of layers. It is not normed; the last layer's
    output is what the final norm makes into hidden states.
    """
    x = embed(tokens, params["embed"], axis=axis)
    cos, sin = rotation(positions, config.rope, config.head_dim)

    def block(carry: tuple[jax.Array, KV], xs: tuple[Params, jax.Array]) -> tuple[Any, Kept]:
        x, kv = carry
        layer, index = xs
        with jax.named_scope("attention"):
            normed = rms_norm(x, layer["attn_norm"], eps=config.norm_eps)
            q, k, v = _queries_keys_values(normed, layer, config)
            kv, out = attend(kv, index, rotate(q, cos, sin), rotate(k, cos, sin), v)
            x = x + out_of_heads(out, layer, axis=axis)
        with jax.named_scope("mlp"):
            normed = rms_norm(x, layer["mlp_norm"], eps=config.norm_eps)
            x = x + gated_mlp(normed, layer, axis=axis)
        return (x, kv), keep(x)

    layers, carry = params["layers"], (x, kv)
    if isinstance(layers, tuple):
        outputs: list[Kept] = []
        for index, layer in enumerate(layers):
            carry, output = block(carry, (layer, jnp.int32(index)))
            outputs.append(output)
        kept = jax.tree.map(lambda *each: jnp.stack(each), *outputs)
    else:
        indices = jnp.arange(config.num_layers, dtype=jnp.int32)
        carry, kept = jax.lax.scan(block, carry, (layers, indices))
    x, kv = carry
    return rms_norm(x, params["final_norm"], eps=config.norm_eps), kv, kept


def _queries_keys_values(
    x: jax.Array, layer: Params, config: ModelConfig
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Project x [T..., D] to q [T...,K,G,H], k and v [T...,K,H], normed where the family does."""
    merged = dot("...d,dkgh->...kgh", x, layer["qkv"])
    if "qkv_bias" in layer:
        merged = merged + layer["qkv_bias"]
    q, k, v = merged[..., :-2, :], merged[..., -2, :], merged[..., -1, :]
    if config.qk_norm:
        q = rms_norm(q, layer["q_norm"], eps=config.norm_eps)
        k = rms_norm(k, layer["k_norm"], eps=config.norm_eps)
    return q, k, v
