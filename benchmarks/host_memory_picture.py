"""When do later turns get their first token, by how much of their history a host may keep?

`python -m benchmarks.host_memory_picture --out docs/host_memory.png` draws what the summaries of
`benchmarks.compare` hold, without host memory and with (`--variant`), and prints how much earlier
each is than PPD's baseline, `pd-full`, without any.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.comparison import HOST_MEMORY

BASELINE, OURS = "pd-full", "foretoken"
Line = dict[float, float]
"""Mean seconds to the first token of later turns, by load."""


def lines_of(cells: Sequence[Mapping[str, Any]], cluster: str, workload: str) -> dict[str, Line]:
    """Sort cells into lines: the baseline, ours without host memory, and ours with each size."""
    wanted = {(BASELINE, ""): BASELINE, (OURS, ""): f"{OURS}, none"}
    wanted |= {
        (OURS, name): f"{OURS}, {name.removesuffix(' of host memory')}" for name in HOST_MEMORY
    }
    found: dict[str, Line] = {label: {} for label in wanted.values()}
    for cell in cells:
        label = wanted.get((cell["policy"], cell["variant"]))
        if label is not None and (cell["cluster"], cell["workload"]) == (cluster, workload):
            found[label][cell["rate"]] = cell["ttft_later_mean"]["mean"]
    return {label: dict(sorted(line.items())) for label, line in found.items() if line}


def earlier(line: Line, baseline: Line) -> Line:
    """Return by which share first tokens come before the baseline's, where both are known."""
    return {rate: 1 - line[rate] / baseline[rate] for rate in line if rate in baseline}


def draw(lines: Mapping[str, Line], path: Path) -> None:
    """Draw first tokens against load, both on their own scales, and PPD's 68 % as a bound."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 3.6), layout="constrained")
    times, shares = figure.subplots(1, 2)
    for i, (label, line) in enumerate(lines.items()):
        color = "0.5" if label == BASELINE else f"C{i - 1}"
        times.plot([*line], [*line.values()], color=color, marker="o", ms=3, label=label)
        if label != BASELINE:
            gained = earlier(line, lines[BASELINE])
            percents = [100 * share for share in gained.values()]
            shares.plot([*gained], percents, color=color, marker="o", ms=3)
    shares.axhline(68, color="0.6", ls=":", lw=1)
    times.set_yscale("log")
    times.set_ylabel("mean first token of later turns, s")
    shares.set_ylabel(f"before {BASELINE}'s, %")
    shares.set_ylim(0, 100)
    for panel in (times, shares):
        panel.set_xlabel("load, times the trace's own rate")
        panel.grid(alpha=0.3, which="both")
    times.legend(fontsize=8, frameon=False, title="host memory per GPU", title_fontsize=8)
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--summary", multiple=True, default=["benchmarks/results/compare.json",
              "benchmarks/results/host_memory.json"], show_default=True)  # fmt: skip
@click.option("--cluster", default="4", show_default=True)
@click.option("--workload", default="mooncake", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(summary: Sequence[str], cluster: str, workload: str, out: Path) -> None:
    """Draw the picture and print the shares."""
    cells = [cell for path in summary for cell in json.loads(Path(path).read_text())["cells"]]
    lines = lines_of(cells, cluster, workload)
    draw(lines, out)
    for label, line in lines.items():
        gained = earlier(line, lines[BASELINE])
        print(label, ", ".join(f"{rate:g}: {share:.1%}" for rate, share in gained.items()))


if __name__ == "__main__":
    main()
