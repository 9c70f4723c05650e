"""What the formats' own tools wrote means here what it means to them.

`tests/golden/encoded` holds weights in few bits, and what compressed-tensors 0.20.1, transformers
5.24.0 (fp8 in blocks), GPTQModel 7.7.0 and AutoAWQ 0.2.9 made of them again:
`tests/golden/make_encoded.py` has written both, with torch 2.14.1 on a CPU.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest

from model.encodings.encodings import LINEAR, Encodings, Rule
from model.encodings.reader import WeightReader
from model.encodings.schemes import CHANNEL, TENSOR, Awq, EightBits, Gptq, Grain, Packed, Scheme
from model.tensor_files import TensorFiles
from model.weight_maps import Source
from tests.model.checkpoints import GOLDEN

SHAPE = (32, 64)
_SCALE = ("weight_scale",)
SCHEMES: dict[str, Scheme] = {
    "float-channel": EightBits("fp8", CHANNEL, _SCALE, zero_points=False),
    "float-tensor": EightBits("fp8", TENSOR, _SCALE, zero_points=False),
    "float-block": EightBits("fp8", Grain(16, 16), _SCALE, zero_points=False),
    "int-channel": EightBits("int8", CHANNEL, _SCALE, zero_points=False),
    "int-zeros": EightBits("int8", CHANNEL, _SCALE, zero_points=True),
    "packed-4": Packed(4, Grain(1, 16), zero_points=False),
    "packed-4-zeros": Packed(4, Grain(1, 16), zero_points=True),
    "packed-8-channel": Packed(8, CHANNEL, zero_points=False),
    "fp8-block": EightBits("fp8", Grain(24, 40), ("weight_scale_inv",), zero_points=False),
    "gptq-4": Gptq(4, 16, 1),
    "gptq-4-ordered": Gptq(4, 16, 1),
    "gptq-8": Gptq(8, None, 1),
    "gptq-4-v2": Gptq(4, 16, 0),
    "awq": Awq(16),
}
SOURCE = Source(
    key="linear.weight",
    layer=None,
    axes=("embed", "mlp"),
    merged=None,
    start=0,
    width=0,
    dims=(("mlp",), ("embed",)),
    sizes={"mlp": SHAPE[0], "embed": SHAPE[1]},
)
REGIONS = [
    (slice(0, 32), slice(0, 64)),
    (slice(5, 21), slice(0, 64)),
    (slice(0, 32), slice(11, 50)),
    (slice(23, 24), slice(63, 64)),
    (slice(8, 8), slice(0, 64)),
    (slice(3, 32), slice(16, 16)),
]


@pytest.mark.parametrize("name", SCHEMES)
def test_weights_of_the_tools(tmp_path: Path, name: str):
    shutil.copy(GOLDEN / "encoded" / f"{name}.safetensors", tmp_path)
    rule = Rule(SCHEMES[name], LINEAR)
    with TensorFiles(tmp_path) as files:
        reader = WeightReader(files, Encodings(name, (rule,), (), ()))
        expected = files.read("expected", (slice(None), slice(None)))
        weight = reader.encoded(SOURCE)
        assert weight is not None
        for end, wanted in weight.expected().items():
            assert files.shape(weight.key(end)) in wanted.shapes
            assert files.dtype(weight.key(end)) in wanted.dtypes
        for region in REGIONS:
            found = reader.read(SOURCE, region)
            if name.startswith("gptq"):  # GPTQModel multiplies in float16
                found = found.astype(np.float16).astype(np.float32)
            np.testing.assert_array_equal(found, expected[region])


def test_every_file_of_the_tools_is_tested():
    assert {path.stem for path in (GOLDEN / "encoded").iterdir()} == set(SCHEMES)
