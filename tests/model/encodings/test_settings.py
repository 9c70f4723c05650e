"""What config.json says of weights in few bits: sizes without weights, refusals with a way out."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.config import load_config
from model.encodings.encodings import PROJECTIONS
from model.encodings.schemes import CHANNEL, TENSOR, Awq, EightBits, Gptq, Grain, Packed
from model.encodings.settings import load_encodings
from model.errors import CheckpointError
from model.parameters import declare, leaves
from model.weight_maps import sources
from tests.model.checkpoints import GOLDEN, copied, edit_json
from tests.model.encodings.writing import FINER, FORMATS, KEPT, groups, weights_of


def directory_with(tmp_path: Path, settings: Any, name: str = "quantization_config") -> Path:
    """Return a checkpoint without weights whose config.json has these settings."""
    directory = copied("llama", tmp_path)
    edit_json(directory / "config.json", lambda config: config.update({name: settings}))
    (directory / "model.safetensors").unlink()
    return directory


def test_the_modules_that_may_be_in_few_bits_are_the_matmuls_of_layers():
    config = load_config(GOLDEN / "llama")
    found = {
        source.key
        for path, parameter in leaves(declare(config))
        if parameter.summed
        for source in sources(config, path, parameter)
    }
    assert found == {f"model.layers.{n}.{name}.weight" for n in range(2) for name in PROJECTIONS}


@pytest.mark.parametrize("form", FORMATS)
def test_the_format_follows_from_the_config_alone(tmp_path: Path, form: str):
    directory = directory_with(tmp_path, FORMATS[form].settings)
    kept = {
        "fp8": "fp8",
        "modelopt": "fp8",
        "float": "fp8",
        "fbgemm": "fp8",
        "int": "int8",
        "pack": "int8",
    }
    wanted = next((to for start, to in kept.items() if form.startswith(start)), None)
    assert load_config(directory).quantize == (None if form in FINER else wanted)
    assert load_config(directory, quantize="int8").quantize == "int8"
    assert (load_config(directory).quantize is not None) == (form in KEPT)


SCALE = ("weight_scale",)
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128}
READ = [
    (
        groups("int-quantized", {"num_bits": 8, "type": "int", "group_size": -1}),
        EightBits("int8", CHANNEL, SCALE, zero_points=False),
        "compressed-tensors, int8, one scale an output channel",
    ),
    (
        groups("naive-quantized", {"num_bits": 8, "type": "float"}),
        EightBits("fp8", TENSOR, SCALE, zero_points=False),
        "compressed-tensors, fp8, one scale a tensor",
    ),
    (
        groups("pack-quantized", {"num_bits": 4, "type": "int", "group_size": 64}),
        Packed(4, Grain(1, 64), zero_points=False),
        "compressed-tensors, int4, groups of 64",
    ),
    (
        {"quant_method": "fp8", "weight_block_size": [128, 64], "fmt": "e4m3"},
        EightBits("fp8", Grain(128, 64), ("weight_scale_inv", "weight_scale"), zero_points=False),
        "fp8, fp8, blocks of 128 x 64",
    ),
    (
        {"quant_method": "gptq", "bits": 8, "group_size": -1, "format": "gptq_v2"},
        Gptq(8, None, 0),
        "gptq, int8, one scale an output channel",
    ),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, Gptq(4, 128, 1), "gptq, int4, groups"),
    (
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "GEMM"},
        Awq(128),
        "awq, int4, groups of 128",
    ),
]


MODELOPT = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
BESIDE = [
    (
        "quantize_config.json",
        {"bits": 4, "group_size": 128, "desc_act": False, "sym": True, "model_name_or_path": None}
        | {"damp_percent": 0.1, "static_groups": False, "true_sequential": True},
        Gptq(4, 128, 1),
    ),
    (
        "quant_config.json",
        {"zero_point": True, "q_group_size": 64, "w_bit": 4, "version": "GEMM"},
        Awq(64),
    ),
    (
        "hf_quant_config.json",
        {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": MODELOPT},
        EightBits("fp8", TENSOR, SCALE, zero_points=False),
    ),
    (
        "hf_quant_config.json",
        {"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}},
        None,
    ),
]


@pytest.mark.parametrize(("file", "settings", "scheme"), BESIDE)
def test_settings_that_lie_beside_the_config(tmp_path: Path, file: str, settings: Any, scheme: Any):
    """As in the checkpoints of TheBloke and Nvidia, in the words of the tools of their time."""
    directory = copied("llama", tmp_path)
    (directory / file).write_text(json.dumps(settings))
    encodings = load_encodings(directory)
    assert encodings.of("model.layers.1.mlp.up_proj") == scheme
    assert load_config(directory).quantize == (None if scheme is None else scheme.kept_as)
    own = groups("int-quantized", weights_of("int", 8, "channel"))
    edit_json(directory / "config.json", lambda config: config.update(quantization_config=own))
    assert load_config(directory).quantize == "int8", "config.json goes before"


def test_modules_with_settings_of_their_own(tmp_path: Path):
    dynamic = {
        r"-:model\.layers\.0\..*": {},
        r"+:.*\.down_proj": {"bits": 8},
        r".*\.up_proj": {"group_size": 32},
    }
    encodings = load_encodings(directory_with(tmp_path, GPTQ | {"dynamic": dynamic}))
    assert encodings.of("model.layers.0.mlp.down_proj") is None
    assert encodings.of("model.layers.1.mlp.down_proj") == Gptq(8, 128, 1)
    assert encodings.of("model.layers.1.mlp.up_proj") == Gptq(4, 32, 1)
    assert encodings.of("model.layers.1.mlp.gate_proj") == Gptq(4, 128, 1)


def test_modelopt_leaves_whole_what_its_patterns_name(tmp_path: Path):
    settings = {"quant_method": "modelopt", "quant_algo": "FP8"}
    settings |= {"ignore": ["lm_head", "model.layers.0.*", "*.o_proj"], "kv_cache_scheme": {}}
    encodings = load_encodings(directory_with(tmp_path, settings))
    whole = ["lm_head", "model.layers.0.mlp.up_proj", "model.layers.1.self_attn.o_proj"]
    assert [encodings.of(module) for module in whole] == [None] * 3
    assert encodings.of("model.layers.10.mlp.up_proj") is not None
    assert encodings.unheeded == ("activations", "KV caches")


@pytest.mark.parametrize(("settings", "scheme", "text"), READ)
def test_what_settings_mean(tmp_path: Path, settings: Any, scheme: Any, text: str):
    encodings = load_encodings(directory_with(tmp_path, settings))
    assert encodings.of("model.layers.1.mlp.up_proj") == scheme
    assert encodings.of("model.embed_tokens") is None
    assert text in str(encodings)


def test_the_older_name_of_the_settings(tmp_path: Path):
    settings = groups("int-quantized", weights_of("int", 8, "channel"))
    directory = directory_with(tmp_path, settings, "compression_config")
    assert load_config(directory).quantize == "int8"


def test_embeddings_are_targets_by_their_class(tmp_path: Path):
    settings = groups("int-quantized", weights_of("int", 8, "channel"))
    settings["config_groups"]["group_0"]["targets"] = ["Linear", "Embedding"]
    encodings = load_encodings(directory_with(tmp_path, settings))
    assert encodings.of("model.embed_tokens") is not None
    assert encodings.of("lm_head") is None


@pytest.mark.parametrize(
    ("settings", "unheeded"),
    [
        (FORMATS["int-quantized"].settings, ()),
        (FORMATS["int-quantized"].settings | {"kv_cache_scheme": {"num_bits": 8}}, ("KV caches",)),
        (FORMATS["float-quantized, channels"].settings, ("activations",)),
        (FORMATS["fp8, blocks"].settings, ("activations",)),
        (FORMATS["fbgemm_fp8"].settings, ("activations",)),
        (FORMATS["awq"].settings, ()),
    ],
)
def test_what_is_not_done_is_named(tmp_path: Path, settings: Any, unheeded: tuple[str, ...]):
    assert load_encodings(directory_with(tmp_path, settings)).unheeded == unheeded


def group(**weights: Any) -> Any:
    """Return settings of compressed-tensors, packed unless `format` says otherwise."""
    form = weights.pop("format", "pack-quantized")
    return groups(form, {"num_bits": 4, "type": "int", "group_size": 16} | weights)


AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128}
WAY_OUT = "; the model that it was made of can be served with --quantize int8 or fp8"
REFUSED = [
    ("hot", "quantization_config: expected an object"),
    ({"load_in_4bit": True}, "quantization_config.quant_method: missing"),
    *(
        (
            {"quant_method": method},
            f"quantization_config.quant_method: {method!r} is not supported (compressed-tensors,"
            f" fp8, fbgemm_fp8, gptq, awq, modelopt are){WAY_OUT}",
        )
        for method in ("bitsandbytes", "mxfp4", "torchao", "quark", "auto-round")
    ),
    ({"quant_method": "compressed-tensors"}, "config_groups: expected an object, found None"),
    (
        group(format="nvfp4-pack-quantized"),
        "format: 'nvfp4-pack-quantized' is not supp",
    ),
    (group(format="mxfp4-pack-quantized"), "format: 'mxfp4-pack-quantized' is not supported"),
    (group(format="marlin-24"), "format: 'marlin-24' is not supported"),
    (group(format="dense"), "format: 'dense' is not supported"),
    (group(num_bits=3), "weights.num_bits: int of 3 bits is not supported packed"),
    (group(type="float"), "weights.num_bits: float of 4 bits is not supported packed"),
    (group(format="int-quantized"), "weights.num_bits: int of 4 bits is not supported (8 bits"),
    (group(format="float-quantized", num_bits=8, type="float", symmetric=False), "symmetric: zero"),
    (group(strategy="tensor", symmetric=False), "symmetric: one zero point a tensor"),
    (group(strategy="token"), "weights.strategy: 'token' is not supported (tensor, channel, gr"),
    (group(strategy="group", group_size=0), "group_size: must be positive, not 0"),
    (
        group(strategy="block", block_structure=[8]),
        "block_structure: expected two sizes, fou",
    ),
    (
        group() | {"config_groups": {"FP8": ["Linear"]}},
        "config_groups.FP8: expected an object",
    ),
    (
        group() | {"sparsity_config": {"format": "sparse-24-bitmask"}},
        "sparsity_config.format: sparse weights ('sparse-24-bitmask') are not supported",
    ),
    (
        group() | {"transform_config": {"config_groups": {"u": {}}}},
        "transform_config.config_groups: transforms of activations are not supported",
    ),
    (group() | {"ignore": ["re:(["]}, "ignore: '([' is no pattern"),
    (group() | {"ignore": "lm_head"}, "ignore: expected a list of strings"),
    (GPTQ | {"bits": 3}, "bits: 3 are not supported (4 and 8 are)"),
    (GPTQ | {"bits": ...}, "bits: missing"),
    (GPTQ | {"group_size": 0}, "group_size: must be positive, or -1 for one group, not 0"),
    (GPTQ | {"group_size": -2}, "group_size: must be positive, or -1"),
    (GPTQ | {"checkpoint_format": "marlin"}, "checkpoint_format: 'marlin' is not supported (gptq"),
    (GPTQ | {"is_marlin_format": True}, "is_marlin_format: weights in Marlin's order"),
    (GPTQ | {"pack_dtype": "int16"}, "pack_dtype: 'int16' is not supported (int32 is)"),
    (GPTQ | {"dynamic": {"+:.*down.*": {"bits": 2}}}, "dynamic.+:.*down.*.bits: 2 are not supp"),
    (GPTQ | {"dynamic": {"-:([": {}}}, "dynamic.-:([: '([' is no pattern"),
    (
        {"quant_method": "modelopt", "quant_algo": "NVFP4"},
        "quant_algo: 'NVFP4' is not supported (F",
    ),
    (AWQ | {"bits": 8}, "bits: 8 are not supported (4 are)"),
    (AWQ | {"version": "gemv"}, "version: 'gemv' is not supported (gemm and GEMM are)"),
    (AWQ | {"backend": "llm-awq"}, "backend: 'llm-awq' is not supported (autoawq is)"),
    (AWQ | {"zero_point": False}, "zero_point: weights without zero points"),
    ({"quant_method": "fp8", "weight_block_size": [128]}, "weight_block_size: expected two sizes"),
    ({"quant_method": "fp8", "weight_block_size": [0, 1]}, "weight_block_size: expected two sizes"),
    ({"quant_method": "fp8", "scale_fmt": "ue8m0"}, "scale_fmt: 'ue8m0' is not supported (float"),
    ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt: 'e5m2' is not supported (e4m3 is)"),
    (
        {"quant_method": "fp8", "modules_to_not_convert": ["(["]},
        "modules_to_not_convert:",
    ),
]


@pytest.mark.parametrize(("settings", "problem"), REFUSED)
def test_what_is_not_understood_is_one_line(tmp_path: Path, settings: Any, problem: str):
    if isinstance(settings, dict):
        settings = {name: value for name, value in settings.items() if value is not ...}
    directory = directory_with(tmp_path, settings)
    with pytest.raises(CheckpointError) as caught:
        load_config(directory)
    line = str(caught.value)
    assert line.startswith(f"{directory / 'config.json'}: quantization_config")
    assert problem in line
    assert ("not supported" in line) == line.endswith(WAY_OUT)
    assert "\n" not in line


def test_sparsity_that_there_is_none_of_and_groups_without_weights(tmp_path: Path):
    settings = FORMATS["int-quantized"].settings | {"sparsity_config": {"format": "dense"}}
    other = {"group_1": {"targets": ["LlamaAttention"], "input_activations": {"num_bits": 8}}}
    settings = settings | {"config_groups": settings["config_groups"] | other}
    assert load_config(directory_with(tmp_path, settings)).quantize == "int8"
