"""How does a trained model become a Hugging Face checkpoint directory?

Writes the weights, the config, the tokenizer with its chat template and the generation defaults.
Knows no task and no training.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer

from model.config import ModelConfig
from model.parameters import Params, declare, leaves
from model.weight_maps import sources
from train.tokenizer import CHAT_TEMPLATE, END, PAD, SPECIALS

WEIGHTS = "model.safetensors"
TOKENIZER = "tokenizer.json"


def save_checkpoint(
    directory: Path, params: Params, config: ModelConfig, tokenizer: Tokenizer
) -> None:
    """Write all files of a checkpoint, replacing those of an earlier one."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors(params, config), directory / WEIGHTS, metadata={"format": "pt"})
    tokenizer.save(str(directory / TOKENIZER))
    write_json(directory / "config.json", _config_json(config, tokenizer))
    write_json(directory / "tokenizer_config.json", _tokenizer_json(config))
    write_json(directory / "generation_config.json", _generation_json(tokenizer))


def tensors(params: Params, config: ModelConfig) -> dict[str, np.ndarray]:
    """Cut the parameters into tensors under their Hugging Face names."""
    arrays = dict(leaves(params))
    return {
        source.key: source.extract(np.asarray(arrays[path]))
        for path, parameter in leaves(declare(config))
        for source in sources(config, path, parameter)
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write indented JSON that ends in a newline."""
    path.write_text(json.dumps(content, indent=2) + "\n")


def _config_json(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "bos_token_id": None,
        "dtype": config.dtype,
        "eos_token_id": tokenizer.token_to_id(END),
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position,
        "max_window_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "num_key_value_heads": config.num_kv_heads,
        "pad_token_id": tokenizer.token_to_id(PAD),
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_theta": config.rope.theta, "rope_type": "default"},
        "rope_theta": config.rope.theta,
        "sliding_window": None,
        "tie_word_embeddings": config.tie_embeddings,
        "use_sliding_window": False,
        "vocab_size": config.vocab_size,
    }


def _tokenizer_json(config: ModelConfig) -> dict[str, Any]:
    return {
        "additional_special_tokens": [name for name in SPECIALS if name not in (END, PAD)],
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": config.max_position,
        "pad_token": PAD,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def _generation_json(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "do_sample": False,
        "eos_token_id": tokenizer.token_to_id(END),
        "pad_token_id": tokenizer.token_to_id(PAD),
    }
