"""Whatever is wrong with a file in few bits is one line that names the tensor."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.errors import CheckpointError
from tests.model.checkpoints import edit_json
from tests.model.encodings.test_loading import load_split
from tests.model.encodings.writing import E4M3, FORMATS, Tensors, written

UP = "model.layers.1.mlp.up_proj"
Change = Callable[[Tensors], object]


def put(end: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Change one tensor of the module."""
    key = f"{UP}.{end}"
    return lambda tensors: tensors.update({key: np.ascontiguousarray(change(tensors[key]))})


def first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Put a value in the place of the last one."""

    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.reshape(-1)[-1] = value
        return array

    return change


def gone(end: str) -> Change:
    return lambda tensors: tensors.pop(f"{UP}.{end}")


DAMAGES: list[tuple[str, Change, str]] = [
    ("int-quantized", gone("weight_scale"), f"{UP}.weight_scale: missing from the checkpoint"),
    ("int-quantized", gone("weight"), f"{UP}.weight: missing from the checkpoint"),
    ("fp8, blocks", gone("weight_scale_inv"), f"{UP}.weight_scale_inv: missing"),
    ("pack-quantized", gone("weight_packed"), f"{UP}.weight_packed: missing"),
    ("pack-quantized, zero points", gone("weight_zero_point"), f"{UP}.weight_zero_point: missing"),
    ("gptq", gone("qzeros"), f"{UP}.qzeros: missing"),
    ("awq", gone("scales"), f"{UP}.scales: missing"),
    (
        "int-quantized",
        put("weight_scale", lambda a: a[:-1]),
        f"{UP}.weight_scale: has shape (47, 1), config.json says (48, 1)",
    ),
    (
        "fp8, blocks",
        put("weight_scale_inv", lambda a: a[:2]),
        f"{UP}.weight_scale_inv: has shape (2, 3), config.json says (3, 3)",
    ),
    ("gptq", put("qweight", lambda a: a.T), f"{UP}.qweight: has shape (48, 4), config.json says"),
    ("gptq", put("g_idx", lambda a: a[1:]), f"{UP}.g_idx: has shape (31,), config.json says (32,)"),
    ("awq", put("qweight", lambda a: a[:, 1:]), f"{UP}.qweight: has shape (32, 5)"),
    (
        "float-quantized, channels",
        put("weight", lambda a: a.view(np.int8)),
        f"{UP}.weight: dtype I8 is not supported here (F8_E4M3)",
    ),
    (
        "int-quantized",
        put("weight", lambda a: a.astype(np.float32)),
        f"{UP}.weight: is whole, and by config.json's quantization_config it is not; use --quantize"
        " fp8, which rounds all again",
    ),
    (
        "int-quantized",
        put("weight_scale", lambda a: a.astype(np.int32)),
        f"{UP}.weight_scale: dtype I32 is not supported here (F32",
    ),
    ("int-quantized", put("weight_scale", first(np.nan)), f"{UP}.weight_scale: a scale is NaN"),
    ("int-quantized", put("weight_scale", np.zeros_like), f"{UP}.weight_scale: all scales are 0"),
    ("fp8, tensors", put("weight_scale", np.zeros_like), f"{UP}.weight_scale: all scales are 0"),
    ("fp8, blocks", put("weight_scale_inv", first(np.inf)), f"{UP}.weight_scale_inv: a scale is N"),
    ("gptq", put("scales", first(np.nan)), f"{UP}.scales: a scale is NaN or Inf"),
    ("awq", put("scales", np.zeros_like), f"{UP}.scales: all scales are 0; the file is damaged"),
    *(
        (
            form,
            put("weight", lambda a, nan=nan: first(nan)(a.view(np.uint8)).view(E4M3)),
            f"{UP}.weight: a value is NaN",
        )
        for form, nan in (("fp8, tensors", 0xFF), ("fp8, blocks", 0x7F))
    ),
    ("gptq, ordered", put("g_idx", first(2)), f"{UP}.g_idx: names a group outside the 2"),
    ("gptq, ordered", put("g_idx", first(-1)), f"{UP}.g_idx: names a group outside the 2"),
    ("gptq", put("bias", first(0.5)), f"{UP}.bias: a bias, though config.json says none"),
    (
        "gptq",
        lambda tensors: tensors.update({"model.layers.2.mlp.up_proj.qweight": np.ones(1)}),
        "model.layers.2.mlp.up_proj.qweight: not used by the llama family",
    ),
    (
        "int-quantized",
        lambda tensors: tensors.update({"lm_head.weight_scale": np.ones((96, 1))}),
        "lm_head.weight_scale: not used by the llama family",
    ),
    (
        "awq",
        lambda tensors: tensors.update({f"{UP}.g_idx": np.ones(32, np.int32)}),
        f"{UP}.g_idx: not used by the llama family",
    ),
]


@pytest.mark.parametrize(("form", "damage", "problem"), DAMAGES)
def test_damaged_tensors_are_named(tmp_path: Path, form: str, damage: Change, problem: str):
    few, _ = written("llama", FORMATS[form], tmp_path, lambda tensors, _: damage(tensors))
    with pytest.raises(CheckpointError) as caught:
        load_split(few, 1)
    line = str(caught.value)
    assert problem in line
    assert "\n" not in line
    assert str(few) in line


def test_what_a_whole_weight_asks_for_is_a_way_out(tmp_path: Path):
    def change(tensors: Tensors, plain: Tensors) -> None:
        del tensors[f"{UP}.weight_scale"]
        tensors[f"{UP}.weight"] = plain[f"{UP}.weight"]

    few, _ = written("llama", FORMATS["int-quantized"], tmp_path, change)
    with pytest.raises(CheckpointError, match="; use --quantize fp8,"):
        load_split(few, 1)
    load_split(few, 1, "fp8")


@pytest.mark.parametrize(("form", "end"), [("gptq", "qweight"), ("int-quantized", "weight_scale")])
def test_a_config_that_says_nothing_of_few_bits(tmp_path: Path, form: str, end: str):
    few, _ = written("llama", FORMATS[form], tmp_path)
    edit_json(few / "config.json", lambda c: c.pop("quantization_config"))
    with pytest.raises(CheckpointError) as caught:
        load_split(few, 1)
    line = str(caught.value)
    if end == "qweight":
        assert "missing from the checkpoint; it is there in few bits, which config.json" in line
    else:
        assert "weight: dtype I8 is not supported here (F32, BF16, F16, F64)" in line
