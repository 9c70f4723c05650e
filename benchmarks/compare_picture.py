"""What did the comparison of policies show? A picture and a table of its summary.

`python -m benchmarks.compare_picture --out docs/compare.png` draws what
`benchmarks/results/compare.json` holds and prints the table for the README.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from benchmarks.comparison import POLICIES

OURS = "foretoken"


def lines_of(cells: Sequence[Mapping[str, Any]], cluster: str) -> dict[str, dict[str, Any]]:
    """Sort the cells of one cluster into lines: workload -> policy -> rates and attainments."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell["cluster"] == cluster and not cell["variant"]:
            line = found.setdefault(cell["workload"], {}).setdefault(cell["policy"], ([], []))
            line[0].append(cell["rate"])
            line[1].append(cell["slo_attainment"]["mean"])
    return found


def table_of(summary: Mapping[str, Any], cluster: str) -> str:
    """Write a table: the rate up to which each policy keeps 90 %, and ours against the best."""
    rates: dict[str, dict[str, Mapping[str, Any]]] = {}
    for one in summary["goodput"]:
        if one["cluster"] == cluster:
            rates.setdefault(one["workload"], {})[one["policy"]] = one
    policies = sorted({p for own in rates.values() for p in own}, key=lambda p: (p == OURS, p))
    rows = [
        "| workload | " + " | ".join(policies) + " |",
        "|---|" + "---|" * len(policies),
    ]
    for workload, own in rates.items():
        best = max(one["rate"] for one in own.values())
        shown = (_shown(own.get(policy), best) for policy in policies)
        rows.append(f"| {workload} | " + " | ".join(shown) + " |")
    return "\n".join(rows)


def _shown(one: Mapping[str, Any] | None, best: float) -> str:
    if one is None:
        return "-"
    bound = "" if one["bound"] == "at" else f"{one['bound']} "
    told = f"{bound}{one['rate']:.2f}"
    return f"**{told}**" if one["rate"] == best else told


def draw(lines: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw attainment against load, one panel a workload; a policy looks alike in all of them."""
    from matplotlib.figure import Figure

    policies_of_all = sorted({policy for policies in lines.values() for policy in policies})
    known = sorted({*POLICIES, "ppd", *policies_of_all} - {OURS})  # one look in every picture
    looks = {policy: f"C{i}" for i, policy in enumerate(known)} | {OURS: "black"}
    named: dict[str, Any] = {}
    figure = Figure(figsize=(1.2 + 4.2 * len(lines), 3.6), layout="constrained")
    panels = figure.subplots(1, len(lines), sharey=True, squeeze=False)[0]
    for panel, (workload, policies) in zip(panels, lines.items(), strict=True):
        for policy, (rates, attained) in sorted(policies.items()):
            ours = policy == OURS
            (named[policy],) = panel.plot(
                rates,
                [100 * share for share in attained],
                label=policy,
                lw=2.5 if ours else 1.2,
                color=looks[policy],
                marker="o",
                ms=3,
            )
        panel.axhline(90, color="0.6", ls=":", lw=1)
        panel.set_title(workload)
        panel.set_xlabel("load, times the trace's own rate")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("turns within both targets, %")
    shown = [named[policy] for policy in policies_of_all]
    panels[-1].legend(
        handles=shown, fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
    )
    figure.savefig(path, dpi=120)


@click.command()
@click.option("--summary", default="benchmarks/results/compare.json", show_default=True)
@click.option("--cluster", default="4", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(summary: str, cluster: str, out: Path) -> None:
    """Draw the picture and print the table."""
    found = json.loads(Path(summary).read_text())
    draw(lines_of(found["cells"], cluster), out)
    print(table_of(found, cluster))


if __name__ == "__main__":
    main()
