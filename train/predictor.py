"""How is the length head trained? `python -m train.predictor --records DIR --out DIR`.

1. All records of the splits `train` and `tune` become features, by the function that serves too.
2. AdamW on the head's own loss, every record equally likely; the rate falls along a cosine.
3. After every pass over the records the state is saved, so that an interrupted run goes on there;
   the run ends early once the loss on `tune` has not fallen for some passes.
4. The weights of the best pass are written, and beside them how readings are to be smoothed and
   calibrated, as suits `tune` best.
"""

import time
from collections.abc import Callable, Iterator, Mapping
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

from predictor.candidates import readings_of
from predictor.features import features, pick_layers
from predictor.follow import fit_reader
from predictor.head import Head, Weights, num_parameters
from predictor.records import Records, read_records
from predictor.saved import HEADS, HeadSpec, save_head, save_reader
from train.passes import Recipe, Taken, begin, take_passes

AT_ONCE = 8192
"""Records whose features, or losses, are computed together."""
FINAL_RATE_SHARE = 0.02
WIDTHS = (128, 64)
"""Of the layers of a head unless others are asked for."""


class Examples(NamedTuple):
    """What a head is trained on: features [N, F], and what came of each record."""

    x: jax.Array
    remaining: jax.Array
    censored: jax.Array


def examples(records: Records, recorded: tuple[int, ...], spec: HeadSpec) -> Examples:
    """Compute the features of records, as a server of this head does.

    Raises ValueError unless the layers `recorded`, and their means, are what it looks at.
    """
    made = jax.jit(features)
    means = spec.reach is not None
    parts = [
        made(
            pick_layers(some.hidden, recorded, spec.layers, means=means),
            some.generated,
            some.prompt_len,
            some.turn,
        )
        for some in _parts(records)
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
    optimizer = optax.adamw(schedule, weight_decay=recipe.decay)
    weights = head.init(jax.random.key(recipe.seed), train_on.x.shape[1])
    step = jax.jit(partial(_pass, head, optimizer), donate_argnums=0)
    mean_loss = jax.jit(partial(_mean_loss, head))

    def take(number: int, weights: Weights, moments: optax.OptState) -> Taken:
        order = np.random.default_rng((recipe.seed, number)).permutation(len(train_on.x))
        batches = jnp.asarray(order[: steps * recipe.batch].reshape(steps, -1))
        weights, moments, loss = step((weights, moments), train_on, batches)
        return weights, moments, float(loss)

    def measure(weights: Weights) -> float:
        return float(mean_loss(weights, tune_on))

    state = begin(weights, optimizer)
    return take_passes(state, recipe, directory, take, measure, report)


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
    "--width",
    "widths",
    type=click.IntRange(min=1),
    multiple=True,
    help=f"Of a hidden layer; may be given several times. Default: {WIDTHS}.",
)
@click.option("--linear", is_flag=True, help="No hidden layers.")
@click.option(
    "--layer",
    "layers",
    type=click.IntRange(min=1),
    multiple=True,
    help="A recorded layer to look at; may be given several times. Default: all of them.",
)
@click.option(
    "--means/--no-means", default=True, help="Look at recent means of states, if recorded."
)
@click.option("--horizon", type=click.IntRange(min=1), default=4096, show_default=True)
@click.option("--seed", type=int, default=0)
@click.option("--passes", type=click.IntRange(min=1), default=100)
@click.option("--patience", type=click.IntRange(min=1), default=12)
@click.option("--batch", type=click.IntRange(min=1), default=512)
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=3e-3)
@click.option("--smoothing/--no-smoothing", default=True, help="Fold readings into earlier ones.")
@click.option(
    "--calibration/--no-calibration", default=True, help="Bend curves as held-out replies demand."
)
@click.option("--decay", type=click.FloatRange(min=0), default=1e-2, help="Of the weights.")
def main(
    records: Path,
    out: Path,
    runs: Path,
    widths: tuple[int, ...],
    linear: bool,
    **what: Any,
) -> None:
    """Train a head on RECORDS and write it to OUT.

    An interrupted run with the same options goes on from its last pass.
    """
    if linear and widths:
        raise click.UsageError("--linear has no hidden layers: give either it or --width")
    what["widths"] = () if linear else tuple(widths) or WIDTHS
    try:
        run(records, out, runs, what)
    except ValueError as error:
        raise click.ClickException(str(error)) from error


def run(records: Path, out: Path, runs: Path, what: Mapping[str, Any]) -> None:
    """Do what `main` was asked for; raises RecordsError, and ValueError for layers not recorded."""
    manifest, own = read_records(records, "train")
    _, tune = read_records(records, "tune")
    origin = manifest.origin
    spec = HeadSpec(
        kind=what["kind"],
        widths=what["widths"],
        horizon=what["horizon"],
        layers=tuple(what["layers"]) or origin.layers,
        hidden_size=origin.hidden_size,
        checkpoint=origin.checkpoint,
        tokenizer=origin.tokenizer,
        reach=origin.reach if what["means"] else None,
    )
    recipe = Recipe(**{f.name: what[f.name] for f in fields(Recipe)})
    parts = [spec.kind, _joined(spec.widths) or "linear", f"layers{_joined(spec.layers)}"]
    parts += [spec.horizon, f"reach{spec.reach}", origin.fingerprint[:8], *astuple(recipe)]
    directory = runs / "-".join(str(part) for part in parts)
    began = time.monotonic()
    with tqdm(total=recipe.passes, unit="pass", desc="training") as bar:

        def report(number: int, loss: float, tuned: float) -> None:
            bar.update(number + 1 - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}", tune=f"{tuned:.4f}")

        weights, best = train(
            spec.build(),
            examples(own, origin.layers, spec),
            examples(tune, origin.layers, spec),
            recipe,
            directory,
            report,
        )
    save_head(out, spec, weights)
    readings = readings_of(spec, weights, manifest, tune)
    reader = fit_reader(readings, tune, smooths=what["smoothing"], calibrates=what["calibration"])
    save_reader(out, reader)
    print(f"{reader.smoothing}")
    print(f"trained for {time.monotonic() - began:.0f} s, best after pass {best + 1}")
    print(f"{num_parameters(weights)} parameters; written to {out}")


def _joined(numbers: tuple[int, ...]) -> str:
    return "+".join(str(number) for number in numbers)


if __name__ == "__main__":
    main()
