"""What do a length head's answers look like? Pictures for `notebooks/length_prediction.ipynb`.

Errors come from what `predictor.evaluate` writes, curves from records that a head was read on.
Knows no checkpoints and collects nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from predictor.candidates import MIDDLE, check_head, readings_of
from predictor.curves import quantile
from predictor.edges import EDGES
from predictor.follow import stated
from predictor.metrics import (
    DECILES,
    by_group,
    coverage,
    mean_absolute_error,
    position_deciles,
)
from predictor.positions import EARLY
from predictor.records import Records, read_prompts, read_records
from predictor.saved import load_head, load_reader

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"
"""Okabe and Ito's, which colour-blind readers can tell apart."""
LIGHT, PALE = "#DDDDDD", "#C9C9C9"
BASELINES = {
    "survivors": (ORANGE, "s", "-"),
    "median by position": (GREEN, "^", "--"),
    "constant median": (GREY, "D", ":"),
}
"""Colour, mark and line of each; those that evaluation adds and that look at no model."""
LEVELS = np.linspace(0.05, 0.95, 19)
"""Quantiles whose coverage is drawn."""
REPLIES, PLACES = 5, 6
"""Replies whose curves are drawn, and at most so many places in each."""
LEAST_PLACES = 4
SHADES = (0.35, 1.0)
"""Of the first and the last place of a reply, on matplotlib's scale of blues."""
DPI = 110
STYLE: Any = {
    "font.size": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
}


@dataclass(frozen=True, slots=True)
class Seen:
    """Records, the curve [N, E] that a server would state at each, and names of families."""

    records: Records
    curves: Floats
    families: tuple[str, ...]

    def of(self, mask: NDArray[np.bool_]) -> "Seen":
        """Select records."""
        return Seen(self.records[mask], self.curves[mask], self.families)

    def by_family(self) -> dict[str, "Seen"]:
        """Return the records of each family that has enough of them."""
        names = dict(enumerate(self.families))
        masks = by_group(self.records.family.astype(np.int64), names)
        return {name: self.of(mask) for name, mask in masks.items()}


def see(records: Path, head: Path, temperature: float, split: str) -> Seen:
    """Read a saved head on records. Raises RecordsError, or HeadError, for what does not fit."""
    manifest, asked = read_records(records, split)
    asked = asked[np.isclose(asked.temperature, temperature)]
    spec, weights = load_head(head)
    check_head(head, spec, manifest)
    prompts = None if spec.glance is None else read_prompts(records, split)
    readings = readings_of(spec, weights, manifest, asked, prompts)
    return Seen(asked, stated(readings, asked, load_reader(head)), manifest.families)


# What is drawn


def covered(seen: Seen) -> Floats:
    """Return how often each of `LEVELS` held, as `metrics.coverage` counts."""
    return np.array([coverage(seen.records, quantile(seen.curves, q)) for q in LEVELS])


def certain(seen: Seen) -> bool:
    """Is the length of most replies stated as one number? Then every quantile covers it."""
    low, high = (quantile(seen.curves, q) for q in (LEVELS[0], LEVELS[-1]))
    return bool((low == high).mean() > 1 / 2)


def distance(shares: Floats) -> float:
    """Return how far shares covered lie from `LEVELS` on average."""
    return float(np.abs(shares - LEVELS).mean())


def position_labels(records: Records) -> dict[str, str]:
    """Say which tokens each tenth of `metrics.position_deciles` spans, by its name."""
    tenths = position_deciles(records)
    spans: dict[str, str] = {}
    for tenth in np.unique(tenths):
        own = records.generated[tenths == tenth]
        low, high = int(own.min()), int(own.max())
        spans[str(tenth)] = f"{low}" if low == high else f"{low}-{high}"
    return spans


def links(records: Records, reply: int) -> Ints:
    """Return the records of a reply at which a server reads its head, from first to last."""
    own = np.flatnonzero(records.reply == reply)
    place = records.generated[own]
    own = own[(place == 0) | ~np.isin(place, EARLY)]
    return own[np.argsort(records.generated[own])]


def chosen(seen: Seen) -> list[tuple[str, Ints]]:
    """Choose replies to be drawn: the family of each, and its records at up to `PLACES` places.

    By rule, so that nobody picks the pretty ones: of the families, ordered by the error in them,
    `REPLIES` at even distances; of each the reply of middle length among those that came to their
    own end and are long enough to be read `LEAST_PLACES` times.
    """
    found: list[tuple[float, str, Ints]] = []
    for family, name in enumerate(seen.families):
        some = seen.of(seen.records.family == family)
        whole = np.unique(some.records.reply[~some.records.censored])
        rows = [links(seen.records, int(reply)) for reply in whole]
        rows = [own for own in rows if len(own) >= LEAST_PLACES]
        rows.sort(key=lambda own: int(seen.records.generated[own[0]] + _left(seen, own[0])))
        if rows:
            error = mean_absolute_error(some.records, quantile(some.curves, MIDDLE))
            found.append((error, name, rows[len(rows) // 2]))
    found.sort(key=lambda one: one[0])
    ranks = _spread(len(found), REPLIES)
    return [(found[i][1], found[i][2][_spread(len(found[i][2]), PLACES)]) for i in ranks]


def parts(found: Mapping[str, Any]) -> dict[str, tuple[float, tuple[float, float, float] | None]]:
    """Return the error of the first head and of each other one, by what makes it differ.

    Beside it, by what share it is above the first one's, and the bounds of that; None for the
    first itself. What others would say without smoothing or calibration is left out.
    """
    first = next(iter(found["predictors"]))
    own = f"{first}, "
    rows: dict[str, tuple[float, tuple[float, float, float] | None]] = {}
    for name, figures in found["predictors"].items():
        if name in BASELINES or ("," in name and not name.startswith(own)):
            continue
        above = None
        if name != first:
            below = found["reduction"][name]
            low, high = below["interval"]
            above = (_above(below["share"]), _above(low), _above(high))
        label = "as served" if name == first else name.removeprefix(own)
        rows[label] = (figures["all"]["mae"], above)
    return rows


def _above(below: float) -> float:
    """Turn "the first's error is below by" into "the other's is above by"."""
    return 1 / (1 - below) - 1


def _left(seen: Seen, row: np.int64) -> int:
    return int(seen.records.remaining[row])


def _spread(count: int, most: int) -> list[int]:
    """Return up to `most` of `count` places at even distances, first and last among them."""
    return sorted({round(x) for x in np.linspace(0, count - 1, min(count, most)).tolist()})


# Pictures


@contextmanager
def _page(width: float, height: float) -> Iterator[Figure]:
    """Yield a new figure, in inches, and draw in `STYLE`.

    The figure comes first: Jupyter's settings are made with it, and must outlast the style.
    """
    figure = plt.figure(figsize=(width, height), dpi=DPI, layout="constrained")
    with plt.rc_context(STYLE):
        yield figure


def draw_errors_along(found: Mapping[str, Any], spans: Mapping[str, str]) -> Figure:
    """Draw errors against where in its reply a record lies; `spans` are `position_labels`."""
    with _page(12.0, 5.0) as figure:
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_tenths(left, found, "position", spans)
        shares = 100 // DECILES
        tenths = {str(d): f"{d * shares}-{(d + 1) * shares}" for d in range(DECILES)}
        _draw_tenths(right, found, "progress", tenths)
        left.set(title="By tokens so far", xlabel="tokens of the reply so far")
        right.set(title="By progress, known afterwards", xlabel="share of the reply so far (%)")
        left.set_ylabel("mean absolute error (tokens)")
        left.set_ylim(bottom=0)
        figure.align_xlabels([left, right])
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure


def _draw_tenths(
    axes: Axes, found: Mapping[str, Any], kind: str, labels: Mapping[str, str]
) -> None:
    shown = _head_and_baselines(found)
    names = [name for name in labels if name in shown[0][1][kind]]
    for label, groups, (colour, mark, line) in shown:
        errors = [groups[kind][name]["mae"] for name in names]
        axes.plot(errors, color=colour, marker=mark, ls=line, lw=2.2, ms=7, label=label)
    axes.set_xticks(range(len(names)), [labels[name] for name in names], rotation=40, ha="right")
    axes.grid(axis="y", color=LIGHT, lw=0.8)


def _head_and_baselines(
    found: Mapping[str, Any],
) -> list[tuple[str, Mapping[str, Any], tuple[str, str, str]]]:
    """Return label, figures and look of the first head and of each baseline."""
    first = next(iter(found["predictors"]))
    looks = {first: (BLUE, "o", "-"), **BASELINES}
    return [
        ("length head" if name == first else name, found["predictors"][name], look)
        for name, look in looks.items()
    ]


def draw_errors_by_family(found: Mapping[str, Any]) -> Figure:
    """Draw the error of the head and of baselines in every family, the head's worst on top."""
    shown = _head_and_baselines(found)
    head = shown[0][1]["family"]
    names = sorted(head, key=lambda name: head[name]["mae"])
    with _page(10.0, 1.6 + 0.38 * len(names)) as figure:
        axes = figure.subplots()
        for y, name in enumerate(names):
            errors = [figures["family"][name]["mae"] for _, figures, _ in shown]
            axes.plot([min(errors), max(errors)], [y, y], color=LIGHT, lw=2, zorder=1)
        for label, figures, (colour, mark, _) in reversed(shown):
            errors = [figures["family"][name]["mae"] for name in names]
            size, order = (11, 4) if colour == BLUE else (8, 3)
            axes.plot(
                errors,
                range(len(names)),
                mark,
                color=colour,
                label=label,
                ms=size,
                zorder=order,
                clip_on=False,
            )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlim(left=0)
        axes.set(title="By family of tasks", xlabel="mean absolute error (tokens)")
        axes.tick_params(axis="y", length=0, pad=10)
        axes.spines["left"].set_visible(False)
        axes.legend(loc="lower right", reverse=True)
    return figure


def draw_calibration(seen: Seen) -> Figure:
    """Draw how often stated quantiles held: over all, in the worst and the best family.

    Families of `certain` lengths are not drawn.
    """
    shares = {n: covered(some) for n, some in seen.by_family().items() if not certain(some)}
    order = sorted(shares, key=lambda name: distance(shares[name]))
    with _page(6.6, 6.4) as figure:
        axes = figure.subplots()
        axes.plot([0, 100], [0, 100], color="black", lw=1, ls="--", label="as stated")
        for nth, name in enumerate(order[1:-1]):
            label = None if nth else "other families"
            axes.plot(LEVELS * 100, shares[name] * 100, color=PALE, lw=1.2, label=label)
        if order:
            best, worst = order[0], order[-1]
            for what, name, colour, mark in (
                ("worst", worst, RED, "v"),
                ("best", best, GREEN, "^"),
            ):
                _draw_shares(axes, shares[name], colour, mark, f"{what} family: {name}")
        _draw_shares(axes, covered(seen), BLUE, "o", "all families")
        axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal", title="Do stated quantiles hold?")
        axes.set_xlabel("stated quantile of the remaining length (%)")
        axes.set_ylabel("how often it was enough (%)")
        axes.grid(color=LIGHT, lw=0.8)
        axes.legend(loc="upper left", reverse=True)
    return figure


def _draw_shares(axes: Axes, shares: Floats, colour: str, mark: str, label: str) -> None:
    axes.plot(LEVELS * 100, shares * 100, color=colour, marker=mark, lw=2.2, ms=6, label=label)


def draw_unfolding(seen: Seen) -> Figure:
    """Draw the stated curves of some replies at several places, from light to dark."""
    replies = chosen(seen)
    with _page(12.0, 6.6) as figure:
        panels: list[Axes] = figure.subplots(2, 3, sharey=True).ravel().tolist()
        for axes, (name, rows) in zip(panels, replies, strict=False):
            _draw_reply(axes, seen, name, rows)
        for axes in panels[len(replies) :]:
            axes.set_axis_off()
        for axes in panels[::3]:
            axes.set_ylabel("chance to go on (%)")
        figure.supxlabel("tokens of the reply", fontsize=12)
        panels[-1].legend(handles=_unfolding_legend(), loc="center", labelspacing=1.0)
    return figure


def _draw_reply(axes: Axes, seen: Seen, name: str, rows: Ints) -> None:
    end = int(seen.records.generated[rows[0]]) + _left(seen, rows[0])
    for row, shade in zip(rows, np.linspace(*SHADES, len(rows)), strict=True):
        start, curve = int(seen.records.generated[row]), seen.curves[row]
        colour = plt.get_cmap("Blues")(shade)
        tokens = start + np.array(EDGES[: len(curve)])
        axes.plot(tokens, curve * 100, color=colour, lw=2)
        middle = start + float(quantile(curve[None], MIDDLE)[0])
        axes.plot(middle, 50, "o", color=colour, ms=7, mec="white", mew=0.8, zorder=4)
    axes.axvline(end, color=RED, lw=2, ls="--", zorder=3)
    axes.set(xlim=(0, 2 * end), ylim=(0, 103), title=f"{name}: {end} tokens")
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))


def _unfolding_legend() -> list[Line2D]:
    blues = plt.get_cmap("Blues")
    return [
        Line2D([], [], color=blues(SHADES[0]), lw=2, label="stated at the first token"),
        Line2D([], [], color=blues(SHADES[1]), lw=2, label="stated near the end"),
        Line2D([], [], color=blues(0.8), marker="o", ms=7, ls="", label="stated median"),
        Line2D([], [], color=RED, lw=2, ls="--", label="where the reply ended"),
    ]


def draw_parts(found: Mapping[str, Any]) -> Figure:
    """Draw the error of the head as it is served and of heads that lack a part."""
    rows = parts(found)
    errors = [error for error, _ in rows.values()]
    with _page(10.0, 1.6 + 0.5 * len(rows)) as figure:
        axes = figure.subplots()
        colours = [BLUE, *["#9CC3DE"] * (len(rows) - 1)]
        axes.barh(range(len(rows)), errors, color=colours, height=0.62)
        for y, (error, above) in enumerate(rows.values()):
            axes.text(error, y, f"  {error:.1f}{_difference(above)}", va="center")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.invert_yaxis()
        axes.set_xlim(0, max(errors) * 1.5)
        axes.tick_params(axis="y", length=0)
        axes.set_title("What each part is worth: error without it, difference (95 % interval)")
        axes.set_xlabel("mean absolute error (tokens)")
    return figure


def _difference(above: Sequence[float] | None) -> str:
    if above is None:
        return ""
    share, low, high = (100 * one for one in above)
    return f"   {share:+.1f} % ({low:+.1f} to {high:+.1f})"
