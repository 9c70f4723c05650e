"""What does config.json say about how a checkpoint's weights lie in its files?

Read from its `quantization_config`, else from the file that the tools of before 2024 wrote beside
it, so that sizes are known before weights are there. What is not understood is an error; what only
concerns how other programs compute is named, and not done.

The settings of each method are those of Hugging Face's transformers, `utils/quantization_config`;
AutoFP8 writes `ignored_layers`, AutoAWQ `version`, GPTQModel `dynamic` and `format`. Of ModelOpt:
https://github.com/NVIDIA/Model-Optimizer, `torch/export/convert_hf_config`.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from model.checkpoint_files import AWQ_CONFIG, CONFIG, GPTQ_CONFIG, MODELOPT_CONFIG
from model.encodings.compressed_tensors import read_compressed_tensors
from model.encodings.encodings import LINEAR, WHOLE, Encodings, Rule
from model.encodings.patterns import any_of, checked, globs
from model.encodings.refusals import refused, require
from model.encodings.schemes import CHANNEL, TENSOR, Awq, EightBits, Gptq, Grain, Scheme
from model.json_fields import Fields, read_json_object

_NAMES = ("quantization_config", "compression_config")  # the second: early compressed-tensors
_BESIDE = {GPTQ_CONFIG: "gptq", AWQ_CONFIG: "awq", MODELOPT_CONFIG: "modelopt"}


def load_encodings(checkpoint_dir: Path) -> Encodings:
    """Read what a checkpoint directory's config.json says; raises CheckpointError."""
    path = checkpoint_dir / CONFIG
    return read_encodings(Fields(path, read_json_object(path), prefix=""))


def read_encodings(fields: Fields) -> Encodings:
    """Read what the fields of a config.json say; raises CheckpointError for what is not served."""
    name = next((name for name in _NAMES if name in fields), None)
    if name is not None:
        inside = fields.inside(name)
        return _read(inside.text("quant_method"), inside)
    for beside, method in _BESIDE.items():
        path = fields.path.parent / beside
        if path.exists():
            inside = Fields(path, read_json_object(path), prefix="")
            return _read(inside.text("quant_method", method), inside)
    return WHOLE


def _read(method: str, fields: Fields) -> Encodings:
    if method not in _METHODS:
        known = ", ".join(_METHODS)
        raise refused(fields, "quant_method", f"{method!r} is not supported ({known} are)")
    return _METHODS[method](fields)


def _read_fp8(fields: Fields) -> Encodings:
    """`weight_scale_inv` is what values are multiplied with, as DeepSeek named it."""
    block = fields.integers("weight_block_size")
    grain = TENSOR
    if block:
        if len(block) != 2 or min(block) < 1:
            raise fields.error("weight_block_size", f"expected two sizes, found {block}")
        grain = Grain(*block)
    require(fields, "fmt", "e4m3", ("e4m3",))
    require(fields, "scale_fmt", "float", ("float",))
    scheme = EightBits("fp8", grain, ("weight_scale_inv", "weight_scale"), zero_points=False)
    return _of_all("fp8", scheme, fields, ("activations",))


def _read_fbgemm(fields: Fields) -> Encodings:
    scheme = EightBits("fp8", CHANNEL, ("weight_scale",), zero_points=False)
    return _of_all("fbgemm_fp8", scheme, fields, ("activations",))


def _read_gptq(fields: Fields) -> Encodings:
    if fields.boolean("is_marlin_format", False):
        raise refused(fields, "is_marlin_format", "weights in Marlin's order are not supported")
    form = "checkpoint_format" if "checkpoint_format" in fields else "format"
    version = require(fields, form, "gptq", ("gptq", "gptq_v2"))
    require(fields, "pack_dtype", "int32", ("int32",))
    scheme = _gptq(fields, fields, version)
    own: list[Rule] = []
    whole: list[str] = []
    if "dynamic" in fields:
        modules = fields.inside("dynamic")
        for name in modules.names():
            pattern = checked(modules, name, name.removeprefix("-:").removeprefix("+:"))
            if name.startswith("-:"):
                whole.append(pattern)
            else:
                own.append(Rule(_gptq(modules.inside(name), fields, version), (pattern,)))
    found = _of_all("gptq", scheme, fields, ())
    return replace(found, rules=(*own, *found.rules), skipped=(*found.skipped, *whole))


def _gptq(own: Fields, fields: Fields, version: str) -> Gptq:
    """Return the scheme that `own` settings say, or where these say nothing those of all."""
    place = own if "bits" in own else fields
    bits = place.integer("bits")
    if bits not in (4, 8):
        raise refused(place, "bits", f"{bits} are not supported (4 and 8 are)")
    group = _group(own if "group_size" in own else fields, "group_size")
    return Gptq(bits, group, 0 if version == "gptq_v2" else 1)


def _read_awq(fields: Fields) -> Encodings:
    bits, size = ("w_bit", "q_group_size") if "w_bit" in fields else ("bits", "group_size")
    if (found := fields.integer(bits)) != 4:
        raise refused(fields, bits, f"{found} are not supported (4 are)")
    form = "version" if "version" in fields else "format"
    require(fields, form, "gemm", ("gemm", "GEMM"))
    if (backend := fields.text("backend", "autoawq")) == "llm-awq":  # another order of words
        raise refused(fields, "backend", f"{backend!r} is not supported (autoawq is)")
    if not fields.boolean("zero_point", True):
        raise refused(fields, "zero_point", "weights without zero points are not supported")
    return _of_all("awq", Awq(_group(fields, size)), fields, ())


def _read_modelopt(fields: Fields) -> Encodings:
    own = fields.inside("quantization") if "quantization" in fields else fields
    if "quant_algo" not in own:
        return WHOLE
    require(own, "quant_algo", "", ("FP8",))
    scheme = EightBits("fp8", TENSOR, ("weight_scale",), zero_points=False)
    caches = "kv_cache_quant_algo" in own or "kv_cache_scheme" in own
    return Encodings(
        "modelopt",
        (Rule(scheme, LINEAR),),
        globs(own, "exclude_modules") + globs(own, "ignore"),
        ("activations", "KV caches") if caches else ("activations",),
    )


def _group(fields: Fields, name: str) -> int | None:
    """Return how many input channels share a scale; None: all."""
    size = fields.integer(name)
    if size == 0 or size < -1:
        raise fields.error(name, f"must be positive, or -1 for one group, not {size}")
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
    "modelopt": _read_modelopt,
}
