"""config.json is read as Hugging Face means it, or refused with one line that names the field."""

from pathlib import Path
from typing import Any

import pytest

from model.config import LinearScaling, Llama3Scaling, ModelConfig, RopeConfig, load_config
from model.errors import CheckpointError
from tests.model.checkpoints import GOLDEN, copied, edit_json

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def changed(tmp_path: Path, name: str, **fields: Any) -> ModelConfig:
    """Load a golden config with some fields replaced; ... removes a field."""
    directory = copied(name, tmp_path)

    def change(config: dict[str, Any]) -> None:
        config.update(fields)
        for field in [field for field, value in config.items() if value is ...]:
            del config[field]

    edit_json(directory / "config.json", change)
    return load_config(directory)


def test_every_size_and_switch():
    assert load_config(GOLDEN / "llama-biases") == ModelConfig(
        family="llama",
        vocab_size=96,
        num_layers=2,
        hidden_size=32,
        intermediate_size=48,
        num_heads=4,
        num_kv_heads=4,
        head_dim=8,
        rope=RopeConfig(500.0, Llama3Scaling(4.0, 1.0, 4.0, 32)),
        norm_eps=1e-5,
        tie_embeddings=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        qk_norm=False,
        sliding_window=None,
        max_position=128,
        dtype="float32",
        eos_ids=(1,),
        bos_id=0,
    )


def test_what_the_families_differ_in():
    read = {name: load_config(GOLDEN / name) for name in ("llama", "mistral", "qwen2", "qwen3")}
    switches = {
        name: (c.qkv_bias, c.out_bias, c.qk_norm, c.sliding_window, c.tie_embeddings, c.head_dim)
        for name, c in read.items()
    }
    assert switches == {
        "llama": (False, False, False, None, False, 8),
        "mistral": (False, False, False, 8, False, 8),
        "qwen2": (True, False, False, None, True, 8),
        "qwen3": (False, False, True, None, False, 16),
    }


def test_derived_sizes():
    config = load_config(GOLDEN / "qwen3")
    assert config.queries_per_kv == 2
    assert config.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4  # layers, K and V, heads, dim, bytes
    small = load_config(GOLDEN / "qwen3", kv_dtype="float8_e4m3fn")
    assert small.kv_bytes_per_token == config.kv_bytes_per_token / 4
    with pytest.raises(CheckpointError, match="kv_dtype 'int8' is none of float32, bfloat16, flo"):
        load_config(GOLDEN / "qwen3", kv_dtype="int8")


@pytest.mark.parametrize(
    ("fields", "rope"),
    [
        ({}, RopeConfig(10000.0, None)),
        ({"rope_theta": 5e5, "rope_scaling": None}, RopeConfig(5e5, None)),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
            RopeConfig(5e5, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ),
        (
            {"rope_scaling": {"type": "linear", "factor": 2}},
            RopeConfig(10000.0, LinearScaling(2.0)),
        ),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 7.0, **LLAMA3}},
            RopeConfig(7.0, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ),
        ({"rope_parameters": {"rope_theta": 9.0}}, RopeConfig(9.0, None)),
        ({"rope_theta": 3.0, "rope_parameters": {"rope_type": "default"}}, RopeConfig(3.0, None)),
        (
            {"rope_parameters": {}, "rope_scaling": {"type": "linear", "factor": 2}},
            RopeConfig(10000.0, LinearScaling(2.0)),
        ),
        (
            {"rope_theta": 3.0, "rope_scaling": {"type": "linear", "factor": 2}}
            | {"rope_parameters": {"rope_type": "linear", "rope_theta": 3.0, "factor": 2.0}},
            RopeConfig(3.0, LinearScaling(2.0)),
        ),
    ],
)
def test_both_forms_of_rotary_settings(tmp_path: Path, fields: dict[str, Any], rope: RopeConfig):
    absent = {"rope_theta": ..., "rope_scaling": ..., "rope_parameters": ...}
    assert changed(tmp_path, "llama", **(absent | fields)).rope == rope


@pytest.mark.parametrize(
    ("name", "fields", "window"),
    [
        ("mistral", {"sliding_window": None}, None),
        ("mistral", {"sliding_window": ...}, 4096),
        ("llama", {"sliding_window": 8}, None),
        ("qwen2", {"sliding_window": 8}, None),
        ("qwen2", {"use_sliding_window": True, "sliding_window": None}, None),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": ..., "layer_types": ...}
            | {"max_window_layers": 0},
            4096,
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ...}
            | {"max_window_layers": 0},
            8,
        ),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 8, "layer_types": ...}
            | {"max_window_layers": 2},
            None,
        ),
        (
            "qwen3",
            {"use_sliding_window": True, "sliding_window": 8}
            | {"layer_types": ["sliding_attention", "sliding_attention"]},
            8,
        ),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 8}, None),  # all layer_types full
    ],
)
def test_the_window(tmp_path: Path, name: str, fields: dict[str, Any], window: int | None):
    assert changed(tmp_path, name, **fields).sliding_window == window


def test_end_tokens_are_those_of_both_files(tmp_path: Path):
    directory = copied("llama", tmp_path)
    edit_json(directory / "generation_config.json", lambda c: c.update(eos_token_id=[2, 5]))
    assert load_config(directory).eos_ids == (1, 2, 5)
    edit_json(directory / "config.json", lambda c: c.update(eos_token_id=7))
    assert load_config(directory).eos_ids == (7, 2, 5)
    (directory / "generation_config.json").unlink()
    assert load_config(directory).eos_ids == (7,)


def test_absent_fields_that_have_a_meaning(tmp_path: Path):
    absent = ("num_key_value_heads", "head_dim", "tie_word_embeddings", "bos_token_id")
    config = changed(tmp_path, "llama", eos_token_id=None, **dict.fromkeys(absent, ...))
    assert (config.num_kv_heads, config.head_dim) == (4, 8)
    assert (config.tie_embeddings, config.bos_id) == (False, None)


@pytest.mark.parametrize(
    ("stated", "read"),
    [
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": ..., "dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float16"}, "float32"),
        ({"torch_dtype": ...}, "float32"),
    ],
)
def test_the_dtype(tmp_path: Path, stated: dict[str, Any], read: str):
    assert changed(tmp_path, "llama", **stated).dtype == read


def test_the_dtype_can_be_overridden():
    assert load_config(GOLDEN / "llama", dtype="bfloat16").dtype == "bfloat16"


REFUSED = [
    ("llama", {"architectures": ["GPT2LMHeadModel"]}, "architectures: GPT2LMHeadModel is not"),
    ("llama", {"architectures": ...}, "architectures: missing"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act: activation 'gelu' is not supported"),
    ("llama", {"is_causal": False}, "is_causal: attention to later tokens is not supported"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config.quant_method: missing"),
    ("llama", {"vocab_size": ...}, "vocab_size: missing"),
    ("llama", {"vocab_size": "96"}, "vocab_size: expected an integer, found '96'"),
    ("llama", {"vocab_size": True}, "vocab_size: expected an integer, found True"),
    ("llama", {"rms_norm_eps": ...}, "rms_norm_eps: missing"),
    ("llama", {"rms_norm_eps": "tiny"}, "rms_norm_eps: expected a number"),
    ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps: expected a finite number"),
    ("llama", {"tie_word_embeddings": 1}, "tie_word_embeddings: expected true or false"),
    ("llama", {"eos_token_id": "</s>"}, "eos_token_id: expected an integer or a list"),
    ("llama", {"eos_token_id": 96}, "special token id 96 is outside the 96 ids"),
    ("llama", {"num_hidden_layers": 0}, "num_layers must be at least 1"),
    ("llama", {"num_attention_heads": 0}, "num_heads must be at least 1"),
    ("llama", {"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    ("llama", {"head_dim": 7}, "head_dim 7 is odd"),
    ("llama", {"torch_dtype": "float8_e4m3fn"}, "torch_dtype: 'float8_e4m3fn' is not supported"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: rotation of a part"),
    (
        "qwen3",
        {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.25}},
        "rope_parameters.partial_rotary_factor: rotation of a part",
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        "rope_scaling.rope_type: rope type 'yarn' is not supported",
    ),
    (
        "qwen3",
        {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        "rope_scaling: contradicts rope_parameters; leave one of them out",
    ),
    ("llama", {"rope_scaling": {"factor": 4.0}}, "rope_scaling.type: missing"),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        "rope_scaling.low_freq_factor: missing",
    ),
    (
        "llama",
        {"rope_scaling": {"rope_type": "llama3", **LLAMA3, "high_freq_factor": 1.0}},
        "low_freq_factor must be positive and below high_freq_factor",
    ),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 0}}, "factor must be positive"),
    ("llama", {"rope_scaling": [1]}, "rope_scaling: expected an object"),
    ("llama", {"rope_theta": -1}, "rope_theta: must be positive"),
    (
        "qwen3",
        {"rope_parameters": {"full_attention": {"rope_theta": 1.0}}},
        "rope_parameters.full_attention: rotary settings per layer type",
    ),
    (
        "qwen3",
        {"use_sliding_window": True, "sliding_window": 8}
        | {"layer_types": ["full_attention", "sliding_attention"]},
        "layer_types: full_attention, sliding_attention is not supported",
    ),
    (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 8, "layer_types": ...}
        | {"max_window_layers": 1},
        "max_window_layers: full attention below sliding attention",
    ),
    ("mistral", {"layer_types": ["full_attention"] * 2}, "layer_types: full_attention is not"),
    ("mistral", {"sliding_window": 0}, "sliding_window must be at least 1"),
    ("mistral", {"attention_bias": True}, "attention_bias: the mistral family has no attention"),
    ("qwen2", {"mlp_bias": True}, "mlp_bias: the qwen2 family has no MLP biases"),
]


@pytest.mark.parametrize(("name", "fields", "problem"), REFUSED)
def test_refusals_name_the_file_and_the_field(
    tmp_path: Path, name: str, fields: dict[str, Any], problem: str
):
    with pytest.raises(CheckpointError) as caught:
        changed(tmp_path, name, **fields)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / name / 'config.json'}: ")
    assert problem in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("text", "problem"),
    [("{", "not valid JSON"), ("[]", "holds a JSON list"), (b"\xff", "cannot be read")],
)
def test_a_malformed_file(tmp_path: Path, text: str | bytes, problem: str):
    path = tmp_path / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=problem) as caught:
        load_config(tmp_path)
    assert caught.value.path == path


def test_a_missing_directory_or_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match=r"absent: no such checkpoint directory"):
        load_config(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        load_config(tmp_path)


def test_a_malformed_generation_config(tmp_path: Path):
    directory = copied("llama", tmp_path)
    (directory / "generation_config.json").write_text('{"eos_token_id": [true]}')
    with pytest.raises(CheckpointError, match=r"generation_config\.json: eos_token_id"):
        load_config(directory)
