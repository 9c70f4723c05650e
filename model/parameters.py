"""Which parameters does a model have? One declaration each: shape, logical axes, initial values.

Everything else about parameters (random ones, abstract ones, their sharding, where a checkpoint's
tensors land) is derived from this table. Knows nothing of meshes or files.

Tree, with the axis letters of the architecture document (layers stacked under a leading L):

    embed [V,D]   final_norm [D]   head [V,D] (untied only)
    layers: attn_norm [L,D]   qkv [L,D,K,G+2,H]   qkv_bias [L,K,G+2,H]   q_norm [L,H]   k_norm [L,H]
            o [L,K,G,H,D]   o_bias [L,D]   mlp_norm [L,D]
            gate_up [L,D,2,F]   gate_up_bias [L,2,F]   down [L,F,D]   down_bias [L,D]

The G+2 heads of one key-value group are its G query heads, then its key, then its value: one
matmul computes all three, and tensor parallelism splits K.

Where the config quantizes, qkv, o, gate_up and down are `Quantised`: two arrays each.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, assert_never

import jax
import jax.numpy as jnp

from model.config import ModelConfig
from model.quantised import FORMATS, Quantised, Weight, largest, quantise

Params = dict[str, Any]  # nested dict of arrays or `Quantised`, keys as in the tree above


@dataclass(frozen=True)
class Normal:
    """Initial values drawn from a normal distribution with mean 0."""

    std: float


@dataclass(frozen=True)
class Constant:
    """Initial values that are all equal."""

    value: float


@dataclass(frozen=True)
class Parameter:
    """One parameter: `axes[i]` is the logical name of dimension i, whose size is `shape[i]`.

    `summed` are the axes that its matmul sums over; with none it is never quantised.
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Normal | Constant
    summed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(self.shape) != len(self.axes):
            raise ValueError(f"shape {self.shape} and axes {self.axes} differ in length")
        if not set(self.summed) <= set(self.axes):
            raise ValueError(f"summed axes {self.summed} are not all among {self.axes}")

    @property
    def summed_places(self) -> tuple[int, ...]:
        """The dimensions of `summed`."""
        return tuple(place for place, axis in enumerate(self.axes) if axis in self.summed)


@dataclass(frozen=True)
class Stored:
    """One array in which a worker keeps a parameter, or a part of one."""

    shape: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: jnp.dtype


def declare(config: ModelConfig) -> dict[str, Any]:
    """Return the nested dict of `Parameter`s of a model; the only place that lists them."""
    sizes = _sizes(config)

    def parameter(axes: str, init: Normal | Constant, summed: str = "") -> Parameter:
        names = tuple(axes.split())
        shape = tuple(sizes[name] for name in names)
        return Parameter(shape, names, init, tuple(summed.split()))

    hidden, depth = config.hidden_size, config.num_layers
    # Residual branches are scaled down by depth so that the sum over layers keeps unit variance.
    branch = (2 * depth) ** -0.5
    attended = config.num_heads * config.head_dim
    one, zero = Constant(1.0), Constant(0.0)
    layers = {
        "attn_norm": parameter("layers embed", one),
        "qkv": parameter("layers embed kv_heads qkv_group head_dim", Normal(hidden**-0.5), "embed"),
        "o": parameter(
            "layers kv_heads queries head_dim embed",
            Normal(branch * attended**-0.5),
            "kv_heads queries head_dim",
        ),
        "mlp_norm": parameter("layers embed", one),
        "gate_up": parameter("layers embed gate_up mlp", Normal(hidden**-0.5), "embed"),
        "down": parameter(
            "layers mlp embed", Normal(branch * config.intermediate_size**-0.5), "mlp"
        ),
    }
    if config.qkv_bias:
        layers["qkv_bias"] = parameter("layers kv_heads qkv_group head_dim", zero)
    if config.out_bias:
        layers["o_bias"] = parameter("layers embed", zero)
    if config.qk_norm:
        layers["q_norm"] = parameter("layers head_dim", one)
        layers["k_norm"] = parameter("layers head_dim", one)
    if config.mlp_bias:
        layers["gate_up_bias"] = parameter("layers gate_up mlp", zero)
        layers["down_bias"] = parameter("layers embed", zero)
    tree: dict[str, Any] = {
        "embed": parameter("vocab embed", Normal(0.02)),
        "layers": layers,
        "final_norm": parameter("embed", one),
    }
    if not config.tie_embeddings:
        tree["head"] = parameter("vocab embed", Normal(0.02))
    return tree


def map_parameters(function: Callable[[str, Parameter], Any], tree: dict[str, Any]) -> Params:
    """Apply `function(path, parameter)` to every leaf of `declare`; a path reads `layers/qkv`."""

    def visit(prefix: str, node: dict[str, Any]) -> Params:
        return {
            name: visit(f"{prefix}{name}/", child)
            if isinstance(child, dict)
            else function(prefix + name, child)
            for name, child in node.items()
        }

    return visit("", tree)


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (path, leaf) of a nested dict such as `declare` returns, in the order of its keys."""
    for name, child in tree.items():
        if isinstance(child, dict):
            yield from leaves(child, f"{prefix}{name}/")
        else:
            yield prefix + name, child


def stored(config: ModelConfig) -> Params:
    """Return the parameters' tree with a `Stored` for every array."""

    def arrays(_: str, parameter: Parameter) -> Stored | Quantised:
        shape, axes = parameter.shape, parameter.axes
        if config.quantize is None or not parameter.summed:
            return Stored(shape, axes, jnp.dtype(config.dtype))
        kept = [place for place in range(len(axes)) if place not in parameter.summed_places]
        scale_shape = tuple(shape[place] for place in kept)
        scale_axes = tuple(axes[place] for place in kept)
        return Quantised(
            Stored(shape, axes, jnp.dtype(FORMATS[config.quantize])),
            Stored(scale_shape, scale_axes, jnp.dtype("float32")),
        )

    return map_parameters(arrays, declare(config))


def abstract_params(config: ModelConfig) -> Params:
    """Return the parameters' `jax.ShapeDtypeStruct`s, in the config's dtype where not quantised."""
    return jax.tree.map(lambda kept: jax.ShapeDtypeStruct(kept.shape, kept.dtype), stored(config))


def weight_bytes(config: ModelConfig) -> int:
    """Return the bytes of all parameters together."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(abstract_params(config)))


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Draw random parameters in the config's dtype, then quantise what the config says.

    Each parameter's key is derived from its path, so adding one leaves the others unchanged.
    """
    dtype = jnp.dtype(config.dtype)

    def draw(path: str, parameter: Parameter) -> jax.Array:
        match parameter.init:
            case Constant(value):
                return jnp.full(parameter.shape, value, dtype)
            case Normal(std):
                own = jax.random.fold_in(key, zlib.crc32(path.encode()))
                values = jax.random.normal(own, parameter.shape, jnp.float32)
                return (std * values).astype(dtype)
            case unreachable:
                assert_never(unreachable)

    def kept(path: str, parameter: Parameter) -> Weight:
        values, summed = draw(path, parameter), parameter.summed_places
        if config.quantize is None or not summed:
            return values
        return quantise(values, largest(values, summed), summed, config.quantize)

    return map_parameters(kept, declare(config))


def _sizes(config: ModelConfig) -> dict[str, int]:
    """Return the size of each logical axis."""
    return {
        "layers": config.num_layers,
        "embed": config.hidden_size,
        "vocab": config.vocab_size,
        "kv_heads": config.num_kv_heads,
        "queries": config.queries_per_kv,
        "qkv_group": config.queries_per_kv + 2,
        "head_dim": config.head_dim,
        "mlp": config.intermediate_size,
        "gate_up": 2,
    }
