"""Checkpoints in few bits, made of the golden ones by the formats' definitions, in numpy."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file, save_file

from model.encodings.encodings import PROJECTIONS
from tests.model.checkpoints import copied, edit_json

Tensors = dict[str, np.ndarray]
LAYERS = 2
MODULES = tuple(f"model.layers.{layer}.{name}" for layer in range(LAYERS) for name in PROJECTIONS)
E4M3 = jnp.dtype(jnp.float8_e4m3fn)


@dataclass(frozen=True)
class Written:
    """One weight in few bits: its tensors by the ends of their names, and what it stands for."""

    tensors: Tensors
    weight: np.ndarray


@dataclass(frozen=True)
class Format:
    """How to write a weight [out, in], and what config.json then says."""

    write: Callable[[np.ndarray], Written]
    settings: dict[str, Any]


def blocks(weight: np.ndarray, rows: int, columns: int) -> list[tuple[int, int, Any]]:
    """Return the place of every block of a weight, and its slices."""
    return [
        (i, j, np.s_[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns])
        for i in range(-(-weight.shape[0] // rows))
        for j in range(-(-weight.shape[1] // columns))
    ]


def packed(codes: np.ndarray, bits: int) -> np.ndarray:
    """Put codes [n, m] into int32 words [n, ceil(m * bits / 32)], one by one, lowest bits first."""
    each = 32 // bits
    words = np.zeros((len(codes), -(-codes.shape[1] // each)), np.uint32)
    for place in range(codes.shape[1]):
        words[:, place // each] |= codes[:, place].astype(np.uint32) << np.uint32(
            bits * (place % each)
        )
    return words.view(np.int32)


def eight_bits(
    weight: np.ndarray, form: str, rows: int, columns: int, name: str, *, zeros: bool = False
) -> Written:
    """Write int8 or e4m3 with a scale a block; `zeros`: int8 that use all 256 codes."""
    down, right = -(-weight.shape[0] // rows), -(-weight.shape[1] // columns)
    scale, zero = np.zeros((down, right), np.float32), np.zeros((down, right), np.int8)
    codes = np.zeros(weight.shape, np.int8 if form == "int8" else E4M3)
    found = np.zeros_like(weight)
    for i, j, block in blocks(weight, rows, columns):
        part = weight[block]
        if zeros:
            low, high = min(part.min(), 0), max(part.max(), 0)
            scale[i, j] = (high - low) / 255
            zero[i, j] = np.rint(-128 - low / scale[i, j])
            codes[block] = np.clip(np.rint(part / scale[i, j]) + zero[i, j], -128, 127)
        else:
            scale[i, j] = np.abs(part).max() / (127 if form == "int8" else 448)
            scaled = part / scale[i, j]
            codes[block] = np.rint(scaled) if form == "int8" else np.clip(scaled, -448, 448)
        whole = codes[block].astype(np.float32) - np.float32(zero[i, j])
        found[block] = whole * scale[i, j]
    tensors = {"weight": codes, name: scale}
    return Written(tensors | ({"weight_zero_point": zero} if zeros else {}), found)


def one_number(own: Written) -> Written:
    """Write the scale of a tensor as a number, as ModelOpt does."""
    return Written(
        own.tensors | {"weight_scale": own.tensors["weight_scale"].reshape(())}, own.weight
    )


@dataclass(frozen=True)
class Grouped:
    """Codes uint8 [out, in], and scales and zeros [out, groups] of the groups of columns."""

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    order: np.ndarray  # the group of each column

    @property
    def weight(self) -> np.ndarray:
        """What it stands for."""
        offset = self.codes.astype(np.float32) - self.zero[:, self.order].astype(np.float32)
        return offset * self.scale.astype(np.float32)[:, self.order]


def grouped(
    weight: np.ndarray, bits: int, size: int, *, symmetric: bool, mixed: bool, dtype: Any
) -> Grouped:
    """Round a weight in groups of columns; `mixed`: of columns that do not lie together."""
    columns = weight.shape[1]
    order = np.arange(columns) // size
    if mixed:
        order = np.random.default_rng(columns).permutation(order)
    most, groups = 2**bits - 1, order.max() + 1
    scale, zero = np.zeros((len(weight), groups), dtype), np.zeros((len(weight), groups), np.uint8)
    codes = np.zeros(weight.shape, np.uint8)
    for group in range(groups):
        part = weight[:, order == group]
        if symmetric:
            scale[:, group] = np.abs(part).max(1) / ((most - 1) // 2)
            zero[:, group] = (most + 1) // 2
        else:
            low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
            scale[:, group] = (high - low) / most
            zero[:, group] = np.clip(np.rint(-low / scale[:, group].astype(np.float32)), 0, most)
        steps = part / scale[:, group, None].astype(np.float32)
        codes[:, order == group] = np.clip(np.rint(steps) + zero[:, group, None], 0, most)
    return Grouped(codes, scale, zero, order.astype(np.int32))


def compressed(
    weight: np.ndarray, bits: int, size: int, *, symmetric: bool, mixed: bool = False
) -> Written:
    """Write `pack-quantized` of compressed-tensors."""
    own = grouped(
        weight, bits, size, symmetric=symmetric, mixed=mixed, dtype=jnp.dtype(jnp.bfloat16)
    )
    tensors = {
        "weight_packed": packed(own.codes, bits),
        "weight_scale": own.scale,
        "weight_shape": np.array(weight.shape, np.int64),
    }
    if not symmetric:
        tensors["weight_zero_point"] = np.ascontiguousarray(packed(own.zero.T, bits).T)
    if mixed:
        tensors["weight_g_idx"] = own.order
    return Written(tensors, own.weight)


def gptq(
    weight: np.ndarray, bits: int, size: int, offset: int, *, symmetric: bool, mixed: bool
) -> Written:
    """Write GPTQ; from every zero point in a word `offset` is taken away, with what it borrows."""
    own = grouped(weight, bits, size, symmetric=symmetric, mixed=mixed, dtype=np.float16)
    ones = packed(np.full((1, 32 // bits), offset), bits).view(np.uint32)
    tensors = {
        "qweight": np.ascontiguousarray(packed(own.codes, bits).T),
        "qzeros": (packed(own.zero.T, bits).view(np.uint32) - ones).view(np.int32),
        "scales": np.ascontiguousarray(own.scale.T),
        "g_idx": own.order,
        "bias": np.zeros(len(weight), np.float16),
    }
    return Written(tensors, own.weight)


def awq(weight: np.ndarray, size: int) -> Written:
    """Write AWQ: in a word, the codes of channels 0, 2, 4, 6, 1, 3, 5, 7, lowest bits first."""
    own = grouped(weight, 4, size, symmetric=False, mixed=False, dtype=np.float16)
    places = np.arange(len(weight)).reshape(-1, 8)[:, [0, 2, 4, 6, 1, 3, 5, 7]].ravel()
    tensors = {
        "qweight": packed(own.codes.T[:, places], 4),
        "qzeros": packed(own.zero.T[:, places], 4),
        "scales": np.ascontiguousarray(own.scale.T),
    }
    return Written(tensors, own.weight)


def groups(form: str, weights: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return settings of compressed-tensors with one group."""
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": group | more.pop("group", {})},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
    } | more


def weights_of(kind: str, bits: int, strategy: str, **more: Any) -> dict[str, Any]:
    """Return compressed-tensors' settings of weights."""
    return {"num_bits": bits, "type": kind, "strategy": strategy, "symmetric": True} | more


ALL = 2**20
_ACTIVATIONS = {"num_bits": 8, "type": "float", "strategy": "token", "dynamic": True}
_DYNAMIC = {"input_activations": _ACTIVATIONS}
KEPT = {
    "float-quantized, channels": Format(
        lambda w: eight_bits(w, "fp8", 1, ALL, "weight_scale"),
        groups("float-quantized", weights_of("float", 8, "channel"), group=_DYNAMIC),
    ),
    "float-quantized, tensors": Format(
        lambda w: eight_bits(w, "fp8", ALL, ALL, "weight_scale"),
        groups("float-quantized", weights_of("float", 8, "tensor")),
    ),
    "int-quantized": Format(
        lambda w: eight_bits(w, "int8", 1, ALL, "weight_scale"),
        groups("int-quantized", weights_of("int", 8, "channel")),
    ),
    "pack-quantized, 8 bits, channels": Format(
        lambda w: compressed(w, 8, ALL, symmetric=True),
        groups("pack-quantized", weights_of("int", 8, "channel")),
    ),
    "pack-quantized, 4 bits, channels": Format(
        lambda w: compressed(w, 4, ALL, symmetric=True),
        groups("pack-quantized", weights_of("int", 4, "channel")),
    ),
    "fbgemm_fp8": Format(
        lambda w: eight_bits(w, "fp8", 1, ALL, "weight_scale"),
        {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}
        | {"modules_to_not_convert": ["lm_head"]},
    ),
    "fp8, tensors": Format(
        lambda w: eight_bits(w, "fp8", ALL, ALL, "weight_scale"),
        {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]},
    ),
    "modelopt": Format(
        lambda w: one_number(eight_bits(w, "fp8", ALL, ALL, "weight_scale")),
        {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]},
    ),
}
FINER = {
    "fp8, blocks": Format(
        lambda w: eight_bits(w, "fp8", 20, 12, "weight_scale_inv"),
        {"quant_method": "fp8", "weight_block_size": [20, 12], "activation_scheme": "dynamic"},
    ),
    "float-quantized, blocks": Format(
        lambda w: eight_bits(w, "fp8", 16, 16, "weight_scale"),
        groups("float-quantized", weights_of("float", 8, "block", block_structure=[16, 16])),
    ),
    "int-quantized, zero points": Format(
        lambda w: eight_bits(w, "int8", 1, ALL, "weight_scale", zeros=True),
        groups("int-quantized", weights_of("int", 8, "channel", symmetric=False)),
    ),
    "int-quantized, groups": Format(
        lambda w: eight_bits(w, "int8", 1, 16, "weight_scale"),
        groups("int-quantized", weights_of("int", 8, "group", group_size=16)),
    ),
    "pack-quantized": Format(
        lambda w: compressed(w, 4, 16, symmetric=True),
        groups("pack-quantized", weights_of("int", 4, "group", group_size=16)),
    ),
    "pack-quantized, zero points": Format(
        lambda w: compressed(w, 4, 16, symmetric=False),
        groups("pack-quantized", weights_of("int", 4, "group", group_size=16, symmetric=False)),
    ),
    "pack-quantized, 8 bits, ordered": Format(
        lambda w: compressed(w, 8, 16, symmetric=False, mixed=True),
        groups(
            "pack-quantized",
            weights_of("int", 8, "group", group_size=16, symmetric=False, actorder="group"),
        ),
    ),
    "gptq": Format(
        lambda w: gptq(w, 4, 16, 1, symmetric=True, mixed=False),
        {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": True},
    ),
    "gptq, ordered": Format(
        lambda w: gptq(w, 4, 16, 1, symmetric=False, mixed=True),
        {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": True, "sym": False}
        | {"checkpoint_format": "gptq"},
    ),
    "gptq, 8 bits": Format(
        lambda w: gptq(w, 8, w.shape[1], 1, symmetric=False, mixed=False),
        {"quant_method": "gptq", "bits": 8, "group_size": -1, "desc_act": False, "sym": False},
    ),
    "gptq_v2": Format(
        lambda w: gptq(w, 4, 16, 0, symmetric=False, mixed=False),
        {"quant_method": "gptq", "bits": 4, "group_size": 16, "desc_act": False, "sym": False}
        | {"checkpoint_format": "gptq_v2"},
    ),
    "awq": Format(
        lambda w: awq(w, 16),
        {"quant_method": "awq", "bits": 4, "group_size": 16, "version": "gemm"}
        | {"zero_point": True, "modules_to_not_convert": None},
    ),
}
FORMATS = KEPT | FINER


def unchanged(tensors: Tensors, plain: Tensors) -> None:
    """Leave the tensors of both checkpoints as they are."""


def written(
    name: str,
    form: Format,
    target: Path,
    change: Callable[[Tensors, Tensors], object] = unchanged,
) -> tuple[Path, Path]:
    """Write a golden checkpoint in few bits, and the whole one that it stands for.

    `change` may change the tensors of both before that.
    """
    few, whole = copied(name, target / "few"), copied(name, target / "whole")
    edit_json(few / "config.json", lambda c: c.update(quantization_config=form.settings))
    tensors: Tensors = {}
    for path in few.glob("*.safetensors"):
        tensors |= load_file(path)
        path.unlink()
    for path in [*whole.glob("*.safetensors"), *few.glob("*.index.json"), *whole.glob("*.index.*")]:
        path.unlink()
    plain = dict(tensors)
    for module in MODULES:
        own = form.write(tensors.pop(f"{module}.weight"))
        plain[f"{module}.weight"] = own.weight
        if f"{module}.bias" in tensors:
            own.tensors.pop("bias", None)
        tensors |= {f"{module}.{end}": value for end, value in own.tensors.items()}
    change(tensors, plain)
    save_file(tensors, few / "model.safetensors")
    save_file(plain, whole / "model.safetensors")
    return few, whole
