"""What tells one model family from another? One row per architecture string of config.json.

A family is a row of this table, never a forked file. Knows nothing of arrays or of files; the
rows are read by `model.config`, and what a config says decides which weights exist.
"""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Family:
    """How to read the config of one architecture.

    `attention_bias`: "setting" obeys config.json's `attention_bias` (q, k, v and o alike), "qkv"
    always has biases on q, k and v and never on o, "never" has none.
    `mlp_bias`: whether config.json's `mlp_bias` is obeyed.
    `window`: "always" obeys `sliding_window` alone, "switch" also needs `use_sliding_window`,
    "never" ignores both.
    `default_window`: positions seen when a config that slides does not mention the field.
    """

    name: str
    attention_bias: Literal["setting", "qkv", "never"]
    mlp_bias: bool
    qk_norm: bool
    window: Literal["always", "switch", "never"]
    default_window: int | None


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(
        name="llama",
        attention_bias="setting",
        mlp_bias=True,
        qk_norm=False,
        window="never",
        default_window=None,
    ),
    "MistralForCausalLM": Family(
        name="mistral",
        attention_bias="never",
        mlp_bias=False,
        qk_norm=False,
        window="always",
        default_window=4096,  # of Mistral 7B v0.1, for configs without the field
    ),
    "Qwen2ForCausalLM": Family(
        name="qwen2",
        attention_bias="qkv",
        mlp_bias=False,
        qk_norm=False,
        window="switch",
        default_window=4096,
    ),
    "Qwen3ForCausalLM": Family(
        name="qwen3",
        attention_bias="setting",
        mlp_bias=False,
        qk_norm=True,
        window="switch",
        default_window=4096,
    ),
}
