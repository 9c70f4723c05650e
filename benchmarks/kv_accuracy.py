"""What does a model lose when its keys and values are kept in fewer bits?

`python -m benchmarks.kv_accuracy CHECKPOINT --out FILE` lets the model reply greedily to held-out
prompts of the demo model's tasks, with keys and values as it computes them. Then it reads the same
prompts and replies with keys and values rounded, and compares, at every token of the replies, the
distributions of the next one. The oracle of the engine's tests runs it all.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from benchmarks.machine import describe_code, describe_machine
from model.config import ModelConfig, load_config
from model.generate import prompt_logits
from model.parameters import Params
from model.sharding import DECODE, param_shardings
from model.weights import load_params
from serving.config import MeshConfig
from serving.engine.meshes import make_meshes
from train.decode import Decoding, decode
from train.evaluate import HELD_OUT_SEED
from train.tasks.conversation import examples
from train.tokenizer import encode_prompt

PROMPTS = 6  # of each family
SEED = HELD_OUT_SEED + 11
KEPT = ("bfloat16", "float8_e4m3fn")
ROWS = 32  # replies at once


class Told(NamedTuple):
    """What a model says at every token of the replies."""

    logprobs: NDArray[np.float32]  # of the token that followed
    best: NDArray[np.int64]  # the most likely token


def replies(
    params: Params, config: ModelConfig, tokenizer: Tokenizer
) -> list[tuple[list[int], list[int]]]:
    """Return prompts and greedy replies, as ids."""
    prompts = [encode_prompt(tokenizer, one.messages) for one in examples(PROMPTS, SEED)]
    how = Decoding(temperature=0.0, seed=0, rows=ROWS, max_total=config.max_position)
    return list(zip(prompts, decode(params, config, prompts, how), strict=True))


def told(
    params: Params, config: ModelConfig, turns: Sequence[tuple[list[int], list[int]]]
) -> Iterator[Told]:
    """Read every prompt with its reply."""
    for prompt, reply in turns:
        scores = prompt_logits(params, config, prompt + reply)[len(prompt) - 1 : -1]
        logprobs = np.asarray(jax.nn.log_softmax(scores, axis=-1))
        yield Told(logprobs[np.arange(len(reply)), reply], logprobs.argmax(axis=-1))


def compared(exact: Sequence[Told], rounded: Sequence[Told]) -> dict[str, float]:
    """Say how far apart two readings of the same replies are."""
    pairs = list(zip(exact, rounded, strict=True))
    errors = np.concatenate([np.abs(a.logprobs - b.logprobs) for a, b in pairs])
    same = np.concatenate([a.best == b.best for a, b in pairs])
    return {
        "mean_logprob_error": float(errors.mean()),
        "p99_logprob_error": float(np.quantile(errors, 0.99)),
        "max_logprob_error": float(errors.max()),
        "top_1_agreement": float(same.mean()),
    }


def loaded(checkpoint: Path, dtype: str) -> tuple[Params, ModelConfig]:
    """Load a checkpoint as a model that computes in `dtype`."""
    config = load_config(checkpoint, dtype=dtype)
    (mesh,) = make_meshes(MeshConfig(), config, jax.devices())
    shardings = param_shardings(config, mesh.mesh, DECODE)
    return load_params(checkpoint, config, shardings, jnp.dtype(dtype), None), config


def measure(checkpoint: Path) -> dict[str, Any]:
    """Compare every way of keeping keys and values, by the dtype that the model computes in.

    The replies are those of the float32 model in all cases.
    """
    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    turns = [turn for turn in replies(*loaded(checkpoint, "float32"), tokenizer) if turn[1]]
    found: dict[str, Any] = {"replies": len(turns), "tokens": sum(len(r) for _, r in turns)}
    for dtype in ("float32", "bfloat16"):
        params, config = loaded(checkpoint, dtype)
        exact = list(told(params, config, turns))
        found[dtype] = {}
        for kept in tqdm([kept for kept in KEPT if kept != dtype], desc=dtype):
            rounded = told(params, replace(config, kv_dtype=kept), turns)
            found[dtype][kept] = compared(exact, list(rounded))
    return found


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(checkpoint: Path, out: Path) -> None:
    """Measure what CHECKPOINT loses."""
    jax.config.update("jax_platforms", "cpu")
    found = {
        "machine": describe_machine(),
        "code": describe_code(Path.cwd()),
        "kept_by_model_dtype": measure(checkpoint),
    }
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found["kept_by_model_dtype"], indent=2))


if __name__ == "__main__":
    main()
