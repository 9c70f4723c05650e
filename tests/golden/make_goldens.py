"""What do Hugging Face's models answer? Writes tiny random checkpoints and their expected outputs.

Run from the repository's root where torch and transformers are installed:

    python -m tests.golden.make_goldens

It rewrites the directory of every case beside this file: a checkpoint in float32, and an
`expected.npz` with `prompt` [T], `logits` [T, V] and `greedy` [NEW_TOKENS]. Running it again with
the versions of `versions.json` gives the same values.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

HERE = Path(__file__).parent
PROMPT_LEN = 40  # more than Mistral's window and than llama3's original context, below
NEW_TOKENS = 24
SMALLEST_MARGIN = 1e-2  # between the best and the second-best logit of every greedy token
FEWEST_DISTINCT = 5  # greedy tokens; a reply that repeats one proves little
VOCAB = 96

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "attn_implementation": "eager",
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Case:
    """One tiny model: its class, what its config adds to `_SIZES`, and how it is saved.

    `rewrite` alters config.json after saving, without changing its meaning.
    """

    name: str
    config: Callable[..., Any]
    model: Callable[..., Any]
    settings: dict[str, Any]
    shard_size: str
    rewrite: Callable[[dict[str, Any]], dict[str, Any]]


def with_old_rope(config: dict[str, Any]) -> dict[str, Any]:
    """Spell rotary settings as transformers 4 did: `rope_theta` beside `rope_scaling`."""
    rope = dict(config.pop("rope_parameters"))
    theta = rope.pop("rope_theta")
    scaling = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")
    return {**config, "rope_theta": theta, "rope_scaling": scaling}


def unchanged(config: dict[str, Any]) -> dict[str, Any]:
    """Keep config.json as transformers wrote it."""
    return config


CASES = (
    Case(
        name="llama",
        config=transformers.LlamaConfig,
        model=transformers.LlamaForCausalLM,
        settings={"rope_parameters": _LLAMA3, "eos_token_id": [1, 2]},
        shard_size="1GB",
        rewrite=with_old_rope,
    ),
    Case(
        name="llama-biases",
        config=transformers.LlamaConfig,
        model=transformers.LlamaForCausalLM,
        settings={
            "rope_parameters": _LLAMA3,
            "num_key_value_heads": 4,
            "attention_bias": True,
            "mlp_bias": True,
        },
        shard_size="1GB",
        rewrite=unchanged,
    ),
    Case(
        name="mistral",
        config=transformers.MistralConfig,
        model=transformers.MistralForCausalLM,
        settings={"sliding_window": 8, "rope_parameters": {"rope_theta": 10000.0}},
        shard_size="30KB",
        rewrite=with_old_rope,
    ),
    Case(
        name="qwen2",
        config=transformers.Qwen2Config,
        model=transformers.Qwen2ForCausalLM,
        settings={"tie_word_embeddings": True, "rope_parameters": {"rope_theta": 1000000.0}},
        shard_size="1GB",
        rewrite=with_old_rope,
    ),
    Case(
        name="qwen3",
        config=transformers.Qwen3Config,
        model=transformers.Qwen3ForCausalLM,
        settings={
            "head_dim": 16,
            "intermediate_size": 32,
            "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0},
        },
        shard_size="1GB",
        rewrite=unchanged,
    ),
)


def build(case: Case, seed: int) -> Any:
    """Return the model of a case with random weights that leave no part of it without effect."""
    model = case.model(case.config(**{**_SIZES, **case.settings})).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            centre = 1.0 if "norm" in name else 0.0
            spread = weight.shape[-1] ** -0.5 if weight.ndim == 2 and "embed" not in name else 0.5
            weight.copy_(centre + spread * torch.randn(weight.shape, generator=generator))
    return model


def expected(model: Any, seed: int) -> dict[str, np.ndarray] | None:
    """Return a random prompt, the logits at each of its positions and the greedy continuation.

    The continuation is recomputed from the start for every token: no cache, end tokens ignored.
    None when it proves little: two tokens nearly equal, or too few distinct ones.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(VOCAB, (1, PROMPT_LEN), generator=generator)
    prompt = tokens[0].numpy()
    with torch.no_grad():
        logits = model(tokens).logits[0].numpy()
        for _ in range(NEW_TOKENS):
            best = model(tokens).logits[0, -1].topk(2)
            if best.values[0] - best.values[1] < SMALLEST_MARGIN:
                return None
            tokens = torch.cat([tokens, best.indices[:1][None]], dim=1)
    greedy = tokens[0, PROMPT_LEN:].numpy()
    if len(set(greedy.tolist())) < FEWEST_DISTINCT:
        return None
    return {
        "prompt": prompt.astype(np.int32),
        "logits": logits.astype(np.float32),
        "greedy": greedy.astype(np.int32),
    }


def first_telling(case: Case, seed: int) -> tuple[Any, dict[str, np.ndarray]]:
    """Return a model and its expected output, from the first seed whose output tells enough."""
    while True:
        model = build(case, seed)
        values = expected(model, seed)
        if values is not None:
            return model, values
        seed += 1


def save(case: Case, model: Any, directory: Path) -> None:
    """Write a model's checkpoint to a directory, in the form that the case asks for."""
    model.save_pretrained(directory, max_shard_size=case.shard_size)
    for weights in directory.glob("*.safetensors"):
        weights.chmod(0o644)
    path = directory / "config.json"
    config = case.rewrite(json.loads(path.read_text()))
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def main() -> None:
    """Rewrite every case's directory and the versions that made them."""
    for case in CASES:
        directory = HERE / case.name
        shutil.rmtree(directory, ignore_errors=True)
        model, values = first_telling(case, seed=0)
        save(case, model, directory)
        np.savez_compressed(
            directory / "expected.npz",
            prompt=values["prompt"],
            logits=values["logits"],
            greedy=values["greedy"],
        )
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    (HERE / "versions.json").write_text(json.dumps(versions, indent=2) + "\n")


if __name__ == "__main__":
    main()
