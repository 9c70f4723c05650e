"""What is it worth to move rows and to foresee lengths, where replies are long and memory is short?

    python -m benchmarks.static_assignment --traces DIR --out benchmarks/results/static.json

Replies of ServeGen's DeepSeek-R1 lengths on three decode workers with little memory, behind one
that prefills. `static` is what STAR (papers.md 4.4) compares with, as far as it is published: each
turn decodes where chance puts it, is admitted while its prompt fits, as in vLLM, and stays. `load`
is the same, placed by load. `histogram` and `head` are foretoken with either forecast, `planned` is
foretoken with a head where all four workers do both.
"""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm

from benchmarks.machine import describe_code, describe_machine

ROOT = Path(__file__).parents[1]
TRACE = "servegen_deepseek_r1.jsonl.zst"
RATES = (0.5, 0.6, 0.65, 0.7, 0.8, 0.9)
"""Of the trace's own."""
COMMON = (
    *("--format=servegen", "--hardware=h100", "--model=llama-3.1-8b"),
    *("--prefill-workers=1", "--decode-workers=3", "--kv-pages=4200", "--max-context=65536"),
    *("--slo-ttft=10", "--slo-tpot=0.03", "--limit=3500", "--seed=0", "--json"),
)
AS_VLLM = (
    *("--policy=pd-delta", "--rebalance=none", "--predictor=none", "--order-policy=arrival"),
    *("--reserve-quantile=0.01", "--reserve-tokens=2", "--no-wait-for-pages", "--no-keep-pace"),
)
WAYS = {
    "static": (*AS_VLLM, "--place-policy=hash"),
    "load": AS_VLLM,
    "histogram": ("--predictor=histogram",),
    "head": ("--predictor=head",),
    "planned": ("--predictor=head", "--prefill-workers=0", "--decode-workers=4"),
}
ATTAINED = 0.9


def cell(traces: Path, way: str, rate: float) -> dict[str, Any]:
    """Simulate one way at one rate; returns what came of it, times in seconds."""
    flags = [f"--workload={traces / TRACE}", f"--rate-scale={rate}", *COMMON, *WAYS[way]]
    command = [sys.executable, "-m", "serving.cli", "simulate", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    report = json.loads(done.stdout.splitlines()[-1])
    return {
        "way": way,
        "rate": rate,
        "slo_attainment": report["slo_attainment"],
        "ttft_mean": report["ttft"]["turn1"]["mean"],
        "tpot_p99": report["tpot"]["p99"],
        "itl_p99": report["itl"]["p99"],
        "preemptions": report["preemptions"],
        "moves": report["moves"],
    }


def goodput(cells: list[dict[str, Any]]) -> float | None:
    """Return the rate at which attainment falls to 90 %, in a straight line between two measured.

    None if it lies outside of what was measured.
    """
    ordered = sorted(cells, key=lambda one: one["rate"])
    for below, above in pairwise(ordered):
        high, low = below["slo_attainment"], above["slo_attainment"]
        if high >= ATTAINED > low:
            share = (high - ATTAINED) / (high - low)
            return below["rate"] + share * (above["rate"] - below["rate"])
    return None


@click.command()
@click.option("--traces", type=click.Path(path_type=Path), envvar="FORETOKEN_TRACES", required=True)
@click.option("--way", "ways", multiple=True, type=click.Choice(list(WAYS)), help="Default: all.")
@click.option("--rate", "rates", multiple=True, type=float, help="Default: all.")
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(
    traces: Path, ways: tuple[str, ...], rates: tuple[float, ...], jobs: int, out: Path
) -> None:
    """Simulate every way at every rate."""
    ways = ways or tuple(WAYS)
    asked = list(product(ways, rates or RATES))
    with ThreadPoolExecutor(jobs) as pool:
        runs = pool.map(lambda one: cell(traces, *one), asked)
        cells = list(tqdm(runs, total=len(asked), unit="cell"))
    found = {way: goodput([one for one in cells if one["way"] == way]) for way in ways}
    document = {
        "machine": describe_machine(),
        "code": describe_code(ROOT),
        "cells": cells,
        "goodput": found,
    }
    out.write_text(json.dumps(document, indent=1) + "\n")
    click.echo(found)


if __name__ == "__main__":
    main()
