"""How is the length head trained? `python -m train.predictor --records DIR --out DIR`.

1. All records of the splits `train` and `tune` become features, by the function that serves too.
2. AdamW on the head's own loss, every record equally likely; the rate falls along a cosine.
3. After every pass over the records the state is saved, so that an interrupted run goes on there;
   the run ends early once the loss on `tune` has not fallen for some passes.
4. The weights of the best pass are written.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from tqdm import tqdm

from predictor.features import features
from predictor.head import Head, Weights, num_parameters
from predictor.records import Records, RecordsError, read_records
from predictor.saved import HEADS, HeadSpec, save_head
from train.resume import last_saved

AT_ONCE = 8192
"""Records whose features, or losses, are computed together."""
FINAL_RATE_SHARE = 0.02
WEIGHT_DECAY = 1e-4


@dataclass(frozen=True, slots=True)
class Recipe:
    """What determines a run: equal recipes train equal heads on equal hardware."""

    seed: int
    passes: int
    patience: int
    batch: int
    rate: float


class Examples(NamedTuple):
    """What a head is trained on: features [N, F], and what came of each record."""

    x: jax.Array
    remaining: jax.Array
    censored: jax.Array


class State(NamedTuple):
    """A run after some passes; a pytree. `best` are the weights of the pass `best_pass`."""

    weights: Weights
    moments: optax.OptState
    best: Weights
    best_loss: jax.Array
    best_pass: jax.Array


def examples(records: Records) -> Examples:
    """Compute the features of records, as a server does."""
    made = jax.jit(features)
    parts = [
        made(some.hidden, some.generated, some.prompt_len, some.turn) for some in _parts(records)
    ]
    return Examples(
        jnp.concatenate(parts), jnp.asarray(records.remaining), jnp.asarray(records.censored)
    )


def _parts(records: Records) -> Iterator[Records]:
    for start in range(0, len(records), AT_ONCE):
        yield records[start : start + AT_ONCE]


def train(
    head: Head,
    train_on: Examples,
    tune_on: Examples,
    recipe: Recipe,
    directory: Path,
    report: Callable[[int, float, float], None],
) -> tuple[Weights, int]:
    """Train from the last saved pass in `directory`, or from the start.

    Calls `report(pass, loss on train, loss on tune)` after each pass. Returns the best weights and
    the number of their pass.
    """
    steps = max(1, len(train_on.x) // recipe.batch)
    schedule = optax.cosine_decay_schedule(recipe.rate, steps * recipe.passes, FINAL_RATE_SHARE)
    optimizer = optax.adamw(schedule, weight_decay=WEIGHT_DECAY)
    weights = head.init(jax.random.key(recipe.seed), train_on.x.shape[1])
    best = jax.tree.map(jnp.copy, weights)  # a pass donates the weights it begins with
    state = State(weights, optimizer.init(weights), best, jnp.float32(jnp.inf), jnp.int32(-1))
    step = jax.jit(partial(_pass, head, optimizer), donate_argnums=0)
    measure = jax.jit(partial(_mean_loss, head))
    with ocp.CheckpointManager(
        directory.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=1)
    ) as manager:
        state, done = last_saved(manager, state)
        for number in range(0 if done is None else done + 1, recipe.passes):
            if number - int(state.best_pass) > recipe.patience:
                break
            order = np.random.default_rng((recipe.seed, number)).permutation(len(train_on.x))
            batches = jnp.asarray(order[: steps * recipe.batch].reshape(steps, -1))
            weights, moments, loss = step((state.weights, state.moments), train_on, batches)
            tuned = measure(weights, tune_on)
            state = _judged(State(weights, moments, *state[2:]), tuned, number)
            manager.save(number, args=ocp.args.StandardSave(state))
            report(number, float(loss), float(tuned))
    return state.best, int(state.best_pass)


def _judged(state: State, tuned: jax.Array, number: int) -> State:
    if float(tuned) >= float(state.best_loss):
        return state
    best = jax.tree.map(jnp.copy, state.weights)
    return state._replace(best=best, best_loss=tuned, best_pass=jnp.int32(number))


def _pass(
    head: Head,
    optimizer: optax.GradientTransformation,
    state: tuple[Weights, optax.OptState],
    data: Examples,
    batches: jax.Array,
) -> tuple[Weights, optax.OptState, jax.Array]:
    """Take one step for each batch of record numbers, [steps, batch]."""

    def mean(weights: Weights, batch: Examples) -> jax.Array:
        return head.loss(weights, *batch).mean()

    def one(state: tuple[Weights, Any], numbers: jax.Array) -> tuple[tuple[Weights, Any], Any]:
        weights, moments = state
        batch = Examples(*(part[numbers] for part in data))
        value, gradients = jax.value_and_grad(mean)(weights, batch)
        updates, moments = optimizer.update(gradients, moments, weights)
        stepped: Any = optax.apply_updates(weights, updates)
        return (stepped, moments), value

    (weights, moments), losses = jax.lax.scan(one, state, batches)
    return weights, moments, losses.mean()


def _mean_loss(head: Head, weights: Weights, data: Examples) -> jax.Array:
    """Return the mean loss over all examples, some at a time."""
    count = len(data.x)
    some = min(AT_ONCE, count)
    padding = -count % some
    parts = [jnp.pad(p, [(0, padding)] + [(0, 0)] * (p.ndim - 1)) for p in data]
    blocks = Examples(*(p.reshape(-1, some, *p.shape[1:]) for p in parts))
    blocks = blocks._replace(remaining=jnp.maximum(blocks.remaining, 1))
    losses = jax.lax.map(lambda block: head.loss(weights, *block), blocks)
    return losses.reshape(-1)[:count].mean()


@click.command()
@click.option("--records", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/predictor"))
@click.option("--head", "kind", type=click.Choice(tuple(HEADS)), default="hazard")
@click.option(
    "--width", "widths", type=click.IntRange(min=1), multiple=True, default=(256, 128, 64)
)
@click.option("--horizon", type=click.IntRange(min=1), default=4096, show_default=True)
@click.option("--seed", type=int, default=0)
@click.option("--passes", type=click.IntRange(min=1), default=60)
@click.option("--patience", type=click.IntRange(min=1), default=10)
@click.option("--batch", type=click.IntRange(min=1), default=512)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=2e-3)
def main(
    records: Path,
    out: Path,
    runs: Path,
    kind: str,
    widths: tuple[int, ...],
    horizon: int,
    **recipe: Any,
) -> None:
    """Train a head on RECORDS and write it to OUT.

    An interrupted run with the same options goes on from its last pass.
    """
    try:
        manifest, own = read_records(records, "train")
        _, tune = read_records(records, "tune")
    except RecordsError as error:
        raise click.ClickException(str(error)) from error
    origin = manifest.origin
    spec = HeadSpec(
        kind=kind,
        widths=tuple(widths),
        horizon=horizon,
        layers=origin.layers,
        hidden_size=origin.hidden_size,
        checkpoint=origin.checkpoint,
        tokenizer=origin.tokenizer,
    )
    parts = [kind, *widths, horizon, origin.fingerprint[:8], *recipe.values()]
    name = "-".join(str(part) for part in parts)
    began = time.monotonic()
    with tqdm(total=recipe["passes"], unit="pass", desc="training") as bar:

        def report(number: int, loss: float, tuned: float) -> None:
            bar.update(number + 1 - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}", tune=f"{tuned:.4f}")

        weights, best = train(
            spec.build(), examples(own), examples(tune), Recipe(**recipe), runs / name, report
        )
    save_head(out, spec, weights)
    print(f"trained for {time.monotonic() - began:.0f} s, best after pass {best + 1}")
    print(f"{num_parameters(weights)} parameters; written to {out}")


if __name__ == "__main__":
    main()
