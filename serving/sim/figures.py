"""What did a simulation look like? Pictures of one outcome: workers over time, and latencies.

Knows nothing of how it came about.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.config import ConfigError
from serving.sim.run import Outcome

MOST_LINES = 16
"""Workers drawn as lines of their own; of more, every so many."""


def check_drawing() -> None:
    """Raise ConfigError if no picture can be drawn here."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError("--figures needs matplotlib: pip install matplotlib") from error


def draw(outcome: Outcome, folder: Path) -> list[Path]:
    """Write the pictures into a folder; raises ConfigError if it cannot be made."""
    from matplotlib.figure import Figure

    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--figures {folder}: cannot be made ({error.strerror})") from error
    pictures = {"workers.png": _workers, "latency.png": _latency}
    written: list[Path] = []
    for name, paint in pictures.items():
        figure = Figure(figsize=(10, 6), layout="constrained")
        paint(outcome, figure)
        figure.savefig(folder / name, dpi=120)
        written.append(folder / name)
    return written


def _workers(outcome: Outcome, figure: Any) -> None:
    """Draw rows and pages of every worker over time."""
    top, bottom = figure.subplots(2, 1, sharex=True)
    times = [sample.at for sample in outcome.samples]
    rows = np.array([sample.rows for sample in outcome.samples])
    pages = np.array([sample.pages for sample in outcome.samples])
    chosen = range(0, len(outcome.workers), -(-len(outcome.workers) // MOST_LINES))
    for i in chosen if len(times) else ():
        share = pages[:, i] / outcome.capacity[i]
        top.step(times, rows[:, i], where="post", label=outcome.workers[i], lw=0.9)
        bottom.step(times, 100 * share, where="post", lw=0.9)
    top.set_ylabel("tasks with a slot")
    bottom.set_ylabel("pages held by tasks, %")
    bottom.set_xlabel("seconds")
    top.set_title(f"{outcome.report['workload']}, policy {outcome.report['policy']}")
    top.legend(ncols=4, fontsize=7, frameon=False)


def _latency(outcome: Outcome, figure: Any) -> None:
    """Draw how first-token times and times per token are spread, by the turn's place."""
    left, right = figure.subplots(1, 2, sharey=True)
    finished = [turn for turn in outcome.turns if turn.completed]
    groups = {
        "turn 1": [turn for turn in finished if turn.number == 0],
        "turns 2 and 3": [turn for turn in finished if turn.number in (1, 2)],
        "later turns": [turn for turn in finished if turn.number > 2],
    }
    for name, turns in groups.items():
        if turns:
            _curve(left, [turn.ttft_s for turn in turns], name)
            _curve(right, [turn.tpot_s for turn in turns], name)
    slo = outcome.report["slo"]
    for axes, target, label in (
        (left, slo["ttft_s"], "time to first token, s"),
        (right, slo["tpot_s"], "time per token, s"),
    ):
        if target is not None:
            axes.axvline(target, color="0.4", ls=":", lw=1, label="target")
        axes.set_xscale("log")
        axes.set_xlabel(label)
        axes.grid(alpha=0.3, which="both")
    left.set_ylabel("share of turns at most so long")
    left.legend(frameon=False)


def _curve(axes: Any, values: Sequence[float | None], label: str) -> None:
    known = np.sort([value for value in values if value is not None])
    if len(known):
        axes.step(known, np.arange(1, len(known) + 1) / len(known), where="post", label=label)
