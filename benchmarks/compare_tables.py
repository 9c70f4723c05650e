"""What did every cell of the comparison show? All of them as tables, those that are lost marked.

`python -m benchmarks.compare_tables --out docs/comparison.md` writes what
`benchmarks/results/compare.json` holds, and what the decision logs of lost cells showed
(`benchmarks/compare_losses`).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import click

from benchmarks.compare_picture import OURS, table_of
from benchmarks.comparison import CLUSTERS, VARIANTS

Cell = Mapping[str, Any]

HEAD = """# Every cell of the comparison

Written by `python -m benchmarks.compare_tables` from `benchmarks/results/compare.json`, whose cells
stand one by one in `compare_rows.jsonl` beside it. What is compared, and under which rules, stands
in `benchmarks/comparison.py` and in `docs/results.md`.

Loads are multiples of the trace's own rate. "In time" are the turns within both targets, in
percent, with the half width of the 95 % interval over seeds (Student's t) where there are several;
the most of a load stands out. First tokens are in seconds (the median of first turns, the mean of
later ones), the 99th percentiles of the time per token and of the gap between two in milliseconds,
KV moved between workers in GiB. A dash: there is no such turn.
"""
COLUMNS = (
    "load",
    "policy",
    "in time",
    "first token, turn 1",
    "later",
    "TPOT P99",
    "ITL P99",
    "KV moved",
    "preempted",
    "moves",
    "seeds",
)


WHY = """
What their decision logs show (`benchmarks/compare_losses.py`; the first hundred turns that differ
stand in `benchmarks/results/losses.json`): turns that are late under one of the two policies only,
by what most of the difference is. History gone: it had more to compute there. Behind others, passed
over: older or younger prompts ran before it. Beside rows: nothing but the rows that decoded was
there. No room: it was kept out, for their pace or for pages.
"""


def tables_of(summary: Mapping[str, Any], logs: Sequence[Mapping[str, Any]]) -> str:
    """Write everything that a summary says, and what `logs` of lost cells showed."""
    cells = [cell for cell in summary["cells"] if not cell["variant"]]
    parts = [HEAD, *_losses(cells), *_reasons(losses_of(cells), logs)]
    for (cluster, workload), own in _grouped(cells, "cluster", "workload"):
        parts.append(f"## {name_of(cluster)}, {workload}\n")
        parts.append(_table(COLUMNS, _rows(own)))
    for cluster in sorted({cell["cluster"] for cell in cells}):
        parts.append(f"## Loads up to which 90 % are in time: {name_of(cluster)}\n")
        parts.append(table_of(summary, cluster) + "\n")
    variants = [cell for cell in summary["cells"] if cell["policy"] == OURS]
    for (cluster, workload), own in _grouped(variants, "cluster", "workload"):
        if any(cell["variant"] for cell in own):
            parts.append(f"## Ablations of {OURS}: {name_of(cluster)}, {workload}\n")
            parts.append(_ablations(own))
    return "\n".join(parts)


def name_of(cluster: str) -> str:
    """Say what a cluster is."""
    kind = CLUSTERS[cluster]
    each = "" if kind.tp == 1 else f", {kind.tp} H100 each"
    return f"{kind.workers} workers{each}, {kind.model}"


def losses_of(cells: Sequence[Cell]) -> list[tuple[Cell, Cell]]:
    """List the cells of ours in which another policy has more turns in time, with the best one."""
    found: list[tuple[Cell, Cell]] = []
    for _, load in _grouped(cells, "cluster", "workload", "rate"):
        best = max(load, key=_attained)
        ours = next((cell for cell in load if cell["policy"] == OURS), None)
        if ours is not None and _attained(best) > _attained(ours):
            found.append((ours, best))
    return found


def _losses(cells: Sequence[Cell]) -> Iterator[str]:
    loads = sum(1 for _ in _grouped(cells, "cluster", "workload", "rate"))
    lost = losses_of(cells)
    yield f"At {len(lost)} of {loads} loads another policy has more turns in time than {OURS}:\n"
    rows = (
        [
            name_of(ours["cluster"]),
            ours["workload"],
            f"{ours['rate']:g}",
            _percent(ours),
            f"{_percent(best)} ({best['policy']})",
        ]
        for ours, best in lost
    )
    yield _table(("workers", "workload", "load", OURS, "best"), rows)


def _reasons(lost: Sequence[tuple[Cell, Cell]], logs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say why turns were late in each loss whose logs were looked at."""
    names = ("cluster", "workload", "rate", "policy")
    ours = {(*(cell[name] for name in names), best["policy"]) for cell, best in lost}
    rows = [
        [
            name_of(log["cluster"]),
            log["workload"],
            f"{log['rate']:g}",
            str(log["seed"]),
            str(log["late_under_both"]),
            _late_only(log, log["policy"]),
            f"{log['other']}: {_late_only(log, log['other'])}",
        ]
        for log in logs
        if (*(log[name] for name in names), log["other"]) in ours
    ]
    if rows:
        yield WHY
        head = ("workers", "workload", "load", "seed", "late under both", f"{OURS} only")
        yield _table((*head, "the other only"), rows)


def _late_only(log: Mapping[str, Any], policy: str) -> str:
    causes = [(cause, count) for who, cause, count in log["causes"] if who == policy]
    told = ", ".join(f"{count} {cause.removeprefix('TTFT, ')}" for cause, count in causes)
    total = sum(count for _, count in causes)
    return f"{total} ({told})" if told else "0"


def _rows(cells: Sequence[Cell]) -> Iterator[list[str]]:
    for rate, load in groupby(cells, itemgetter("rate")):
        own = list(load)
        most = max(round(_attained(cell), 4) for cell in own)
        for cell in own:
            is_best = round(_attained(cell), 4) == most
            yield [
                f"{rate:g}",
                cell["policy"],
                f"**{_percent(cell)}**" if is_best else _percent(cell),
                _shown(cell["ttft_turn1_p50"], 1, 3),
                _shown(cell["ttft_later_mean"], 1, 3),
                _shown(cell["tpot_p99"], 1e3, 1),
                _shown(cell["itl_p99"], 1e3, 1),
                _shown(cell["kv_gib_moved"], 1, 0),
                _shown(cell["preemptions"], 1, 0),
                _shown(cell["moves"], 1, 0),
                str(cell["seeds"]),
            ]


def _ablations(cells: Sequence[Cell]) -> str:
    known = {(cell["variant"], cell["rate"]): cell for cell in cells if cell["variant"]}
    rates = sorted({rate for _, rate in known})
    rows = (
        [variant, *(_percent(known[variant, r]) if (variant, r) in known else "-" for r in rates)]
        for variant in VARIANTS
        if any((variant, r) in known for r in rates)
    )
    return _table(("setting", *(f"in time at {rate:g}" for rate in rates)), rows)


def _grouped(cells: Iterable[Cell], *names: str) -> Iterator[tuple[Any, list[Cell]]]:
    key = itemgetter(*names)
    for value, own in groupby(sorted(cells, key=key), key):
        yield value, sorted(own, key=itemgetter("rate", "policy", "variant"))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _attained(cell: Cell) -> float:
    return cell["slo_attainment"]["mean"]


def _percent(cell: Cell) -> str:
    said = cell["slo_attainment"]
    around = "" if said["half_width"] is None else f" ± {100 * said['half_width']:.1f}"
    return f"{100 * said['mean']:.2f}{around}"


def _shown(said: Mapping[str, float] | None, scale: float, digits: int) -> str:
    return "-" if said is None else f"{scale * said['mean']:,.{digits}f}"


@click.command()
@click.option("--summary", default="benchmarks/results/compare.json", show_default=True)
@click.option("--losses", default="benchmarks/results/losses.json", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(summary: str, losses: str, out: Path) -> None:
    """Write the tables."""
    logs = json.loads(Path(losses).read_text()) if Path(losses).exists() else []
    out.write_text(tables_of(json.loads(Path(summary).read_text()), logs))


if __name__ == "__main__":
    main()
