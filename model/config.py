"""What are the sizes and switches of a model? One frozen value that the whole package reads.

Knows nothing of arrays, devices or weights: no JAX import, so that planners can use it. A setting
that would change the model's output and that this package cannot obey is refused, not skipped.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import assert_never

from model.checkpoint_files import CONFIG, GENERATION_CONFIG
from model.degrees import Shared
from model.encodings.settings import read_encodings
from model.errors import CheckpointError
from model.families import FAMILIES, Family
from model.json_fields import Fields, read_json_object
from model.rope_config import LinearScaling, Llama3Scaling, RopeConfig, read_rope

__all__ = ["LinearScaling", "Llama3Scaling", "ModelConfig", "RopeConfig", "load_config"]

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
WEIGHT_BYTES = {"int8": 1, "fp8": 1}
"""Bytes of one value of a quantised weight, by the format's name."""
KV_DTYPE_BYTES = {**DTYPE_BYTES, "float8_e4m3fn": 1}
"""What keys and values may be kept as between steps."""
# Every float16 value is a float32 value; bfloat16 would lose three bits of it.
_READ_AS = {"float32": "float32", "bfloat16": "bfloat16", "float16": "float32"}


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of a dense decoder.

    `sliding_window` is the number of positions a query sees, itself included; None sees all.
    `max_position` is the longest context, in tokens, that the checkpoint claims to support.
    `quantize` names the format of the layers' matmul weights (`model/quantised`); None: `dtype`.
    `kv_dtype` is what keys and values are rounded to; None keeps them in `dtype`.
    Raises ValueError at construction when the sizes contradict each other.
    """

    family: str
    vocab_size: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig
    norm_eps: float
    tie_embeddings: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_window: int | None
    max_position: int
    dtype: str
    eos_ids: tuple[int, ...]
    bos_id: int | None
    quantize: str | None = None
    kv_dtype: str | None = None

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "num_layers", "hidden_size", "intermediate_size")
        for name in (*sizes, "num_heads", "num_kv_heads", "head_dim", "max_position"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rotary positions need pairs")
        if self.norm_eps < 0:
            raise ValueError(f"norm_eps must not be negative, and is {self.norm_eps}")
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(f"sliding_window must be at least 1, not {self.sliding_window}")
        _check_known("dtype", self.dtype, DTYPE_BYTES)
        _check_known("kv_dtype", self.kept_as, KV_DTYPE_BYTES)
        if self.quantize is not None:
            _check_known("quantize", self.quantize, WEIGHT_BYTES)
        for token in (*self.eos_ids, *(() if self.bos_id is None else (self.bos_id,))):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"special token id {token} is outside the {self.vocab_size} ids")

    @property
    def queries_per_kv(self) -> int:
        """G: query heads that share one key and value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def shared(self) -> Shared:
        """The sizes that devices share."""
        return Shared(self.num_kv_heads, self.intermediate_size, self.vocab_size)

    @property
    def kept_as(self) -> str:
        """The dtype of keys and values between steps."""
        return self.dtype if self.kv_dtype is None else self.kv_dtype

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of one token position, over all layers, as they are kept."""
        heads = 2 * self.num_layers * self.num_kv_heads
        return heads * self.head_dim * KV_DTYPE_BYTES[self.kept_as]


def _check_known(name: str, value: str, known: Mapping[str, int]) -> None:
    if value not in known:
        raise ValueError(f"{name} {value!r} is none of {', '.join(known)}")


def load_config(
    checkpoint_dir: Path | str,
    *,
    dtype: str | None = None,
    quantize: str | None = None,
    kv_dtype: str | None = None,
) -> ModelConfig:
    """Read config.json and, where there is one, generation_config.json of a checkpoint directory.

    `dtype` overrides the checkpoint's own; without either it is float32. `quantize` says what the
    weights are to become as they are loaded; without it they stay as the checkpoint holds them if
    that is a format of ModelConfig, else become `dtype`. `kv_dtype` is as in ModelConfig.
    End-of-sequence ids are the union of both files'. Raises CheckpointError for whatever is
    missing, ill-typed, contradictory or not supported.
    """
    directory = Path(checkpoint_dir)
    if not directory.is_dir():
        raise CheckpointError(directory, "no such checkpoint directory")
    path = directory / CONFIG
    fields = Fields(path, read_json_object(path), prefix="")
    family = _family(fields)
    _refuse_unsupported(fields, family)
    attention_bias = family.attention_bias == "setting" and fields.boolean("attention_bias", False)
    num_heads = fields.integer("num_attention_heads")
    hidden_size = fields.integer("hidden_size")
    num_layers = fields.integer("num_hidden_layers")
    kept_as = read_encodings(fields).kept_as(num_layers)
    try:
        return ModelConfig(
            family=family.name,
            vocab_size=fields.integer("vocab_size"),
            num_layers=num_layers,
            hidden_size=hidden_size,
            intermediate_size=fields.integer("intermediate_size"),
            num_heads=num_heads,
            num_kv_heads=fields.integer("num_key_value_heads", num_heads),
            head_dim=fields.integer("head_dim", hidden_size // max(num_heads, 1)),
            rope=read_rope(fields),
            norm_eps=fields.number("rms_norm_eps"),
            tie_embeddings=fields.boolean("tie_word_embeddings", False),
            qkv_bias=attention_bias or family.attention_bias == "qkv",
            out_bias=attention_bias,
            mlp_bias=family.mlp_bias and fields.boolean("mlp_bias", False),
            qk_norm=family.qk_norm,
            sliding_window=_sliding_window(fields, family),
            max_position=fields.integer("max_position_embeddings"),
            dtype=dtype or _dtype(fields),
            eos_ids=_eos_ids(directory, fields),
            bos_id=next(iter(fields.integers("bos_token_id")), None),
            quantize=quantize or kept_as,
            kv_dtype=kv_dtype,
        )
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def _family(fields: Fields) -> Family:
    names = fields.texts("architectures")
    for name in names:
        if name in FAMILIES:
            return FAMILIES[name]
    found = f"{', '.join(names)} is not supported" if names else "missing"
    raise fields.error("architectures", f"{found} (supported: {', '.join(FAMILIES)})")


def _refuse_unsupported(fields: Fields, family: Family) -> None:
    """Raise CheckpointError for settings that change the output and that nothing here obeys."""
    if not fields.boolean("is_causal", True):
        raise fields.error("is_causal", "attention to later tokens is not supported")
    activation = fields.text("hidden_act", "silu")
    if activation != "silu":
        raise fields.error("hidden_act", f"activation {activation!r} is not supported (silu is)")
    if family.attention_bias == "never" and fields.boolean("attention_bias", False):
        raise fields.error("attention_bias", f"the {family.name} family has no attention biases")
    if not family.mlp_bias and fields.boolean("mlp_bias", False):
        raise fields.error("mlp_bias", f"the {family.name} family has no MLP biases")


def _sliding_window(fields: Fields, family: Family) -> int | None:
    """Return the window that all layers share, in positions; layers that differ are refused."""
    kinds = set(fields.texts("layer_types"))
    match family.window:
        case "never":
            window = None
        case "always":
            window = fields.optional_integer("sliding_window", family.default_window)
        case "switch":
            window = _switched_window(fields, kinds, family)
        case unreachable:
            assert_never(unreachable)
    expected = {"full_attention"} if window is None else {"sliding_attention"}
    if kinds - expected:
        raise fields.error(
            "layer_types",
            f"{', '.join(sorted(kinds))} is not supported here: all layers must be"
            f" {expected.pop()}",
        )
    return window


def _switched_window(fields: Fields, kinds: set[str], family: Family) -> int | None:
    """Return the window of a family where layers from `max_window_layers` on slide."""
    if not fields.boolean("use_sliding_window", False):
        return None
    window = fields.optional_integer("sliding_window", family.default_window)
    if window is None:
        return None
    if kinds:
        return None if kinds == {"full_attention"} else window
    first = fields.integer("max_window_layers")
    if first >= fields.integer("num_hidden_layers"):
        return None
    if first > 0:
        raise fields.error(
            "max_window_layers", "full attention below sliding attention is not supported"
        )
    return window


def _dtype(fields: Fields) -> str:
    name = "dtype" if "dtype" in fields else "torch_dtype"
    stated = fields.text(name, "float32")
    if stated not in _READ_AS:
        raise fields.error(name, f"{stated!r} is not supported ({', '.join(_READ_AS)} are)")
    return _READ_AS[stated]


def _eos_ids(directory: Path, fields: Fields) -> tuple[int, ...]:
    ids = fields.integers("eos_token_id")
    path = directory / GENERATION_CONFIG
    if path.exists():
        ids = ids + Fields(path, read_json_object(path), prefix="").integers("eos_token_id")
    return tuple(dict.fromkeys(ids))
