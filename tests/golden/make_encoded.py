# pyright: reportMissingImports=false
"""What do the formats' own tools write, and read again? Weights in few bits and what they mean.

Run from the repository's root where torch, compressed-tensors, transformers, gptqmodel and autoawq
are installed:

    python -m tests.golden.make_encoded

It rewrites `encoded/NAME.safetensors` beside this file for every case: the tensors `linear.*` that
a tool packs of a random weight [out, in], and `expected`, what the same tool makes of them.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

HERE = Path(__file__).parent / "encoded"
ROWS, COLUMNS, GROUP = 32, 64, 16
Tensors = dict[str, torch.Tensor]


def random_weight(seed: int) -> torch.Tensor:
    """Draw a weight whose channels differ in size and in their means."""
    torch.manual_seed(seed)
    return torch.randn(ROWS, COLUMNS) * torch.rand(ROWS, 1) + 0.3 * torch.randn(ROWS, 1)


def compressed(form: str, name: str, **weights: object) -> Tensors:
    """Compress and decompress with compressed-tensors, with scales that its helper computes."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from compressed_tensors.quantization.utils import calculate_qparams

    args = QuantizationArgs(**weights)
    weight = random_weight(len(name))
    match args.strategy:
        case "tensor":
            low, high = weight.min().reshape(1), weight.max().reshape(1)
        case "channel":
            low, high = weight.amin(1, keepdim=True), weight.amax(1, keepdim=True)
        case "group":
            parts = weight.unflatten(1, (-1, GROUP))
            low, high = parts.amin(2), parts.amax(2)
        case _:
            parts = weight.unflatten(0, (-1, GROUP)).unflatten(2, (-1, GROUP))
            low, high = parts.amin((1, 3)), parts.amax((1, 3))
    scale, zero = calculate_qparams(low, high, args)
    scheme = QuantizationScheme(targets=["Linear"], weights=args)
    tool = BaseCompressor.get_value_from_registry(form)
    state = {"weight": weight, "weight_scale": scale.float(), "weight_zero_point": zero}
    packed = tool.compress(state, scheme)
    return packed | {"expected": tool.decompress(packed, scheme)["weight"]}


def fine_grained() -> Tensors:
    """Dequantise FP8 in blocks that do not divide the weight, as transformers does."""
    from transformers.integrations.finegrained_fp8 import _dequantize_fp8_weight

    weight, (high, wide) = random_weight(1), (24, 40)
    scale = torch.rand(2, 2) / 100 + 0.01
    large = scale.repeat_interleave(high, 0)[:ROWS].repeat_interleave(wide, 1)[:, :COLUMNS]
    codes = (weight / large).to(torch.float8_e4m3fn)
    expected = _dequantize_fp8_weight(codes, scale, [high, wide], torch.float32)
    return {"weight": codes, "weight_scale_inv": scale, "expected": expected}


def affine(bits: int, size: int, order: torch.Tensor, seed: int) -> tuple[torch.Tensor, ...]:
    """Return a weight and its scales and zero points [out, groups], the latter from 0 on."""
    weight, most = random_weight(seed), 2**bits - 1
    parts = [weight[:, order == group] for group in range(COLUMNS // size)]
    low = torch.stack([part.amin(1).clamp(max=0) for part in parts], 1)
    high = torch.stack([part.amax(1).clamp(min=0) for part in parts], 1)
    scale = ((high - low) / most).half().float()
    return weight, scale, torch.round(-low / scale).clamp(0, most)


def gptq(bits: int, size: int, *, ordered: bool, version: int) -> Tensors:
    """Pack and dequantise with GPTQModel, which holds format v2 in memory."""
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear
    from gptqmodel.quantization import QuantizeConfig
    from gptqmodel.utils.model import convert_gptq_v2_to_v1_format_module

    order = torch.arange(COLUMNS, dtype=torch.int32) // size
    if ordered:
        order = order[torch.randperm(COLUMNS, generator=torch.Generator().manual_seed(3))]
    weight, scale, zero = affine(bits, size, order, bits + version)
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = weight
    tool = TorchLinear(
        bits=bits,
        group_size=size,
        sym=False,
        desc_act=ordered,
        in_features=COLUMNS,
        out_features=ROWS,
    )
    tool.pack_original(linear, scale, zero, order)
    tool.post_init()
    expected = tool.dequantize_weight().T.float().contiguous()
    if version == 1:
        config = QuantizeConfig(bits=bits, group_size=size)
        convert_gptq_v2_to_v1_format_module(tool, config)
    names = ("qweight", "qzeros", "scales", "g_idx")
    return {name: getattr(tool, name).clone() for name in names} | {"expected": expected}


def awq() -> Tensors:
    """Pack and dequantise with AutoAWQ."""
    from awq.modules.linear.gemm import WQLinear_GEMM
    from awq.utils.packing_utils import dequantize_gemm

    order = torch.arange(COLUMNS) // GROUP
    weight, scale, zero = affine(4, GROUP, order, 11)
    linear = torch.nn.Linear(COLUMNS, ROWS, bias=False)
    linear.weight.data = weight
    tool = WQLinear_GEMM.from_linear(linear, 4, GROUP, False, scale.T, zero.T)
    packed = {name: getattr(tool, name) for name in ("qweight", "qzeros", "scales")}
    expected = dequantize_gemm(tool.qweight, tool.qzeros, tool.scales.float(), 4, GROUP)
    return packed | {"expected": expected.T.contiguous()}


def integer(bits: int, strategy: str, *, symmetric: bool = True) -> dict[str, object]:
    """Return compressed-tensors' settings of integers."""
    size = GROUP if strategy == "group" else None
    return {"num_bits": bits, "strategy": strategy, "symmetric": symmetric, "group_size": size}


_FLOAT = {"num_bits": 8, "type": "float"}
CASES: dict[str, Callable[[], Tensors]] = {
    "float-channel": lambda: compressed(
        "float-quantized", "float-channel", **_FLOAT, strategy="channel"
    ),
    "float-tensor": lambda: compressed(
        "float-quantized", "float-tensor", **_FLOAT, strategy="tensor"
    ),
    "float-block": lambda: compressed(
        "float-quantized",
        "float-block",
        **_FLOAT,
        strategy="block",
        block_structure=[GROUP, GROUP],
    ),
    "int-channel": lambda: compressed("int-quantized", "int-channel", **integer(8, "channel")),
    "int-zeros": lambda: compressed(
        "int-quantized", "int-zeros", **integer(8, "channel", symmetric=False)
    ),
    "packed-4": lambda: compressed("pack-quantized", "packed-4", **integer(4, "group")),
    "packed-4-zeros": lambda: compressed(
        "pack-quantized", "packed-4-zeros", **integer(4, "group", symmetric=False)
    ),
    "packed-8-channel": lambda: compressed(
        "pack-quantized", "packed-8-channel", **integer(8, "channel")
    ),
    "fp8-block": fine_grained,
    "gptq-4": lambda: gptq(4, GROUP, ordered=False, version=1),
    "gptq-4-ordered": lambda: gptq(4, GROUP, ordered=True, version=1),
    "gptq-8": lambda: gptq(8, COLUMNS, ordered=False, version=1),
    "gptq-4-v2": lambda: gptq(4, GROUP, ordered=False, version=2),
    "awq": awq,
}


def main() -> None:
    """Write every case."""
    HERE.mkdir(exist_ok=True)
    for name, make in CASES.items():
        tensors = make()
        expected = tensors.pop("expected")
        named = {f"linear.{end}": value.contiguous() for end, value in tensors.items()}
        save_file(named | {"expected": expected}, HERE / f"{name}.safetensors")


if __name__ == "__main__":
    main()
