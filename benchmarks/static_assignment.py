"""What is it worth to move rows and to foresee lengths, where replies are long and memory is short?

    python -m benchmarks.static_assignment --traces DIR --out benchmarks/results/static.json
    python -m benchmarks.static_assignment --regime reasoning \
        --out benchmarks/results/static_reasoning.json

Three decode workers behind one that prefills, with replies of ServeGen's DeepSeek-R1 lengths and
little memory, or with those that STAR's paper reports (benchmarks/reasoning.py) and the memory that
a card of 24 or 80 GB leaves. `static` is what STAR (papers.md 4.4) compares with, as far as it is
published: each turn decodes where chance puts it, is admitted while its prompt fits, as in vLLM,
and stays. `load` is the same, placed by load. `histogram` and `head` are foretoken with either
forecast, `planned` is foretoken with a head where all four workers do both; with `-0.9`, pages are
set aside for the 90 % quantile of what rows will need, in place of half (which seeds 7 and 8
chose). A goodput is that of the attainment at each rate averaged over seeds.

Cells that --out holds already, of the same code and regime, are kept.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import click
from tqdm import tqdm

from benchmarks.machine import describe_code, describe_machine
from benchmarks.reasoning import reasoning
from serving.workload.sessions import lines_of

ROOT = Path(__file__).parents[1]
TRACE = "servegen_deepseek_r1.jsonl.zst"
Cell = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One load and its servers: what every way is given, and the rates that are asked for.

    Rates are shares of the trace's own, or turns a second where turns are `drawn`.
    """

    flags: tuple[str, ...]
    rates: tuple[float, ...]
    drawn: int = 0


SERVERS = ("--hardware=h100", "--prefill-workers=1", "--decode-workers=3")
SERVEGEN = Setting(
    flags=(
        *("--format=servegen", *SERVERS, "--model=llama-3.1-8b", "--kv-pages=4200"),
        *("--max-context=65536", "--slo-ttft=10", "--slo-tpot=0.03", "--limit=3500"),
    ),
    rates=(0.5, 0.6, 0.65, 0.7, 0.8, 0.9),
)
REASONING = ("--format=sessions", *SERVERS, "--model=qwen2.5-7b", "--slo-ttft=10")
TWICE = "--slo-tpot=0.0122"
"""Two times a step of one row of a few hundred tokens, 6.1 ms. STAR's targets are not known."""
SETTINGS = {
    "servegen": {"67k tokens": SERVEGEN},
    # What is left of 90 % of a card beside the weights, as `simulate` works it out of 24 and 80 GB.
    "reasoning": {
        "24 GB": Setting(
            (*REASONING, TWICE, "--kv-pages=1561"), (0.16, 0.2, 0.25, 0.32, 0.4, 0.5, 0.6, 0.7), 400
        ),
        # More turns, since 400 come within the time that one reply at the cap takes.
        "80 GB": Setting((*REASONING, TWICE, "--kv-pages=13921"), (0.4, 0.5, 0.63, 0.8), 1500),
    },
}
"""By regime, then by name."""
AS_VLLM = (
    *("--policy=pd-delta", "--rebalance=none", "--predictor=none", "--order-policy=arrival"),
    *("--reserve-quantile=0.01", "--reserve-tokens=2", "--no-wait-for-pages", "--no-keep-pace"),
    "--no-stand-aside",
)
COLOCATED = ("--prefill-workers=0", "--decode-workers=4")
CAUTIOUS = "--reserve-quantile=0.9"
WAYS = {
    "static": (*AS_VLLM, "--place-policy=hash"),
    "load": AS_VLLM,
    "histogram": ("--predictor=histogram",),
    "head": ("--predictor=head",),
    "planned": ("--predictor=head", *COLOCATED),
    "head-0.9": ("--predictor=head", CAUTIOUS),
    "planned-0.9": ("--predictor=head", *COLOCATED, CAUTIOUS),
}
ATTAINED = 0.9
SEEDS = (0, 1)


def run(flags: tuple[str, ...], workload: Path, way: str, rate: float, seed: int) -> Cell:
    """Simulate one way at one rate; returns what came of it, times in seconds."""
    asked = [f"--workload={workload}", f"--rate-scale={rate}", f"--seed={seed}", "--json"]
    command = [sys.executable, "-m", "serving.cli", "simulate", *asked, *flags, *WAYS[way]]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    report = json.loads(done.stdout.splitlines()[-1])
    return {
        "way": way,
        "rate": rate,
        "seed": seed,
        "slo_attainment": report["slo_attainment"],
        "ttft_mean": report["ttft"]["turn1"]["mean"],
        "ttft_p90": report["ttft"]["turn1"]["p90"],
        "tpot_p50": report["tpot"]["p50"],
        "tpot_p90": report["tpot"]["p90"],
        "tpot_p99": report["tpot"]["p99"],
        "itl_p99": report["itl"]["p99"],
        "preemptions": report["preemptions"],
        "pauses": report["pauses"],
        "moves": report["moves"],
        "span_s": report["span_s"],
    }


def goodput(cells: list[Cell]) -> float | None:
    """Return the rate at which attainment falls to 90 %, in a straight line between two measured.

    None if it lies outside of what was measured.
    """
    attained: dict[float, list[float]] = {}
    for cell in cells:
        attained.setdefault(cell["rate"], []).append(cell["slo_attainment"])
    means = sorted((rate, fmean(found)) for rate, found in attained.items())
    for (below, high), (above, low) in pairwise(means):
        if high >= ATTAINED > low:
            share = (high - ATTAINED) / (high - low)
            return below + share * (above - below)
    return None


def goodputs(cells: list[Cell]) -> dict[str, dict[str, float | None]]:
    """Return the goodput of each way in each setting."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        found.setdefault(cell["setting"], {}).setdefault(cell["way"], []).append(cell)
    return {
        setting: {way: goodput(own) for way, own in ways.items()} for setting, ways in found.items()
    }


def known_cells(out: Path, regime: str, code: str) -> list[Cell]:
    """Return the cells of an earlier run, if the same code made them."""
    if not out.exists():
        return []
    document = json.loads(out.read_text())
    same = (document.get("regime"), document["code"]) == (regime, code)
    return document["cells"] if same else []


def workload_of(setting: Setting, traces: Path | None, folder: Path, seed: int) -> Path:
    """Return the file of a setting's turns; those drawn are written into the folder."""
    if not setting.drawn:
        if traces is None:
            raise click.UsageError("this regime is a trace's: --traces DIR")
        return traces / TRACE
    path = folder / f"{setting.drawn}-{seed}.jsonl"
    turns = reasoning(setting.drawn, seed)
    path.write_text("".join(f"{line}\n" for line in lines_of(turns)))
    return path


@click.command()
@click.option("--regime", type=click.Choice(list(SETTINGS)), default="servegen", show_default=True)
@click.option("--setting", "settings", multiple=True, help="Of the regime. Default: all.")
@click.option("--traces", type=click.Path(path_type=Path), envvar="FORETOKEN_TRACES")
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), help="Default: all.")
@click.option("--rate", "rates", multiple=True, type=float, help="Default: all.")
@click.option("--seed", "seeds", multiple=True, type=int, help="Default: all.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(regime: str, traces: Path | None, jobs: int, out: Path, **only: tuple[Any, ...]) -> None:
    """Simulate every way at every rate."""
    settings = {
        n: s for n, s in SETTINGS[regime].items() if n in (only["settings"] or SETTINGS[regime])
    }
    code = describe_code(ROOT)
    cells = known_cells(out, regime, code)
    have = {(one["setting"], one["way"], one["rate"], one["seed"]) for one in cells}
    asked = [
        (name, way, rate, seed)
        for name, setting in settings.items()
        for seed, way, rate in product(
            only["seeds"] or SEEDS, only["ways"] or WAYS, only["rates"] or setting.rates
        )
        if (name, way, rate, seed) not in have
    ]
    with TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        files = {
            (name, seed): workload_of(settings[name], traces, Path(folder), seed)
            for name, seed in {(name, seed) for name, _, _, seed in asked}
        }

        def cell(one: tuple[str, str, float, int]) -> Cell:
            name, way, rate, seed = one
            found = run(settings[name].flags, files[name, seed], way, rate, seed)
            return {"setting": name, **found}

        for found in tqdm(pool.map(cell, asked), total=len(asked), unit="cell"):
            cells.append(found)
            document = {
                "machine": describe_machine(),
                "code": code,
                "regime": regime,
                "cells": cells,
                "goodput": goodputs(cells),
            }
            out.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(goodputs(cells))


if __name__ == "__main__":
    main()
