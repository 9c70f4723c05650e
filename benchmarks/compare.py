"""Which policy serves real traces best? Simulated cell by cell, resumable: `make compare`.

A cell is one policy on one workload at one load on one cluster with one seed. Results gather in a
file of JSON lines, so that a run that was cut short goes on where it stopped; the summary and the
pictures are made of whatever is there, and of what the last summary says of other cells. All
policies have the same hardware, batch limits and targets; `replicas` has no prefill workers, the
others the cluster's split.

    python -m benchmarks.compare --traces DIR [--cluster 4 --workload mooncake ...] [--jobs 2]
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe_machine
from serving.config import PolicyConfig
from serving.core.batcher import MAX_LAUNCHED
from serving.flags import build_config
from serving.sim.build import SimulationConfig
from serving.sim.options import ACCELERATOR, HEAD_SIGMA
from serving.sim.run import simulate
from serving.workload.read import WorkloadChoice, read_workload
from serving.workload.session import Workload, scale_rate

POLICIES = ("replicas", "pd-full", "pd-delta", "local", "threshold", "ampd", "foretoken")
"""Those of the scheduler that need no table of measurements; `ppd` joins where there is one."""
RESULTS = Path("benchmarks/results/compare.json")
FIRST_SEED = 10
"""Seeds below it, and the parts of the traces that belong to them, served to choose settings."""
MAX_LEN = 66_560
CONTEXT = 65_536


@dataclass(frozen=True, slots=True)
class Cluster:
    """Accelerators and how the disaggregated policies split them.

    `load` is by how much a workload's rates and turns are multiplied: what it serves, of what four
    accelerators do with the 8B model.
    """

    model: str
    prefill: int
    decode: int
    tp: int
    load: float


CLUSTERS = {
    "4": Cluster("llama-3.1-8b", 1, 3, 1, 1.0),
    "16": Cluster("llama-3.1-8b", 4, 12, 1, 4.0),
    "64": Cluster("llama-3.1-8b", 16, 48, 1, 16.0),
    "70b": Cluster("llama-3.1-70b", 1, 3, 4, 0.45),  # four times the devices, 8.8 the parameters
}


@dataclass(frozen=True, slots=True)
class Source:
    """A workload: its file and format, turns a cell, and targets in seconds.

    `rates` multiply the file's own rate, `Cluster.load` does so again. Where the file has no
    session starts, they are drawn at `session_rate` a second.
    """

    file: str
    format: str
    turns: int
    ttft_s: float
    tpot_s: float
    rates: tuple[float, ...]
    session_rate: float = 1.0


SOURCES = {
    "mooncake": Source(
        "mooncake_conversation.jsonl.zst",
        "mooncake",
        300,
        2.0,
        0.03,
        (1.0, 2.0, 3.0, 3.5, 4.5, 5.5),
    ),
    "weka": Source(
        "weka_claude_code.jsonl.zst",
        "weka",
        600,
        2.0,
        0.03,
        (4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0),
        0.2,
    ),
    "servegen": Source(
        "servegen_deepseek_r1.jsonl.zst",
        "servegen",
        800,
        2.0,
        0.02,
        (2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0),
    ),
    "azure": Source(
        "azure_2023_conv.csv.zst", "azure", 1000, 1.0, 0.03, (6.0, 10.0, 14.0, 18.0, 22.0, 26.0)
    ),
}


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation. `variant` names what differs from the policy's own settings, if anything."""

    cluster: str
    workload: str
    rate: float
    policy: str
    seed: int
    variant: str = ""


VARIANTS: dict[str, dict[str, Any]] = {
    "": {},
    "no prediction": {"predictor": "none"},
    "histogram": {"predictor": "histogram"},
    "oracle": {"predictor": "oracle"},
    "no moves": {"rebalance_policy": "none"},
    "moves by current load": {"rebalance_policy": "current"},
    "no ordering": {"order_window": 1},
    "no margin below targets": {"route_late_margin": 0.0},
    "no TPOT harm": {"route_weight_tpot": 0.0},
    "no count of misses": {"route_weight_miss": 0.0},
    "miss weight halved": {"route_weight_miss": 2.5},
    "miss weight doubled": {"route_weight_miss": 10.0},
    "TTFT weight halved": {"route_weight_ttft": 0.5},
    "TTFT weight doubled": {"route_weight_ttft": 2.0},
    "TPOT weight halved": {"route_weight_tpot": 0.5},
    "TPOT weight doubled": {"route_weight_tpot": 2.0},
}
"""Ablations of `foretoken`: what is taken away or changed."""
KEPT = ("ttft", "tpot", "itl", "slo_attainment", "goodput_tps", "throughput_tps", "turns",
        "finished", "cached_share", "kv_bytes_moved", "preemptions", "moves", "steps",
        "span_s", "wall_s")  # fmt: skip


def run_cell(cell: Cell, traces: str, table: str | None) -> dict[str, Any]:
    """Simulate one cell; returns what is kept of its report. `table` is for the policy `ppd`."""
    source, cluster = SOURCES[cell.workload], CLUSTERS[cell.cluster]
    limit = round(source.turns * max(1.0, cluster.load))
    workload = scale_rate(_read(source, traces, cell.seed, limit), cell.rate * cluster.load)
    report = simulate(_config(cell, cluster, source, table), workload, show_progress=False).report
    return {**asdict(cell), **{key: report[key] for key in KEPT}}


@lru_cache(maxsize=1)
def _read(source: Source, traces: str, seed: int, limit: int) -> Workload:
    """Read a part of a trace at its own rate; cells that follow each other have it in common."""
    return read_workload(
        WorkloadChoice(
            path=Path(traces) / source.file,
            format=source.format,
            seed=seed,
            limit=limit,
            max_context=CONTEXT,
            rate_scale=1.0,
            time_scale=1.0,
            start_s=200.0 * seed if source.format in ("mooncake", "azure") else 0.0,
            seconds=900.0 if source.format == "servegen" else None,
            session_rate=source.session_rate,
            skip_bad=False,
        )
    )


def _config(cell: Cell, cluster: Cluster, source: Source, table: str | None) -> SimulationConfig:
    colocated = cell.policy == "replicas"
    changes = dict(VARIANTS[cell.variant])
    predictor = changes.pop("predictor", "head")
    own = cell.policy == "foretoken"
    policy = PolicyConfig(
        route_policy=cell.policy,
        route_table=table,
        # Moves are foretoken's; the peers leave rows where they are.
        rebalance_policy=changes.pop("rebalance_policy", "predicted" if own else "none"),
        order_window=changes.pop("order_window", PolicyConfig().order_window if own else 1),
        slo_ttft_ms=source.ttft_s * 1e3,
        slo_tpot_ms=source.tpot_s * 1e3,
    )
    server = build_config(
        cluster.model,
        {
            **ACCELERATOR,
            "prefill_workers": 0 if colocated else cluster.prefill,
            "decode_workers": cluster.prefill + cluster.decode if colocated else cluster.decode,
            "prefill_tp": 1 if colocated else cluster.tp,
            "decode_tp": cluster.tp,
            "max_model_len": MAX_LEN,
        },
    )
    return SimulationConfig(
        server=replace(server, policy=replace(policy, **changes)),
        predictor=predictor if own else "histogram",
        head_sigma=HEAD_SIGMA,
        step_noise=0.05,
        max_launched=MAX_LAUNCHED,
        seed=cell.seed,
    )


def cells_of(
    clusters: Sequence[str], workloads: Sequence[str], policies: Sequence[str], seeds: int
) -> Iterator[Cell]:
    """List the cells of a comparison, the first cluster first."""
    chosen = range(FIRST_SEED, FIRST_SEED + seeds)
    for cluster, seed, workload in product(clusters, chosen, workloads):
        for rate, policy in product(SOURCES[workload].rates, policies):
            yield Cell(cluster, workload, rate, policy, seed)


def ablations_of(cluster: str, workloads: Sequence[str]) -> Iterator[Cell]:
    """List the variants of `foretoken` on one cluster, at two loads near saturation."""
    for workload in workloads:
        for rate, variant in product(SOURCES[workload].rates[3:5], VARIANTS):
            if variant:
                yield Cell(cluster, workload, rate, "foretoken", FIRST_SEED, variant)


def key_of(row: dict[str, Any]) -> Cell:
    """Return the cell that a kept result belongs to."""
    return Cell(**{name: row[name] for name in Cell.__dataclass_fields__})


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the results so far; a last line that was cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def summarise(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put the results of like cells together: means over seeds with 95 % intervals of them."""
    groups: dict[tuple[str, str, float, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        key = (row["cluster"], row["workload"], row["rate"], row["policy"], row["variant"])
        groups.setdefault(key, []).append(row)
    found = []
    for (cluster, workload, rate, policy, variant), own in sorted(groups.items()):
        found.append(
            {
                "cluster": cluster,
                "workload": workload,
                "rate": rate,
                "policy": policy,
                "variant": variant,
                "seeds": len(own),
                "slo_attainment": _mean([row["slo_attainment"] for row in own]),
                "goodput_tps": _mean([row["goodput_tps"] for row in own]),
                "ttft_turn1_p50": _mean([_of(row, "ttft", "turn1", "p50") for row in own]),
                "ttft_later_mean": _mean([_of(row, "ttft", "later", "mean") for row in own]),
                "tpot_p99": _mean([_of(row, "tpot", "p99") for row in own]),
                "itl_p99": _mean([_of(row, "itl", "p99") for row in own]),
                "kv_gib_moved": _mean([row["kv_bytes_moved"] / 2**30 for row in own]),
                "preemptions": _mean([row["preemptions"] for row in own]),
                "moves": _mean([row["moves"] for row in own]),
            }
        )
    return found


def with_earlier(
    found: Sequence[dict[str, Any]], earlier: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add what an earlier summary says of cells that were not simulated since."""
    names = ("cluster", "workload", "rate", "policy", "variant")
    known = {tuple(cell[name] for name in names): cell for cell in (*earlier, *found)}
    return [known[key] for key in sorted(known)]


def goodput(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say up to which rate each policy keeps 90 % attainment, between loads on a straight line."""
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for cell in cells:
        if not cell["variant"]:
            key = (cell["cluster"], cell["workload"], cell["policy"])
            curves.setdefault(key, []).append((cell["rate"], cell["slo_attainment"]["mean"]))
    return [
        {"cluster": c, "workload": w, "policy": p, "rate": _crossing(sorted(points))}
        for (c, w, p), points in sorted(curves.items())
    ]


def _crossing(points: Sequence[tuple[float, float]], level: float = 0.9) -> float:
    """Return the rate at which attainment first falls below a level; the last one if it never."""
    last_rate, last = 0.0, 1.0
    for rate, attained in points:
        if attained < level:
            return last_rate + (rate - last_rate) * (last - level) / max(last - attained, 1e-9)
        last_rate, last = rate, attained
    return last_rate


def _of(row: Mapping[str, Any], *keys: str) -> float | None:
    """Look into nested reports; None where one is missing."""
    value: Any = row
    for key in keys:
        value = None if value is None else value[key]
    return value


def _mean(values: Sequence[float | None]) -> dict[str, float] | None:
    known = np.array([value for value in values if value is not None], np.float64)
    if not len(known):
        return None
    half = 1.96 * float(known.std(ddof=1)) / len(known) ** 0.5 if len(known) > 1 else 0.0
    return {"mean": float(known.mean()), "half_width": half}


@click.command()
@click.option("--traces", default=lambda: os.environ.get("FORETOKEN_TRACES"), required=True)
@click.option("--cluster", "clusters", multiple=True, type=click.Choice(list(CLUSTERS)))
@click.option("--workload", "workloads", multiple=True, type=click.Choice(list(SOURCES)))
@click.option("--policy", "policies", multiple=True, type=click.Choice([*POLICIES, "ppd"]))
@click.option("--rate", "rates", multiple=True, type=float, help="Default: all of a workload's.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--ppd-table", default=None, help="Measured table (benchmarks.ppd_table): adds ppd.")
@click.option("--ablations/--no-ablations", default=True)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--cells", type=click.Path(path_type=Path), default=Path("runs/compare.jsonl"))
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(traces: str, jobs: int, cells: Path, out: Path, **chosen: Any) -> None:
    """Simulate the cells that are missing, and write the summary of all that are there."""
    clusters = chosen["clusters"] or tuple(CLUSTERS)
    workloads = chosen["workloads"] or tuple(SOURCES)
    table = chosen["ppd_table"]
    policies = chosen["policies"] or (POLICIES if table is None else (*POLICIES, "ppd"))
    if "ppd" in policies and table is None:
        raise click.UsageError("--policy ppd needs --ppd-table (python -m benchmarks.ppd_table)")
    wanted = list(cells_of(clusters, workloads, policies, chosen["seeds"]))
    if chosen["ablations"]:
        wanted += ablations_of(clusters[0], workloads)
    if chosen["rates"]:
        wanted = [cell for cell in wanted if cell.rate in chosen["rates"]]
    done = {key_of(row) for row in read_rows(cells)}
    missing = [cell for cell in wanted if cell not in done]
    cells.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool, cells.open("a") as file:
        running = [pool.submit(run_cell, cell, traces, table) for cell in missing]
        for finished in tqdm(as_completed(running), total=len(missing), unit="cell"):
            file.write(json.dumps(finished.result()) + "\n")
            file.flush()
    rows = read_rows(cells)
    earlier = json.loads(out.read_text())["cells"] if out.exists() else []
    found = with_earlier(summarise(rows), earlier)
    document = {"machine": describe_machine(), "cells": found, "goodput": goodput(found)}
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{out}: {len(rows)} cells", file=sys.stderr)


if __name__ == "__main__":
    main()
