"""How is the length head trained? `python -m train.predictor --records DIR --out DIR`.

1. All records of the splits `train` and `tune` become features, by the function that serves too.
2. The head is fitted to them (train/head); the rate falls along a cosine.
3. After every pass over the records the state is saved, so that an interrupted run goes on there;
   the run ends early once the loss on `tune` has not fallen for some passes.
4. The weights of the best pass are written, and beside them how readings are to be smoothed and
   calibrated, as suits `tune` best.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import click
import jax
import jax.numpy as jnp
from tqdm import tqdm

from predictor.candidates import readings_of
from predictor.features import features, pick_layers
from predictor.follow import fit_reader
from predictor.glance import Glance
from predictor.head import num_parameters
from predictor.records import Manifest, Origin, Records, read_prompts, read_records
from predictor.saved import HEADS, HeadSpec, save_head, save_reader
from train.head import Asked, Data, Examples, fit
from train.passes import Recipe

AT_ONCE = 8192
"""Records whose features are computed together."""
WIDTHS = (128, 64)
"""Of the layers of a head unless others are asked for."""


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


def data_of(
    directory: Path, split: str, records: Records, recorded: Origin, spec: HeadSpec
) -> Data:
    """Put a split's records, and its prompts if the head looks at them, in place for training."""
    asked = None
    if spec.glance is not None:
        prompts = read_prompts(directory, split)
        asked = Asked(spec.glance, prompts, prompts.of(records.reply))
    return Data(examples(records, recorded.layers, spec), asked)


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
@click.option(
    "--glance",
    "numbers",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Glance at prompts, if recorded, and keep so many numbers of each.",
)
@click.option(
    "--glance-queries",
    "queries",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Learned for each key-value head.",
)
@click.option(
    "--glance-dropout",
    "dropout",
    type=click.FloatRange(0, 1, max_open=True),
    default=0.3,
    show_default=True,
    help="Share of these numbers that a batch does without.",
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

    An interrupted run with the same options and records goes on from its last pass.
    """
    if linear and widths:
        raise click.UsageError("--linear has no hidden layers: give either it or --width")
    what["widths"] = () if linear else tuple(widths) or WIDTHS
    try:
        run(records, out, runs, what)
    except (ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def run(records: Path, out: Path, runs: Path, what: Mapping[str, Any]) -> None:
    """Do what `main` was asked for; raises ValueError for what cannot be read or trained."""
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
        glance=_glance(records, manifest, what["numbers"], what["queries"]),
    )
    recipe = Recipe(**{f.name: what[f.name] for f in fields(Recipe)})
    parts = [spec.kind, _joined(spec.widths) or "linear", f"layers{_joined(spec.layers)}"]
    known = manifest.fingerprint("train", "tune")
    parts += [spec.horizon, f"reach{spec.reach}", known[:8], *astuple(recipe)]
    if spec.glance is not None:
        parts += [f"glance{spec.glance.numbers}x{spec.glance.queries}", what["dropout"]]
    tuned_on = data_of(records, "tune", tune, origin, spec)
    out.mkdir(parents=True, exist_ok=True)  # what cannot be written is told before the work
    directory = runs / "-".join(str(part) for part in parts)
    began = time.monotonic()
    with tqdm(total=recipe.passes, unit="pass", desc="training") as bar:

        def report(number: int, loss: float, tuned: float) -> None:
            bar.update(number + 1 - bar.n)
            bar.set_postfix(loss=f"{loss:.4f}", tune=f"{tuned:.4f}")

        weights, best = fit(
            spec,
            data_of(records, "train", own, origin, spec),
            tuned_on,
            recipe,
            what["dropout"],
            directory,
            report,
        )
    prompts = None if tuned_on.asked is None else tuned_on.asked.prompts
    readings = readings_of(spec, weights, manifest, tune, prompts)
    reader = fit_reader(readings, tune, smooths=what["smoothing"], calibrates=what["calibration"])
    # Both at once, so that a run that is killed before leaves a former head as it was.
    save_head(out, spec, weights)
    save_reader(out, reader)
    print(f"{reader.smoothing}")
    print(f"trained for {time.monotonic() - began:.0f} s, best after pass {best + 1}")
    print(f"{num_parameters(weights)} parameters; written to {out}")


def _glance(records: Path, manifest: Manifest, numbers: int, queries: int) -> Glance | None:
    """Say how prompts are looked at, as they were recorded; None: not at all."""
    if numbers == 0:
        return None
    *_, heads, head_dim = read_prompts(records, "tune").kv.shape
    layer, window = manifest.origin.prompt_layer, manifest.origin.prompt_window
    assert layer is not None, "prompts were read"
    assert window is not None, "prompts were read"
    return Glance(layer, window, queries, numbers, heads, head_dim)


def _joined(numbers: tuple[int, ...]) -> str:
    return "+".join(str(number) for number in numbers)


if __name__ == "__main__":
    main()
