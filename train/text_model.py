"""How is the text model trained? `python -m train.text_model --records DIR --out DIR --sees reply`.

1. Texts of the splits `train` and `tune` become batches of like length; every record of a reply is
   one term of the loss. What sees the prompt alone has one record a reply, that of its first token.
2. AdamW with clipped gradients; the rate warms up, then falls along a cosine.
3. Passes, what is saved after each and the early end are those of the length head.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import astuple, fields
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
from tqdm import tqdm

from predictor.head import num_parameters
from predictor.records import Records, RecordsError, read_records, read_texts
from predictor.text_batches import TextBatch, TextRow, counts_of, text_batches, text_rows
from predictor.text_model import (
    SEES,
    WINDOW,
    TextModel,
    TextSpec,
    TextWeights,
    save_text_model,
)
from predictor.texts import Texts
from train.passes import Recipe, Taken, begin, take_passes

LAYERS, HIDDEN, MLP = 2, 128, 384
WIDTHS = (128,)
FINAL_RATE_SHARE, WARM_UP_SHARE = 0.02, 0.03
LONGEST_GRADIENT = 1.0


class Outcomes(NamedTuple):
    """What is known of each record: `counts` [N, 3] of its place, and what came of it, [N]."""

    counts: jax.Array
    remaining: jax.Array
    censored: jax.Array


class Told(NamedTuple):
    """What a text model is trained on: texts, and what is known of the records that lie in them."""

    rows: list[TextRow]
    outcomes: Outcomes

    @property
    def records(self) -> int:
        """Count the records."""
        return len(self.outcomes.remaining)


def told(records: Records, texts: Texts, sees: str) -> Told:
    """Put texts and records together, as far as what `sees` so much sees them."""
    if sees == "prompt":
        records = records[records.generated == 0]
    outcomes = Outcomes(
        jnp.asarray(counts_of(records)),
        jnp.asarray(records.remaining),
        jnp.asarray(records.censored),
    )
    return Told(text_rows(texts, records, WINDOW), outcomes)


def train(
    model: TextModel,
    train_on: Told,
    tune_on: Told,
    recipe: Recipe,
    directory: Path,
    report: Callable[[int, float, float], None],
    stepped: Callable[[int], None],
) -> tuple[TextWeights, int]:
    """Train from the last saved pass in `directory`, or from the start.

    A batch of `recipe` is about so many tokens. Calls `report(pass, loss on train, loss on tune)`
    after each pass, and `stepped(steps of the whole run)` after each step. Returns the best weights
    and the number of their pass.
    """
    steps = num_steps(train_on, recipe)
    optimizer = _optimizer(recipe, steps * recipe.passes)
    step = jax.jit(partial(_step, model, optimizer, train_on.records / steps), donate_argnums=0)
    total = jax.jit(partial(_total_loss, model))

    def take(number: int, weights: TextWeights, moments: optax.OptState) -> Taken:
        rng = np.random.default_rng((recipe.seed, number))
        losses = []
        for done, batch in enumerate(text_batches(train_on.rows, recipe.batch, rng), 1):
            (weights, moments), loss = step((weights, moments), train_on.outcomes, batch)
            losses.append(loss)
            stepped(number * steps + done)
        return weights, moments, float(jnp.stack(losses).sum()) / train_on.records

    def measure(weights: TextWeights) -> float:
        batches = text_batches(tune_on.rows, recipe.batch, None)
        losses = [total(weights, tune_on.outcomes, batch) for batch in batches]
        return float(jnp.stack(losses).sum()) / tune_on.records

    state = begin(model.init(jax.random.key(recipe.seed)), optimizer)
    return take_passes(state, recipe, directory, take, measure, report)


def num_steps(train_on: Told, recipe: Recipe) -> int:
    """Count the steps of a pass."""
    return sum(1 for _ in text_batches(train_on.rows, recipe.batch, None))


def _optimizer(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=recipe.rate,
        warmup_steps=round(WARM_UP_SHARE * steps),
        decay_steps=steps,
        end_value=FINAL_RATE_SHARE * recipe.rate,
    )
    return optax.chain(
        optax.clip_by_global_norm(LONGEST_GRADIENT),
        optax.adamw(schedule, weight_decay=recipe.decay),
    )


def _step(
    model: TextModel,
    optimizer: optax.GradientTransformation,
    records_a_step: float,
    state: tuple[TextWeights, optax.OptState],
    outcomes: Outcomes,
    batch: TextBatch,
) -> tuple[tuple[TextWeights, optax.OptState], jax.Array]:
    """Take one step; every record counts alike, in whichever batch. Returns the summed loss too."""
    weights, moments = state

    def mean(weights: TextWeights) -> jax.Array:
        return _total_loss(model, weights, outcomes, batch) / records_a_step

    value, gradients = jax.value_and_grad(mean)(weights)
    updates, moments = optimizer.update(gradients, moments, weights)
    stepped: Any = optax.apply_updates(weights, updates)
    return (stepped, moments), value * records_a_step


def _total_loss(
    model: TextModel, weights: TextWeights, outcomes: Outcomes, batch: TextBatch
) -> jax.Array:
    """Return the loss summed over the records of a batch."""
    own = Outcomes(*(part[batch.record] for part in outcomes))
    tokens = jnp.asarray(batch.tokens)
    losses = model.loss(weights, tokens, own.counts, own.remaining, own.censored)
    return jnp.where(batch.record >= 0, losses, 0).sum()


@click.command()
@click.option("--records", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/text-model"))
@click.option("--sees", type=click.Choice(SEES), required=True)
@click.option("--vocab-size", type=click.IntRange(min=1), default=512, show_default=True)
@click.option("--horizon", type=click.IntRange(min=1), default=4096, show_default=True)
@click.option("--seed", type=int, default=0)
@click.option("--passes", type=click.IntRange(min=1), default=8)
@click.option("--patience", type=click.IntRange(min=1), default=3)
@click.option("--batch", type=click.IntRange(min=1), default=4096, help="Tokens of a step.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=2e-3)
@click.option("--decay", type=click.FloatRange(min=0), default=0.05, help="Of the weights.")
def main(records: Path, out: Path, runs: Path, **what: Any) -> None:
    """Train a text model on RECORDS and write it to OUT.

    An interrupted run with the same options and records goes on from its last pass.
    """
    try:
        run(records, out, runs, what)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def run(records: Path, out: Path, runs: Path, what: Mapping[str, Any]) -> None:
    """Do what `main` was asked for; raises ValueError for what cannot be read or trained."""
    manifest, own = read_records(records, "train")
    _, tune = read_records(records, "tune")
    texts = {split: read_texts(records, split) for split in ("train", "tune")}
    vocab_size, largest = what["vocab_size"], max(int(t.tokens.max()) for t in texts.values())
    if largest >= vocab_size:
        raise RecordsError(
            f"{records}: has token {largest}, --vocab-size {vocab_size} ends below it"
        )
    train_on = told(own, texts["train"], what["sees"])
    tune_on = told(tune, texts["tune"], what["sees"])
    spec = TextSpec(
        sees=what["sees"],
        horizon=what["horizon"],
        vocab_size=vocab_size,
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        intermediate_size=MLP,
        widths=WIDTHS,
        checkpoint=manifest.origin.checkpoint,
        tokenizer=manifest.origin.tokenizer,
    )
    recipe = Recipe(**{f.name: what[f.name] for f in fields(Recipe)})
    known = manifest.fingerprint("train", "tune")
    parts = [spec.sees, spec.horizon, spec.vocab_size, known[:8], *astuple(recipe)]
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written is told before the work
    directory = runs / "-".join(str(part) for part in parts)
    steps = num_steps(train_on, recipe)
    began = time.monotonic()
    with tqdm(total=recipe.passes * steps, unit="step", desc="training") as bar:

        def stepped(done: int) -> None:
            bar.update(done - bar.n)

        def report(number: int, loss: float, tuned: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}", tune=f"{tuned:.4f}")

        model = spec.build()
        weights, best = train(model, train_on, tune_on, recipe, directory, report, stepped)
    save_text_model(out, spec, weights)
    print(f"trained for {time.monotonic() - began:.0f} s, best after pass {best + 1}")
    print(f"{num_parameters(weights)} parameters; written to {out}")


if __name__ == "__main__":
    main()
