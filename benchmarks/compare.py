"""Which policy serves real traces best? Simulated cell by cell, resumable: `make compare`.

A cell is one policy on one workload at one load on one cluster with one seed. Results gather in a
file of JSON lines, each with the code and the processor that it comes from, so that a run that was
cut short goes on where it stopped; the summary, the pictures and the tables are made of whatever is
there. To simulate cells anew, take their lines out. What is compared stands in
`benchmarks/comparison`.

    python -m benchmarks.compare --traces DIR [--cluster 4 --workload mooncake ...] [--jobs 2]
"""

import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
from scipy.special import stdtrit
from tqdm import tqdm

from benchmarks.comparison import (
    AMPD_PASSES,
    CLUSTERS,
    CONTEXT,
    MAX_LEN,
    POLICIES,
    SOURCES,
    VARIANTS,
    Cell,
    Cluster,
    Source,
    ablations_of,
    cells_of,
    lacking,
)
from benchmarks.machine import describe_code, describe_machine
from serving.config import PolicyConfig
from serving.core.batcher import MAX_LAUNCHED
from serving.flags import build_config
from serving.sim.build import SimulationConfig
from serving.sim.options import ACCELERATOR, HEAD_SIGMA
from serving.sim.run import simulate
from serving.workload.read import WorkloadChoice, read_workload
from serving.workload.session import Workload, scale_rate

ROOT = Path(__file__).parents[1]
ROWS = Path("benchmarks/results/compare_rows.jsonl")
RESULTS = Path("benchmarks/results/compare.json")
KEPT = ("ttft", "tpot", "itl", "slo_attainment", "goodput_tps", "throughput_tps", "turns",
        "finished", "cached_share", "kv_bytes_moved", "preemptions", "moves", "steps",
        "span_s", "wall_s")  # fmt: skip


def run_cell(cell: Cell, traces: str, table: str | None) -> dict[str, Any]:
    """Simulate one cell; returns what is kept of its report. `table` is for the policy `ppd`."""
    config, workload = prepare(cell, traces, table)
    report = simulate(config, workload, show_progress=False).report
    return {**asdict(cell), **{key: report[key] for key in KEPT}}


def prepare(cell: Cell, traces: str, table: str | None) -> tuple[SimulationConfig, Workload]:
    """Say what is simulated for a cell, and what is asked there; `table` as for `run_cell`."""
    source, cluster = SOURCES[cell.workload], CLUSTERS[cell.cluster]
    limit = round(source.turns * max(1.0, cluster.load))
    part = _read(source, traces, cell.seed, limit, whole=cluster.load >= source.whole_from)
    return _config(cell, cluster, source, table), scale_rate(part, cell.rate * cluster.load)


@lru_cache(maxsize=1)
def _read(source: Source, traces: str, seed: int, limit: int, *, whole: bool) -> Workload:
    """Read a part of a trace at its own rate; cells that follow each other have it in common."""
    start_s, seconds = source.window(seed, whole=whole)
    return read_workload(
        WorkloadChoice(
            path=Path(traces) / source.file,
            format=source.format,
            seed=seed,
            limit=limit,
            max_context=CONTEXT,
            rate_scale=1.0,
            time_scale=1.0,
            start_s=start_s,
            seconds=seconds,
            session_rate=source.session_rate,
            skip_bad=False,
        )
    )


def _config(cell: Cell, cluster: Cluster, source: Source, table: str | None) -> SimulationConfig:
    changes = dict(VARIANTS[cell.variant])
    predictor = changes.pop("predictor", "head")
    own = cell.policy == "foretoken"
    quarters = changes.pop("quarters", source.quarters[cell.policy])
    host_kv_gib = changes.pop("host_kv_gib", 0.0)
    prefill = cluster.workers * quarters // 4
    # Moves, orders, pace and rows that stand aside are foretoken's, and the lookahead AMPD's.
    order = {"foretoken": "on-time", "ampd": "lookahead"}.get(cell.policy, "arrival")
    policy = PolicyConfig(
        route_policy=cell.policy,
        route_table=table if cell.policy == "ppd" else None,
        rebalance_policy=changes.pop("rebalance_policy", "predicted" if own else "none"),
        order_policy=changes.pop("order_policy", order),
        max_passes=changes.pop("max_passes", PolicyConfig().max_passes if own else AMPD_PASSES),
        keep_pace=changes.pop("keep_pace", own),
        stand_aside=changes.pop("stand_aside", own),
        slo_ttft_ms=source.ttft_s * 1e3,
        slo_tpot_ms=source.tpot_s * 1e3,
    )
    server = build_config(
        cluster.model,
        {
            **ACCELERATOR,
            "prefill_workers": prefill,
            "decode_workers": cluster.workers - prefill,
            "prefill_tp": cluster.tp if prefill else 1,
            "decode_tp": cluster.tp,
            "max_model_len": MAX_LEN,
            "host_kv_gib": host_kv_gib,
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
    """Put the results of like cells together: means over seeds, and 95 % intervals where several.

    Intervals are Student's: two seeds say little of how far others would lie.
    """
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


def goodput(cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say up to which rate each policy keeps 90 % attainment, between loads on a straight line.

    `bound` is "at"; or "above", where it kept them up to the highest load, or "below", where it did
    not at the lowest: then the rate is that load.
    """
    curves: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    for cell in cells:
        if not cell["variant"]:
            key = (cell["cluster"], cell["workload"], cell["policy"])
            curves.setdefault(key, []).append((cell["rate"], cell["slo_attainment"]["mean"]))
    return [
        {"cluster": c, "workload": w, "policy": p, **_crossing(sorted(points))}
        for (c, w, p), points in sorted(curves.items())
    ]


def _crossing(points: Sequence[tuple[float, float]], level: float = 0.9) -> dict[str, Any]:
    """Return the rate at which attainment first falls below a level, and what it is a bound of."""
    rate, attained = points[0]
    if attained < level:
        return {"rate": rate, "bound": "below"}
    for (before, high), (rate, low) in pairwise(points):
        if low < level:
            crossed = before + (rate - before) * (high - level) / (high - low)
            return {"rate": crossed, "bound": "at"}
    return {"rate": points[-1][0], "bound": "above"}


def _of(row: Mapping[str, Any], *keys: str) -> float | None:
    """Look into nested reports; None where one is missing."""
    value: Any = row
    for key in keys:
        value = None if value is None else value[key]
    return value


def _mean(values: Sequence[float | None]) -> dict[str, float | None] | None:
    known = np.array([value for value in values if value is not None], np.float64)
    if not len(known):
        return None
    half = None
    if len(known) > 1:
        half = float(stdtrit(len(known) - 1, 0.975) * known.std(ddof=1) / len(known) ** 0.5)
    return {"mean": float(known.mean()), "half_width": half}


@click.command()
@click.option("--traces", envvar="FORETOKEN_TRACES", help="Their folder (docs/workloads.md).")
@click.option("--cluster", "clusters", multiple=True, type=click.Choice(list(CLUSTERS)))
@click.option("--workload", "workloads", multiple=True, type=click.Choice(list(SOURCES)))
@click.option("--policy", "policies", multiple=True, type=click.Choice([*POLICIES, "ppd"]))
@click.option("--rate", "rates", multiple=True, type=float, help="Default: all of a workload's.")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--ppd-table", default=None, help="Measured table (benchmarks.ppd_table): adds ppd.")
@click.option("--ablations/--no-ablations", default=True)
@click.option(
    "--variant", type=click.Choice([*filter(None, VARIANTS)]), help="Of all cells; no ablations."
)
@click.option("--jobs", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--cells", type=click.Path(path_type=Path), default=ROWS)
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(traces: str | None, jobs: int, cells: Path, out: Path, **chosen: Any) -> None:
    """Simulate the cells that are missing, and write the summary of all that are there."""
    clusters = chosen["clusters"] or tuple(CLUSTERS)
    workloads = chosen["workloads"] or tuple(SOURCES)
    table = chosen["ppd_table"]
    policies = chosen["policies"] or (POLICIES if table is None else (*POLICIES, "ppd"))
    if "ppd" in policies and table is None:
        raise click.UsageError("--policy ppd needs --ppd-table (python -m benchmarks.ppd_table)")
    wanted = list(cells_of(clusters, workloads, policies, chosen["seeds"]))
    if chosen["variant"]:
        wanted = [replace(cell, variant=chosen["variant"]) for cell in wanted]
    elif chosen["ablations"]:
        wanted += ablations_of(clusters[0], workloads)
    if chosen["rates"]:
        wanted = [cell for cell in wanted if cell.rate in chosen["rates"]]
    done = {key_of(row) for row in read_rows(cells)}
    missing = [cell for cell in wanted if cell not in done]
    if (problem := lacking([cell.workload for cell in missing], traces)) is not None:
        raise click.UsageError(problem)
    cells.parent.mkdir(parents=True, exist_ok=True)
    origin = {"code": describe_code(ROOT), "cpu": describe_machine()["cpu"]}
    with ProcessPoolExecutor(jobs) as pool, cells.open("a") as file:
        running = [pool.submit(run_cell, cell, str(traces), table) for cell in missing]
        for finished in tqdm(as_completed(running), total=len(missing), unit="cell"):
            file.write(json.dumps({**finished.result(), **origin}) + "\n")
            file.flush()
    rows = read_rows(cells)
    found = summarise(rows)
    document = {"machine": describe_machine(), "cells": found, "goodput": goodput(found)}
    out.write_text(json.dumps(document, indent=1) + "\n")
    print(f"{out}: {len(rows)} cells", file=sys.stderr)


if __name__ == "__main__":
    main()
