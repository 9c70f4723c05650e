"""How good is a trained head on sessions that it has not seen, against other predictors?

`python -m predictor.evaluate --records DIR --head DIR` measures the split `test` at one
temperature, prints a table, and with `--out FILE` writes JSON. Several heads and text models may be
given; each is called by the name of its directory. What needs no model is always beside them.
`reduction` says how far below each of them the first head's error lies.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np

from predictor.candidates import Answers, of_head, of_text_model, without_model
from predictor.metrics import interval, mean_absolute_error, report, resampled_errors
from predictor.records import (
    SPLITS,
    Records,
    RecordsError,
    read_prompts,
    read_records,
    read_texts,
)
from predictor.weight_files import SavedError


def measure(
    records: Path,
    heads: Sequence[Path],
    text_models: Sequence[Path],
    temperature: float,
    horizon: int,
    split: str,
) -> dict[str, Any]:
    """Measure baselines, heads and text models.

    Raises RecordsError and SavedError for what does not fit, or is called like another.
    """
    _check_names([*heads, *text_models])
    manifest, train = read_records(records, "train")
    _, asked = read_records(records, split)
    asked = asked[np.isclose(asked.temperature, temperature)]
    if not len(asked):
        raise RecordsError(
            f"{records}: no record of the split {split} at temperature {temperature:g}"
        )
    prompts = None if manifest.origin.prompt_layer is None else read_prompts(records, split)
    answers = [one for path in heads for one in of_head(path, manifest, asked, prompts)]
    if text_models:
        texts = read_texts(records, split)
        answers += [of_text_model(path, manifest, asked, texts) for path in text_models]
    first, *others = answers
    others = [*without_model(train, asked, horizon), *others]
    return {
        "origin": asdict(manifest.origin),
        "split": split,
        "temperature": temperature,
        "sessions": len(np.unique(asked.session)),
        "replies": len(np.unique(asked.reply)),
        "censored": float(asked.censored.mean()),
        "parameters": {one.name: one.parameters for one in (first, *others)},
        "predictors": {
            one.name: report(asked, one.middle, one.high, manifest.families, manifest.origin.stride)
            for one in (first, *others)
        },
        "reduction": _reduction(first, others, asked),
    }


def _check_names(paths: Sequence[Path]) -> None:
    """Raise SavedError for two directories of one name: figures are kept by it."""
    names = [path.name for path in paths]
    for path, name in zip(paths, names, strict=True):
        if names.count(name) > 1:
            raise SavedError(f"{path}: two of those given are called {name}; rename one of them")


def _reduction(
    first: Answers, others: Sequence[Answers], asked: Records
) -> dict[str, dict[str, Any]]:
    """Say by what share the first predictor's error is below that of each other, with its interval.

    Of each draw of sessions both errors are taken, so that what is hard for both cancels out.
    """
    own, drawn = mean_absolute_error(asked, first.middle), resampled_errors(asked, first.middle)
    return {
        other.name: {
            "share": 1 - own / mean_absolute_error(asked, other.middle),
            "interval": interval(1 - drawn / resampled_errors(asked, other.middle)),
        }
        for other in others
    }


def table(found: dict[str, Any]) -> str:
    """Return the figures as a Markdown table; the first head comes first."""
    lines = [
        "| predictor | parameters | MAE (95 %) | uncapped | all places alike | Kendall tau "
        "| covered by q90 | first's MAE is lower by (95 %) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in found["predictors"].items():
        every, whole = figures["all"], figures["uncapped"]
        low, high = every["mae_interval"]
        covered = f"{every['covered_q90']:.1%}" if "covered_q90" in every else "-"
        lines.append(
            f"| {name} | {found['parameters'][name]:,} | {every['mae']:.1f} ({low:.1f}-{high:.1f}) "
            f"| {whole['mae']:.1f} | {figures['places']['mae']:.1f} | {every['tau']:.3f} "
            f"| {covered} "
            f"| {_said(found['reduction'].get(name))} |"
        )
    return "\n".join(lines)


def _said(reduction: dict[str, Any] | None) -> str:
    if reduction is None:
        return "-"
    low, high = reduction["interval"]
    return f"{reduction['share']:.1%} ({low:.1%} to {high:.1%})"


@click.command()
@click.option("--records", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option(
    "--head",
    "heads",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    required=True,
    help="May be given several times; the first is compared with all others.",
)
@click.option(
    "--text-model",
    "text_models",
    type=click.Path(path_type=Path, file_okay=False),
    multiple=True,
    help="May be given several times.",
)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="JSON.")
@click.option("--temperature", type=float, default=0.8, show_default=True)
@click.option("--horizon", type=click.IntRange(min=1), default=4096, show_default=True)
@click.option(
    "--split",
    type=click.Choice(SPLITS),
    default="test",
    show_default=True,
    help="What heads are chosen by is tune; what is reported is test.",
)
def main(records: Path, out: Path | None, **what: Any) -> None:
    """Measure heads on sessions of RECORDS that they were not trained on."""
    try:
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
        found = measure(records, **what)
        click.echo(table(found))
        if out is not None:
            out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    except (RecordsError, SavedError, OSError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
