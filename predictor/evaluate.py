"""How good is a trained head on sessions that it has not seen, against what needs no model?

`python -m predictor.evaluate --records DIR --head DIR --out FILE` measures the split `test` at one
temperature, writes JSON and prints a table. Several heads may be given; each is called by the name
of its directory.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import jax
import numpy as np
from numpy.typing import NDArray

from predictor.baselines import constant_median, median_by_position, survivors
from predictor.curves import quantile
from predictor.features import features
from predictor.head import Weights, num_parameters
from predictor.metrics import report
from predictor.records import Manifest, Records, RecordsError, read_records
from predictor.saved import HeadError, HeadSpec, load_head

AT_ONCE = 8192
MIDDLE, HIGH = 0.5, 0.9


def curves_of(spec: HeadSpec, weights: Weights, records: Records) -> NDArray[np.float64]:
    """Return a head's curve for every record, [N, K + 1]."""
    head = spec.build()

    @jax.jit
    def read(*row: jax.Array) -> jax.Array:
        return head.alive(weights, features(*row))

    parts = [
        read(some.hidden, some.generated, some.prompt_len, some.turn)
        for some in (records[i : i + AT_ONCE] for i in range(0, len(records), AT_ONCE))
    ]
    alive = np.concatenate([np.asarray(part, np.float64) for part in parts])
    return np.minimum.accumulate(alive, axis=1)


def measure(records: Path, heads: list[Path], temperature: float, horizon: int) -> dict[str, Any]:
    """Measure baselines and heads. Raises RecordsError and HeadError for what does not fit."""
    manifest, train = read_records(records, "train")
    _, test = read_records(records, "test")
    test = test[np.isclose(test.temperature, temperature)]
    if not len(test):
        raise RecordsError(f"{records}: no record of the split test at temperature {temperature:g}")
    families = manifest.families
    past = survivors(train, test, horizon)
    found: dict[str, Any] = {
        "constant median": report(test, constant_median(train, test), None, families),
        "median by position": report(test, median_by_position(train, test), None, families),
        "survivors": report(test, quantile(past, MIDDLE), quantile(past, HIGH), families),
    }
    parameters = dict.fromkeys(found, 0)
    for path in heads:
        spec, weights = load_head(path)
        check_fits(path, spec, manifest)
        curves = curves_of(spec, weights, test)
        found[path.name] = report(test, quantile(curves, MIDDLE), quantile(curves, HIGH), families)
        parameters[path.name] = num_parameters(weights)
    return {
        "origin": asdict(manifest.origin),
        "temperature": temperature,
        "sessions": len(np.unique(test.session)),
        "replies": len(np.unique(test.reply)),
        "censored": float(test.censored.mean()),
        "parameters": parameters,
        "predictors": found,
    }


def check_fits(path: Path, spec: HeadSpec, manifest: Manifest) -> None:
    """Raise HeadError unless a head was trained on records of this model and tokenizer."""
    origin = manifest.origin
    for name in ("checkpoint", "tokenizer", "hidden_size", "layers"):
        if getattr(spec, name) != getattr(origin, name):
            raise HeadError(f"{path}: was trained on records of another {name}")


def table(found: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| predictor | parameters | MAE | MAE uncapped | Kendall tau | covered by q90 |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in found["predictors"].items():
        every, whole = figures["all"], figures["uncapped"]
        covered = f"{every['covered_q90']:.1%}" if "covered_q90" in every else "-"
        lines.append(
            f"| {name} | {found['parameters'][name]:,} | {every['mae']:.1f} | {whole['mae']:.1f} "
            f"| {every['tau']:.3f} | {covered} |"
        )
    return "\n".join(lines)


@click.command()
@click.option("--records", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option(
    "--head",
    "heads",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    required=True,
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--temperature", type=float, default=0.8, show_default=True)
@click.option("--horizon", type=click.IntRange(min=1), default=4096, show_default=True)
def main(
    records: Path, heads: tuple[Path, ...], out: Path, temperature: float, horizon: int
) -> None:
    """Measure heads on the test sessions of RECORDS."""
    try:
        found = measure(records, list(heads), temperature, horizon)
    except (RecordsError, HeadError) as error:
        raise click.ClickException(str(error)) from error
    out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    click.echo(table(found))


if __name__ == "__main__":
    main()
