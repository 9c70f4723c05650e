"""What does config.json say about how a checkpoint's weights lie in its files?

Read from its `quantization_config` alone, so that sizes are known before weights are there. What is
not understood is an error; what only concerns how other programs compute is named, and not done.

The settings of each method are those of Hugging Face's transformers, `utils/quantization_config`;
AutoFP8 writes `ignored_layers`, AutoAWQ `version`, GPTQModel `dynamic` and `format`.
"""

from collections.abc import Callable
from pathlib import Path

from model.checkpoint_files import CONFIG
from model.encodings.compressed_tensors import read_compressed_tensors
from model.encodings.encodings import LINEAR, WHOLE, Encodings, Rule
from model.encodings.patterns import any_of
from model.encodings.schemes import CHANNEL, TENSOR, Awq, EightBits, Gptq, Grain, Scheme
from model.json_fields import Fields, read_json_object

_NAMES = ("quantization_config", "compression_config")  # the second: early compressed-tensors


def load_encodings(checkpoint_dir: Path) -> Encodings:
    """Read what a checkpoint directory's config.json says; raises CheckpointError."""
    path = checkpoint_dir / CONFIG
    return read_encodings(Fields(path, read_json_object(path), prefix=""))


def read_encodings(fields: Fields) -> Encodings:
    """Read what the fields of a config.json say; raises CheckpointError for what is not served."""
    name = next((name for name in _NAMES if name in fields), None)
    if name is None:
        return WHOLE
    inside = fields.inside(name)
    method = inside.text("quant_method")
    if method not in _METHODS:
        raise inside.error(
            "quant_method",
            f"{method!r} is not supported ({', '.join(_METHODS)} are); the model that it was made"
            " of can be served with --quantize int8 or fp8",
        )
    return _METHODS[method](inside)


def _read_fp8(fields: Fields) -> Encodings:
    """`weight_scale_inv` is what values are multiplied with, as DeepSeek named it."""
    block = fields.integers("weight_block_size")
    grain = TENSOR
    if block:
        if len(block) != 2 or min(block) < 1:
            raise fields.error("weight_block_size", f"expected two sizes, found {block}")
        grain = Grain(*block)
    _require(fields, "fmt", "e4m3", ("e4m3",))
    _require(fields, "scale_fmt", "float", ("float",))
    scheme = EightBits("fp8", grain, ("weight_scale_inv", "weight_scale"), zero_points=False)
    return _of_all("fp8", scheme, fields, ("activations",))


def _read_fbgemm(fields: Fields) -> Encodings:
    scheme = EightBits("fp8", CHANNEL, ("weight_scale",), zero_points=False)
    return _of_all("fbgemm_fp8", scheme, fields, ("activations",))


def _read_gptq(fields: Fields) -> Encodings:
    if fields.boolean("is_marlin_format", False):
        raise fields.error("is_marlin_format", "weights in Marlin's order are not supported")
    form = "checkpoint_format" if "checkpoint_format" in fields else "format"
    version = _require(fields, form, "gptq", ("gptq", "gptq_v2"))
    _require(fields, "pack_dtype", "int32", ("int32",))
    if "dynamic" in fields:
        for name in fields.inside("dynamic").names():
            if not name.startswith("-:"):  # those are whole, which the files show too
                raise fields.error("dynamic", f"other settings for {name!r} are not supported")
    bits = fields.integer("bits")
    if bits not in (4, 8):
        raise fields.error("bits", f"{bits} are not supported (4 and 8 are)")
    scheme = Gptq(bits, _group(fields), 0 if version == "gptq_v2" else 1)
    return _of_all("gptq", scheme, fields, ())


def _read_awq(fields: Fields) -> Encodings:
    if (bits := fields.integer("bits")) != 4:
        raise fields.error("bits", f"{bits} are not supported (4 are)")
    form = "version" if "version" in fields else "format"
    _require(fields, form, "gemm", ("gemm", "GEMM"))
    if (backend := fields.text("backend", "autoawq")) == "llm-awq":  # another order of words
        raise fields.error("backend", f"{backend!r} is not supported (autoawq is)")
    if not fields.boolean("zero_point", True):
        raise fields.error("zero_point", "weights without zero points are not supported")
    return _of_all("awq", Awq(_group(fields)), fields, ())


def _require(fields: Fields, name: str, default: str, known: tuple[str, ...]) -> str:
    value = fields.text(name, default)
    if value not in known:
        are = "is" if len(known) == 1 else "are"
        raise fields.error(name, f"{value!r} is not supported ({' and '.join(known)} {are})")
    return value


def _group(fields: Fields) -> int | None:
    """Return how many input channels share a scale; None: all."""
    size = fields.integer("group_size")
    if size == 0 or size < -1:
        raise fields.error("group_size", f"must be positive, or -1 for one group, not {size}")
    return None if size == -1 else size


def _of_all(method: str, scheme: Scheme, fields: Fields, unheeded: tuple[str, ...]) -> Encodings:
    """Return that all matmuls are of a scheme, but those that the settings name.

    Tools of GPTQ and AWQ name them in further ways; which they are is then seen in the files.
    """
    skipped = any_of(fields, "modules_to_not_convert") + any_of(fields, "ignored_layers")
    return Encodings(method, (Rule(scheme, LINEAR),), skipped, unheeded)


_METHODS: dict[str, Callable[[Fields], Encodings]] = {
    "compressed-tensors": read_compressed_tensors,
    "fp8": _read_fp8,
    "fbgemm_fp8": _read_fbgemm,
    "gptq": _read_gptq,
    "awq": _read_awq,
}
