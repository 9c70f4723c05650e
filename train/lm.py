"""How is the demo model made? `python -m train.lm --out DIR`, from a seed, on two CPU cores.

1. The tokenizer learns its merges from a sample of topics.
2. The topics of one chunk after another are packed into batches, and each batch is one step.
3. After every chunk the state is saved, so that an interrupted run goes on where it stopped.
4. The checkpoint is written, and its exact-match accuracy on held-out prompts measured and stored.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from tokenizers import Tokenizer
from tqdm import tqdm

from model.config import ModelConfig, RopeConfig
from train.checkpoint import save_checkpoint, write_json
from train.evaluate import evaluate, format_table
from train.loop import TrainState, rate, start, train_step
from train.packing import batches, draw_topics, row_lengths
from train.resume import last_saved
from train.tasks.conversation import Turn
from train.tokenizer import END, token_id, train_tokenizer

VOCAB_SIZE = 512
TOKENIZER_TOPICS = 4000


@dataclass(frozen=True)
class Recipe:
    """What determines a run: equal recipes train equal models on equal hardware."""

    config: ModelConfig
    seed: int
    chunks: int
    topics_per_chunk: int


def demo_config(tokenizer: Tokenizer) -> ModelConfig:
    """Return the demo model's sizes; four key-value heads, so that 2 and 4 shards divide it."""
    return ModelConfig(
        family="qwen3",
        vocab_size=tokenizer.get_vocab_size(),
        num_layers=4,
        hidden_size=128,
        intermediate_size=512,
        num_heads=4,
        num_kv_heads=4,
        head_dim=32,
        rope=RopeConfig(theta=10000.0, scaling=None),
        norm_eps=1e-6,
        tie_embeddings=True,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        qk_norm=True,
        sliding_window=None,
        max_position=4096,
        dtype="float32",
        eos_ids=(token_id(tokenizer, END),),
        bos_id=None,
    )


def demo_tokenizer(seed: int) -> Tokenizer:
    """Learn the tokenizer from the first topics of a seed."""
    return train_tokenizer(texts(draw_topics(seed, 0, TOKENIZER_TOPICS)), vocab_size=VOCAB_SIZE)


def texts(topics: list[list[Turn]]) -> list[str]:
    """List every question and reply."""
    return [text for turns in topics for turn in turns for text in (turn.question, turn.reply)]


def train(
    recipe: Recipe, tokenizer: Tokenizer, directory: Path, report: Callable[[int, int, float], None]
) -> TrainState:
    """Train from the last saved chunk in `directory`, or from the start.

    Calls `report(chunk, tokens of the step, its loss in nats)` after each step.
    """
    state = start(recipe.config, jax.random.key(recipe.seed))
    with ocp.CheckpointManager(
        directory.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=1)
    ) as manager:
        state, done = last_saved(manager, state)
        for chunk in range(done or 0, recipe.chunks):
            state = train_chunk(state, recipe, tokenizer, chunk, report)
            manager.save(chunk + 1, args=ocp.args.StandardSave(state))
    return state


def train_chunk(
    state: TrainState,
    recipe: Recipe,
    tokenizer: Tokenizer,
    chunk: int,
    report: Callable[[int, int, float], None],
) -> TrainState:
    """Take one step per batch of a chunk. Consumes `state`."""
    topics = draw_topics(recipe.seed, chunk, recipe.topics_per_chunk)
    lengths = row_lengths(chunk / recipe.chunks)
    packed = batches(tokenizer, topics, f"packing {recipe.seed} {chunk}", lengths)
    for index, batch in enumerate(packed):
        progress = (chunk + (index + 1) / len(packed)) / recipe.chunks
        state, value = train_step(
            state,
            jnp.asarray(batch.tokens),
            jnp.asarray(batch.segments),
            jnp.asarray(batch.counted),
            jnp.float32(rate(progress)),
            config=recipe.config,
        )
        report(chunk, int(np.count_nonzero(batch.segments)), float(value))
    return state


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Checkpoint directory.")
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/demo-model"))
@click.option("--seed", type=int, default=0)
@click.option("--chunks", type=click.IntRange(min=1), default=72, help="Length of the run.")
@click.option("--topics", type=click.IntRange(min=1), default=1000, help="Topics per chunk.")
@click.option("--prompts", type=click.IntRange(min=1), default=100, help="Tested per family.")
def main(out: Path, runs: Path, seed: int, chunks: int, topics: int, prompts: int) -> None:
    """Train the demo model, write its checkpoint to OUT and print its accuracy.

    An interrupted run with the same options goes on from its last chunk.
    """
    tokenizer = demo_tokenizer(seed)
    recipe = Recipe(demo_config(tokenizer), seed, chunks, topics)
    directory = runs / f"seed{seed}-chunks{chunks}-topics{topics}"
    began = time.monotonic()
    with tqdm(unit="token", unit_scale=True, desc="training") as bar:

        def report(chunk: int, tokens: int, value: float) -> None:
            bar.update(tokens)
            bar.set_postfix(chunk=f"{chunk + 1}/{chunks}", loss=f"{value:.4f}", refresh=False)

        state = train(recipe, tokenizer, directory, report)
    print(f"trained for {time.monotonic() - began:.0f} s")
    save_checkpoint(out, state.params, recipe.config, tokenizer)
    trained_on = {
        turns[0].question for chunk in range(chunks) for turns in draw_topics(seed, chunk, topics)
    }
    result = evaluate(state.params, recipe.config, tokenizer, prompts, trained_on)
    write_json(out / "accuracy.json", result)
    print(format_table(result))


if __name__ == "__main__":
    main()
