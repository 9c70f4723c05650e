"""How does a model come by parameters when there is no checkpoint? Drawn on the devices themselves.

For measuring speed at a real model's size where no weights are to be had; what such a model says
means nothing. A value depends on the seed, its parameter's name and its place in it alone, so
workers that split the model differently hold the same one. Knows nothing of files.
"""

import zlib
from functools import partial
from math import prod
from typing import Any, NamedTuple, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt32

from model.config import ModelConfig
from model.noise import threefry
from model.parameters import Constant, Normal, Parameter, Params, declare, leaves, map_parameters
from model.quantised import Quantised, Weight, largest, quantise
from model.sampling import seed_halves
from model.weights import Progress

BLOCK = 2**24
"""Values drawn at once. Where a compiler does not fuse the whole computation, what it keeps beside
the parameters is a few times as many words: some 0.3 GB, whatever the model's size."""


def draw_params(
    config: ModelConfig,
    seed: int,
    shardings: dict[str, Any],
    dtype: DTypeLike,
    progress: Progress | None,
) -> Params:
    """Draw parameters as `model.parameters` declares them, in `dtype`, where `shardings` says.

    Every device draws its own part and nothing passes through the host; `progress` counts bytes
    on all devices. `seed` is a signed 64-bit number.
    """
    placed = dict(leaves(shardings))
    stored = jnp.dtype(dtype)

    def where_to_draw(path: str) -> Sharding:
        where = placed[path]
        return where.values if isinstance(where, Quantised) else where

    total = sum(
        prod(where_to_draw(path).shard_shape(p.shape))
        * len(where_to_draw(path).addressable_devices)
        for path, p in leaves(declare(config))
    )
    done = 0

    def draw(path: str, parameter: Parameter) -> Weight:
        nonlocal done
        array = _draw(_words(seed, path), parameter, where_to_draw(path), stored)
        done += sum(shard.data.nbytes for shard in array.addressable_shards)
        weight: Weight = array
        if isinstance(placed[path], Quantised):
            assert config.quantize is not None
            weight = _quantised(array, parameter, placed[path], config.quantize)
        if progress is not None:
            jax.block_until_ready(weight)
            progress(done, total * stored.itemsize)
        return weight

    return map_parameters(draw, declare(config))


def _quantised(array: jax.Array, parameter: Parameter, where: Quantised, form: str) -> Quantised:
    """Round a whole parameter to eight bits where it lies."""
    summed = parameter.summed_places

    def rounded(weight: jax.Array) -> Quantised:
        return quantise(weight, largest(weight, summed), summed, form)

    return jax.jit(rounded, out_shardings=where)(array)


def _words(seed: int, path: str) -> np.ndarray:
    """Return what tells a parameter's values from those of others and other seeds, u32 [3]."""
    low, high = seed_halves(seed)
    return np.array([low, high, zlib.crc32(path.encode())], np.int64).astype(np.uint32)


def _draw(words: np.ndarray, parameter: Parameter, sharding: Sharding, dtype: Any) -> jax.Array:
    """Make one parameter out of the parts of its devices."""
    shape = parameter.shape
    arrays: list[jax.Array] = []
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        part = [range(size)[own] for own, size in zip(index or (), shape, strict=True)]
        sizes = tuple(len(own) for own in part)
        match parameter.init:
            case Constant(value):
                values = jnp.full(sizes, value, dtype, device=device)
            case Normal(std):
                start = np.array([own.start for own in part], np.uint32)
                here = jax.device_put((words, start), device)
                stacked = parameter.axes[0] == "layers"
                values = _normal(*here, Drawn(std, shape, sizes, stacked, dtype))
            case unreachable:
                assert_never(unreachable)
        arrays.append(values)
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


class Drawn(NamedTuple):
    """What is to be drawn: the part of these `sizes` of a parameter of this `shape`.

    `stacked`: its first dimension counts layers.
    """

    std: float
    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    stacked: bool
    dtype: Any


@partial(jax.jit, static_argnums=2)
def _normal(words: UInt32[Array, "3"], start: UInt32[Array, " dims"], drawn: Drawn) -> jax.Array:
    """Draw the part that begins at `start`, block by block, in place.

    One of the two counters counts layers and the other the values of a layer, which are taken to
    be fewer than 2**32.
    """
    shape, sizes = drawn.shape, drawn.sizes
    if not drawn.stacked:
        shape, sizes, start = (1, *shape), (1, *sizes), jnp.r_[jnp.zeros(1, jnp.uint32), start]
    key = threefry((words[0], words[1]), (words[2], jnp.zeros_like(words[2])))
    rows = max(1, min(sizes[1], BLOCK // prod(sizes[2:])))
    per_layer = -(-sizes[1] // rows)
    strides = [np.uint32(prod(shape[axis + 1 :])) for axis in range(1, len(shape))]

    def fill(number: jax.Array, values: jax.Array) -> jax.Array:
        layer = number // per_layer
        # The last block of a layer overlaps the one before it, where it finds the same values.
        row = jnp.minimum(number % per_layer * rows, sizes[1] - rows)
        first = start[1:].at[0].add(row.astype(jnp.uint32))
        block = (rows, *sizes[2:])
        place = jnp.zeros(block, jnp.uint32)
        for axis, stride in enumerate(strides):
            counted = jax.lax.broadcasted_iota(jnp.uint32, block, axis)
            place = place + (first[axis] + counted) * stride
        bits = threefry(key, (start[0] + layer.astype(jnp.uint32), place))
        new = (drawn.std * _normal_of(*bits)).astype(drawn.dtype)[None]
        return jax.lax.dynamic_update_slice(values, new, (layer, row, *[0] * (len(sizes) - 2)))

    empty = jnp.zeros(sizes, drawn.dtype)
    return jax.lax.fori_loop(0, sizes[0] * per_layer, fill, empty).reshape(drawn.sizes)


def _normal_of(x: UInt32[Array, "..."], y: UInt32[Array, "..."]) -> Float[Array, "..."]:
    """Turn two random words into a standard normal number (Box and Muller, 1958)."""
    scale = np.float32(2**-24)
    radius = ((x >> np.uint32(8)) + np.uint32(1)).astype(jnp.float32) * scale  # in (0, 1]
    angle = (y >> np.uint32(8)).astype(jnp.float32) * (scale * np.float32(2 * np.pi))
    return jnp.sqrt(-2 * jnp.log(radius)) * jnp.cos(angle)
