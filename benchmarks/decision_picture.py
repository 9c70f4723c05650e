"""What did one run look like? A decision log as a picture: `python -m benchmarks.decision_picture`.

Lanes are workers, bars are turns, colours say why a turn was prefilled where it was, arrows are
rows that moved while they decoded. Below: the time to the first token, predicted and actual.
"""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullFormatter

from benchmarks.lanes import Doing, Lane, Span, lanes, moved
from serving.metrics.history import read_history
from serving.metrics.stories import History, Story

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#8C6D1F", "#666666")
"""Okabe and Ito's, which colour-blind readers can tell apart."""
QUEUE = "#C9C9C9"
OPACITY = {Doing.PREFILL: 1.0, Doing.DECODE: 0.38}
WIDTH_IN, ROW_IN, LEAST_LANE_IN, BELOW_IN = 12.0, 0.17, 0.42, 1.5
GAP = 1.0
"""Space between two lanes, in rows."""
LABEL_SHARE = 0.028
"""A bar gets a label if it is longer than this share of the picture."""


class Picture:
    """One run, drawn. Times start at the first arrival."""

    def __init__(self, history: History) -> None:
        self._stories = list(history.stories.values())
        self._lanes = lanes(history)
        self._opening = history.opening
        self._zero = self._stories[0].arrived if self._stories else 0.0
        self._span = max(history.until - self._zero, 1e-3)
        counts = Counter(_reason(story) for story in self._stories)
        self._counts = {reason: counts[reason] for reason in sorted(r for r in counts if r)}
        self._colour = {r: COLOURS[i % len(COLOURS)] for i, r in enumerate(self._counts)}
        self._base: dict[str, float] = {}
        top = 0.0
        for lane in self._lanes:
            self._base[lane.worker] = top
            top += max(lane.rows, LEAST_LANE_IN / ROW_IN) + GAP
        self._height = top - GAP

    def draw(self) -> Figure:
        """Return the figure."""
        lanes_in = self._height * ROW_IN
        figure, (above, below) = plt.subplots(
            2,
            1,
            sharex=True,
            figsize=(WIDTH_IN, lanes_in + BELOW_IN + 1.7),
            height_ratios=(lanes_in, BELOW_IN),
            layout="constrained",
        )
        for lane in self._lanes:
            self._draw_lane(above, lane)
        for story in self._stories:
            self._draw_links(above, story)
        self._frame(above)
        self._draw_ttft(below)
        policies = self._opening["policies"]
        figure.suptitle(
            f"{len(self._stories)} turns of one run: who prefilled them, who decoded them, and why "
            f"(route {policies['route_policy']}, rebalance {policies['rebalance_policy']})",
            fontsize=11,
            fontweight="bold",
        )
        figure.legend(
            handles=self._legend(),
            title="A bar is a turn at a worker; its colour says why it was prefilled where it was.",
            title_fontsize=8,
            loc="outside lower center",
            ncols=5,
            fontsize=8,
            frameon=False,
        )
        return figure

    def _draw_lane(self, axes: Axes, lane: Lane) -> None:
        base = self._base[lane.worker]
        rows = max(lane.rows, LEAST_LANE_IN / ROW_IN)
        axes.axhspan(base - 0.25, base + rows + 0.05, color="#F4F4F2", zorder=0)
        for row, span in lane.spans:
            self._draw_span(axes, base + row, span)

    def _draw_span(self, axes: Axes, y: float, span: Span) -> None:
        start, length = span.start - self._zero, span.stop - span.start
        if span.doing is Doing.QUEUE:
            axes.broken_barh([(start, length)], (y + 0.3, 0.25), color=QUEUE, zorder=2)
            return
        colour = self._colour[_reason(span.story) or ""]
        opacity = OPACITY[span.doing]
        axes.broken_barh(
            [(start, length)], (y, 0.84), color=colour, alpha=opacity, linewidth=0, zorder=2
        )
        if span.doing is Doing.DECODE and length > LABEL_SHARE * self._span:
            name = f"{span.story.session}.{span.story.number}"
            axes.text(start + 0.004 * self._span, y + 0.42, name, fontsize=6, va="center", zorder=4)

    def _draw_links(self, axes: Axes, story: Story) -> None:
        """Draw the way from prefill to decode, and the moves."""
        first = story.first
        if first is not None and story.attempts and first.worker != story.attempts[0].owner:
            ends = [self._place(w, story, first.t) for w in (first.worker, story.attempts[0].owner)]
            if None not in ends:
                x = first.t - self._zero
                colour = self._colour[_reason(story) or ""]
                axes.plot(
                    [x, x], [y for y in ends if y is not None], color=colour, lw=0.6, zorder=1
                )
        for move in moved(story):
            assert move.resumed_t is not None
            assert move.stop_s is not None
            left = move.resumed_t - move.stop_s
            tail = self._place(move.source, story, left)
            head = self._place(move.to, story, move.resumed_t)
            if tail is not None and head is not None:
                axes.annotate(
                    "",
                    xy=(move.resumed_t - self._zero, head),
                    xytext=(left - self._zero, tail),
                    arrowprops={"arrowstyle": "-|>", "color": "black", "lw": 1.2},
                    zorder=5,
                )

    def _place(self, worker: str, story: Story, t: float) -> float | None:
        lane = next(lane for lane in self._lanes if lane.worker == worker)
        row = lane.row_at(story, t)
        return None if row is None else self._base[worker] + row + 0.42

    def _frame(self, axes: Axes) -> None:
        axes.set_ylim(self._height + 0.3, -0.5)
        axes.set_xlim(-0.01 * self._span, 1.01 * self._span)
        axes.set_yticks(
            [self._base[lane.worker] + max(lane.rows, 2) / 2 for lane in self._lanes],
            [f"{lane.worker}\n({lane.role})" for lane in self._lanes],
            fontsize=9,
        )
        axes.tick_params(length=0)
        axes.grid(axis="x", color="white", zorder=1)
        axes.spines[:].set_visible(False)

    def _draw_ttft(self, axes: Axes) -> None:
        for story in self._stories:
            if story.first is None:
                continue
            x, came = story.arrived - self._zero, story.first.ttft_s * 1e3
            colour = self._colour[_reason(story) or ""]
            axes.plot(x, came, "o", color=colour, ms=4, zorder=3)
            if story.first.predicted_s is not None:
                predicted = story.first.predicted_s * 1e3
                axes.plot([x, x], [predicted, came], color=colour, lw=0.8, alpha=0.6, zorder=2)
                axes.plot(x, predicted, "_", color="black", ms=7, zorder=4)
        axes.set_yscale("log")
        axes.set_ylabel("first token\nafter (ms)", fontsize=9)
        axes.set_xlabel("seconds since the first turn arrived", fontsize=9)
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(axis="y", color="#DDDDDD", lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)

    def _legend(self) -> list[Any]:
        reasons = [
            Patch(color=self._colour[reason], label=f"{reason.replace('_', ' ')} ({n} turns)")
            for reason, n in self._counts.items()
        ]
        shapes = [
            Patch(color=QUEUE, label="waits"),
            Patch(color="#444444", label="prefill (full colour)"),
            Patch(
                color="#444444",
                alpha=OPACITY[Doing.DECODE],
                label="decode; s2.3: session 2, turn 3",
            ),
        ]
        marks: list[Any] = [
            Line2D([], [], color="black", marker="o", ls="", ms=4, label="actual first token"),
            Line2D([], [], color="black", marker="_", ls="", ms=7, label="predicted"),
        ]
        if any(moved(story) for story in self._stories):
            marks.append(Line2D([], [], color="black", marker=">", lw=1.2, ms=4, label="row moved"))
        return [*reasons, *shapes, *marks]


def _reason(story: Story) -> str | None:
    return story.attempts[0].route_reason if story.attempts else None


def main() -> None:
    """Draw the log named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path, help="what `foretoken serve --decision-log` wrote")
    parser.add_argument("--out", type=Path, required=True, help="a file of type .png or .svg")
    parser.add_argument("--dpi", type=int, default=110, help="dots per inch of a .png")
    arguments = parser.parse_args()
    mpl.use("agg")
    Picture(read_history(arguments.log)).draw().savefig(arguments.out, dpi=arguments.dpi)


if __name__ == "__main__":
    main()
