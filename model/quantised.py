"""What is a weight in eight bits, and what does a matmul with one give?

`weight = values * scale`: values are int8 or float8 (e4m3), and every output channel of the matmul,
that is every index of the axes that it does not sum over, has one float32 scale, by which its
largest magnitude becomes the format's largest value. Being constant along the sum, the scale
multiplies what the dot product gives. Activations stay as they are.

Only the layers' four matmuls are quantised. The embedding table and the head stay whole: an error
in them goes straight into the scores, and they are a small part of a large model. So do norms and
biases. Knows nothing of files, meshes or layers.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

FORMATS: Mapping[str, DTypeLike] = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}
"""The dtype of the values, by the name of the format (`ModelConfig.quantize`)."""
_LARGEST = {"int8": 127.0, "fp8": 448.0}


class Quantised(NamedTuple):
    """A weight in eight bits, or what is to be known of its two arrays, such as their shardings."""

    values: Any  # int8 or float8_e4m3fn, in the weight's shape
    scale: Any  # float32, in that shape without the axes that the matmul sums over


Weight = jax.Array | Quantised


def largest(weight: Any, summed: tuple[int, ...]) -> Any:
    """Return every output channel's largest magnitude in float32, with axes of 1 for `summed`."""
    xp = weight.__array_namespace__()
    return xp.max(xp.abs(weight.astype(xp.float32)), axis=summed, keepdims=True)


def quantise(weight: Any, most: Any, summed: tuple[int, ...], form: str) -> Quantised:
    """Round a weight (of numpy or JAX) to a format of `FORMATS`; `most` is what `largest` gave.

    It may have been given of a larger weight of which this is a part. With s = most / 127, int8
    values are at most s / 2 off; with s = most / 448, fp8 values by 1/16 of themselves, or by
    s / 1024 where these are small. A channel of zeros has the scale 1.
    """
    xp = weight.__array_namespace__()
    bound = _LARGEST[form]
    scale = most / xp.float32(bound)
    scale = xp.where(scale > 0, scale, xp.float32(1))
    # Clipped, because the scale of a tiny channel is rounded to few bits: quotients may then lie
    # above the bound, where fp8 has only NaN.
    values = xp.clip(weight.astype(xp.float32) / scale, -bound, bound)
    if form == "int8":
        values = xp.rint(values)
    return Quantised(values.astype(FORMATS[form]), xp.squeeze(scale, axis=summed))


def dequantised(weight: Quantised, summed: tuple[int, ...]) -> Any:
    """Return the weight that the values and scales stand for, in float32."""
    xp = weight.values.__array_namespace__()
    return weight.values.astype(xp.float32) * xp.expand_dims(weight.scale, summed)


def scaled_dot(spec: str, x: jax.Array, weight: Weight) -> jax.Array:
    """Return einsum(spec, x, weight) in float32, with sums in float32.

    The output's last axes must be the weight's own, in order. Eight bits fit bfloat16 exactly.
    """
    if not isinstance(weight, Quantised):
        return jnp.einsum(spec, x, weight, preferred_element_type=jnp.float32)
    values = weight.values.astype(x.dtype)
    return jnp.einsum(spec, x, values, preferred_element_type=jnp.float32) * weight.scale


def flattened(weight: Weight) -> Weight:
    """Put all axes but the last into one. A matmul must sum over all of them."""
    if isinstance(weight, Quantised):
        return weight._replace(values=weight.values.reshape(-1, weight.values.shape[-1]))
    return weight.reshape(-1, weight.shape[-1])


def dot(spec: str, x: jax.Array, weight: Weight) -> jax.Array:
    """Return einsum(spec, x, weight) in x's dtype."""
    if isinstance(weight, Quantised):
        return scaled_dot(spec, x, weight).astype(x.dtype)
    return jnp.einsum(spec, x, weight)
