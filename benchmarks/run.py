"""How is everything measured with one command? Part by part, each kept as soon as it is done.

    python -m benchmarks.run --out results.json                 what is missing
    python -m benchmarks.run --out results.json --only raw      this part, again

Wires the parts together; no measurement of its own.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks.bench import FULL, QUICK, Bench
from benchmarks.child import ChildFailed
from benchmarks.machine import describe_code, describe_machine, usable_cores
from benchmarks.parts import (
    balance,
    control,
    decisions,
    memory,
    moves,
    observers,
    raw,
    served,
    startup,
    transformers,
    turns,
)
from benchmarks.results import PartResult, Results, ResultsError, load, save
from benchmarks.server import ServerFailed
from benchmarks.table import render

ROOT = Path(__file__).resolve().parent.parent

PARTS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "raw": raw.measure,
    "served": served.measure,
    "startup": startup.measure,
    "turns": turns.measure,
    "transformers": transformers.measure,
    "control": control.measure,
    "memory": memory.measure,
    "decisions": decisions.measure,
    "moves": moves.measure,
    "balance": balance.measure,
    "observers": observers.measure,
}


@click.command()
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The results, as JSON.")
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Measure these again.")
@click.option("--again", is_flag=True, help="Keep nothing of an earlier run.")
@click.option("--quick", is_flag=True, help="Only show that every part works.")
@click.option(
    "--torch-python",
    envvar="TORCH_PYTHON",
    help="An interpreter with torch and transformers; this one if not given.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path),
    help="Keep compiled programs here; `startup` and `memory` never use it.",
)
@click.option("--checkpoint", type=click.Path(path_type=Path), default=ROOT / "checkpoints/demo")
def main(
    out: Path,
    only: tuple[str, ...],
    again: bool,
    quick: bool,
    torch_python: str | None,
    cache: Path | None,
    checkpoint: Path,
) -> None:
    """Measure the parts that OUT does not hold yet for this code and machine; print the table."""
    # A quick run has another name for its code, so that a full one keeps nothing of it.
    machine, code = describe_machine(), describe_code(ROOT) + (" quick" if quick else "")
    try:
        results = Results(machine, {}) if again else load(out, machine)
    except ResultsError as error:
        raise click.ClickException(str(error)) from error
    kept = () if only else results.kept(machine, code, PARTS)
    todo = [name for name in only or PARTS if name not in kept]
    if kept:
        click.echo(f"kept: {', '.join(kept)} (--again measures them anew)", err=True)
    with (
        tempfile.TemporaryDirectory() as empty,
        tqdm(todo, unit="part", file=sys.stderr, disable=not todo) as bar,
    ):
        for name in todo:
            bench = Bench(
                root=ROOT,
                checkpoint=checkpoint.resolve(),
                cache=(cache or Path(empty)).resolve(),
                scale=QUICK if quick else FULL,
                torch_python=torch_python,
                say=lambda what, name=name: bar.set_description(f"{name}: {what}"),
            )
            try:
                part = measure(name, bench, code)
            except (ServerFailed, ChildFailed) as error:
                raise click.ClickException(f"{name}: {error}") from error
            results = results.with_part(name, part)
            save(out, results)
            bar.update()
    click.echo(render(results))


def measure(name: str, bench: Bench, code: str) -> PartResult:
    """Measure one part, with what it ran under."""
    load_average, cores, start = os.getloadavg()[0], usable_cores(), time.monotonic()
    missing = transformers.absent(bench) if name == "transformers" else None
    figures = {"skipped": missing} if missing else PARTS[name](bench)
    return PartResult(
        code=code,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        seconds=round(time.monotonic() - start, 1),
        load_average=round(load_average, 2),
        usable_cores=cores,
        figures=figures,
    )


if __name__ == "__main__":
    main()
