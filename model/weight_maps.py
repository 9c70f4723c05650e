"""Which tensor of a Hugging Face checkpoint lands where in the merged, stacked parameters?

A table, read in both directions: loading fills parameters from tensors, exporting cuts tensors out
of parameters. Knows nothing of files, devices or dtypes.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from model.config import ModelConfig
from model.parameters import Parameter

Ranges = Mapping[str, range]  # what is wanted of each axis of a parameter
Part = Literal["whole", "queries", "key", "value", "gate", "up"]

# (parameter, part of its merged axis, tensor, logical axes of each tensor dimension).
# A dimension that spells several axes is their row-major product. {layer} marks a stacked one.
_TABLE: tuple[tuple[str, Part, str, str], ...] = (
    ("embed", "whole", "model.embed_tokens.weight", "vocab, embed"),
    ("head", "whole", "lm_head.weight", "vocab, embed"),
    ("final_norm", "whole", "model.norm.weight", "embed"),
    ("layers/attn_norm", "whole", "{layer}.input_layernorm.weight", "embed"),
    (
        "layers/qkv",
        "queries",
        "{layer}.self_attn.q_proj.weight",
        "kv_heads qkv_group head_dim, embed",
    ),
    ("layers/qkv", "key", "{layer}.self_attn.k_proj.weight", "kv_heads head_dim, embed"),
    ("layers/qkv", "value", "{layer}.self_attn.v_proj.weight", "kv_heads head_dim, embed"),
    ("layers/qkv_bias", "queries", "{layer}.self_attn.q_proj.bias", "kv_heads qkv_group head_dim"),
    ("layers/qkv_bias", "key", "{layer}.self_attn.k_proj.bias", "kv_heads head_dim"),
    ("layers/qkv_bias", "value", "{layer}.self_attn.v_proj.bias", "kv_heads head_dim"),
    ("layers/q_norm", "whole", "{layer}.self_attn.q_norm.weight", "head_dim"),
    ("layers/k_norm", "whole", "{layer}.self_attn.k_norm.weight", "head_dim"),
    ("layers/o", "whole", "{layer}.self_attn.o_proj.weight", "embed, kv_heads queries head_dim"),
    ("layers/o_bias", "whole", "{layer}.self_attn.o_proj.bias", "embed"),
    ("layers/mlp_norm", "whole", "{layer}.post_attention_layernorm.weight", "embed"),
    ("layers/gate_up", "gate", "{layer}.mlp.gate_proj.weight", "mlp, embed"),
    ("layers/gate_up", "up", "{layer}.mlp.up_proj.weight", "mlp, embed"),
    ("layers/gate_up_bias", "gate", "{layer}.mlp.gate_proj.bias", "mlp"),
    ("layers/gate_up_bias", "up", "{layer}.mlp.up_proj.bias", "mlp"),
    ("layers/down", "whole", "{layer}.mlp.down_proj.weight", "embed, mlp"),
    ("layers/down_bias", "whole", "{layer}.mlp.down_proj.bias", "embed"),
)

# Buffers that old exports stored although they follow from config.json.
_DERIVED = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
EMBEDDING_KEY = "model.embed_tokens.weight"
HEAD_KEY = "lm_head.weight"


def is_derived(key: str) -> bool:
    """Tell whether a tensor may be ignored, since the config already determines it."""
    return _DERIVED.fullmatch(key) is not None


@dataclass(frozen=True)
class Source:
    """One checkpoint tensor and its place in one parameter.

    `axes` are the parameter's without the stacked one, on which the place is `layer` (None: not
    stacked). Of the axis `merged` the tensor fills `width` positions from `start` on (None: it
    fills everything). `dims` are the logical axes of each tensor dimension, outermost first, and
    `sizes` the size that each axis has in this tensor.
    """

    key: str
    layer: int | None
    axes: tuple[str, ...]
    merged: str | None
    start: int
    width: int
    dims: tuple[tuple[str, ...], ...]
    sizes: Mapping[str, int]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the tensor must have in the checkpoint."""
        return tuple(math.prod(self.sizes[axis] for axis in dim) for dim in self.dims)

    @property
    def channels(self) -> "Source":
        """The place of what this tensor, a matmul's, has one of for every output channel."""
        inner = {axis for dim in self.dims[1:] for axis in dim}
        axes = tuple(axis for axis in self.axes if axis not in inner)
        return replace(self, axes=axes, dims=self.dims[:1])

    def region(self, wanted: Ranges) -> tuple[slice, ...]:
        """Return the part of the tensor to read for the wanted ranges of the parameter's axes.

        Only the outermost axis of a dimension narrows the read; `block` cuts the others.
        """
        parts = []
        for outer, *inner in self.dims:
            stride = math.prod(self.sizes[axis] for axis in inner)
            own = self._own(outer, wanted)
            parts.append(slice(own.start * stride, own.stop * stride))
        return tuple(parts)

    def block(self, read: np.ndarray, wanted: Ranges) -> np.ndarray:
        """Bring what was read at `region` into the shape that it has at `target`."""
        extents, cut = [], []
        for outer, *inner in self.dims:
            own = self._own(outer, wanted)
            extents += [len(own), *(self.sizes[axis] for axis in inner)]
            cut += [slice(None), *(_slice(self._own(axis, wanted)) for axis in inner)]
        names = [axis for dim in self.dims for axis in dim]
        order = [names.index(axis) for axis in self.axes if axis in names]
        absent = tuple(place for place, axis in enumerate(self.axes) if axis not in names)
        return np.expand_dims(read.reshape(extents)[tuple(cut)].transpose(order), absent)

    def target(self, wanted: Ranges) -> tuple[slice, ...]:
        """Return where in the wanted part of the parameter (of one layer) the block goes."""
        parts = [slice(None)] * len(self.axes)
        if self.merged is not None:
            own, shift = self._own(self.merged, wanted), self.start - wanted[self.merged].start
            place = self.axes.index(self.merged)
            parts[place] = slice(own.start + shift, own.stop + shift)
        return tuple(parts)

    def extract(self, parameter: np.ndarray) -> np.ndarray:
        """Cut the tensor out of the whole parameter: the inverse of reading it."""
        values = parameter if self.layer is None else parameter[self.layer]
        if self.merged is not None:
            place = self.axes.index(self.merged)
            taken = range(self.start, self.start + self.width)
            values = values.take(taken, axis=place)
        names = [axis for dim in self.dims for axis in dim]
        absent = tuple(place for place, axis in enumerate(self.axes) if axis not in names)
        present = [axis for axis in self.axes if axis in names]
        order = [present.index(axis) for axis in names]
        return np.ascontiguousarray(values.squeeze(absent).transpose(order)).reshape(self.shape)

    def _own(self, axis: str, wanted: Ranges) -> range:
        """Return the wanted range of an axis in the tensor's own coordinates; it may be empty."""
        if axis != self.merged:
            return wanted[axis]
        first = min(max(wanted[axis].start - self.start, 0), self.width)
        return range(first, max(min(wanted[axis].stop - self.start, self.width), first))


def _slice(own: range) -> slice:
    return slice(own.start, own.stop)


def sources(config: ModelConfig, path: str, parameter: Parameter) -> list[Source]:
    """Return every checkpoint tensor that fills one parameter, layer by layer."""
    group = config.queries_per_kv
    parts: dict[Part, tuple[str | None, int, int]] = {
        "whole": (None, 0, 0),
        "queries": ("qkv_group", 0, group),
        "key": ("qkv_group", group, 1),
        "value": ("qkv_group", group + 1, 1),
        "gate": ("gate_up", 0, 1),
        "up": ("gate_up", 1, 1),
    }
    rows = [row for row in _TABLE if row[0] == path]
    found = []
    for layer in range(config.num_layers) if "layers" in parameter.axes else (None,):
        for _, part, pattern, dims in rows:
            merged, start, width = parts[part]
            sizes = dict(zip(parameter.axes, parameter.shape, strict=True))
            if merged is not None:
                sizes[merged] = width
            found.append(
                Source(
                    key=pattern.format(layer=f"model.layers.{layer}"),
                    layer=layer,
                    axes=tuple(axis for axis in parameter.axes if axis != "layers"),
                    merged=merged,
                    start=start,
                    width=width,
                    dims=tuple(tuple(dim.split()) for dim in dims.split(",")),
                    sizes=sizes,
                )
            )
    return found
