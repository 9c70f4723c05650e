"""What does a person read? The results as one short table, with the project's goals beside them.

Knows the figures of every part; measures nothing. A part that was not measured has no lines.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.results import Results

SERVED_UNSTREAMED = 0.7
SERVED_STREAMED = 0.4
GOAL_ROWS = "16"
CONTROL_US = 200
CONTROL_ROWS = "64"
COLD_S = 30
WARM_S = 10
TRANSFORMERS = 2
MEMORY_GIB = 2
GIB = 2**30
MIB = 2**20
ROUTE_US = {"64 workers": 100, "1000 workers": 1000}
OURS = "foretoken"
REBALANCE_MS = {"64 workers, 4096 rows": 20, "512 workers, 65536 rows": 500}
STOP_STEPS = 2
WATCHING_PERCENT = 3.0

Figures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One measurement; `goal` is empty where the project set none."""

    what: str
    value: str
    goal: str = ""
    met: bool | None = None


def render(results: Results) -> str:
    """Return the table of all parts that were measured."""
    machine = results.machine
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, {machine['ram_gib']} GiB, "
        f"Python {machine['python']}, jax {machine['jax']}"
    ]
    for name, part in results.parts.items():
        lines.append("")
        lines.append(
            f"{name}  ({part.date}, {part.code}, "
            f"load {part.load_average:.1f} before, {part.usable_cores} cores usable)"
        )
        lines += [_row(line) for line in LINES[name](part.figures)]
    return "\n".join(lines)


def _row(line: Line) -> str:
    verdict = {None: "", True: "met", False: "MISSED"}[line.met]
    return f"  {line.what:<44} {line.value:>22}  {line.goal:<9} {verdict}".rstrip()


def _raw(figures: Figures) -> Iterator[Line]:
    for rows, rate in figures["tokens_per_s"].items():
        what = f"raw step, {rows} rows, context {figures['mean_context']}"
        yield Line(what, f"{rate['median']:,.0f} tokens/s")


def _served(figures: Figures) -> Iterator[Line]:
    goals = {"unstreamed": SERVED_UNSTREAMED, "streamed": SERVED_STREAMED}
    for shape in ("colocated", "split"):
        for rows, cell in figures[shape]["rows"].items():
            for mode, goal in goals.items():
                what = f"{shape}, {rows} clients {mode}"
                yield Line(what, f"{cell[mode]['tokens_per_s']['median']:,.0f} tokens/s")
                if "of_raw" in cell[mode]:
                    share = cell[mode]["of_raw"]["median"]
                    wanted = goal if rows == GOAL_ROWS else None
                    yield _least("  of the raw step", share, wanted, "{:.2f}")
                cost = cell[mode]["generator_cores"]["median"]
                yield Line("  load generator", f"{cost:.2f} cores")


def _startup(figures: Figures) -> Iterator[Line]:
    yield _most("ready, empty compile cache", figures["cold_s"]["median"], COLD_S, "{:.1f} s")
    yield _most("ready, warm compile cache", figures["warm_s"]["median"], WARM_S, "{:.1f} s")


def _turns(figures: Figures) -> Iterator[Line]:
    for turn in figures["turns"]:
        what = f"turn {turn['turn']}: {turn['cached_len']} of {turn['prompt_len']} tokens cached"
        cached, cold = (turn[k]["median"] * 1000 for k in ("cached_first_s", "cold_first_s"))
        value = f"{cached:.0f} / {cold:.0f} ms = {turn['ratio']['median']:.2f}"
        yield Line(what, value)


def _transformers(figures: Figures) -> Iterator[Line]:
    if "skipped" in figures:
        yield Line(f"skipped: {figures['skipped']}", "")
        return
    rows = figures["rows"]
    for who in ("served", "transformers"):
        rate = figures[f"{who}_tokens_per_s"]["median"]
        yield Line(f"{who}, {rows} rows", f"{rate:,.0f} tokens/s")
    yield _least("served / transformers", figures["ratio"]["median"], TRANSFORMERS, "{:.2f}")


def _control(figures: Figures) -> Iterator[Line]:
    for rows, cell in figures["rows"].items():
        goal = CONTROL_US if rows == CONTROL_ROWS else None
        what = f"coordinator and batcher, {rows} rows"
        yield _most(what, cell["total_us"]["median"], goal, "{:.0f} us/step")


def _memory(figures: Figures) -> Iterator[Line]:
    peak = figures["peak_bytes"] / GIB
    yield _most("peak resident memory", peak, MEMORY_GIB, "{:.2f} GiB")


def _decisions(figures: Figures) -> Iterator[Line]:
    for size, fleets in figures["route"].items():
        goal = ROUTE_US[size.split(", ")[0]]
        others = {name for policies in fleets.values() for name in policies} - {OURS}
        for label, names in ((OURS, {OURS}), ("slowest of the other policies", others)):
            cells = [cell for ps in fleets.values() for name, cell in ps.items() if name in names]
            worst = max(cells, key=lambda cell: cell["median_us"]["median"])
            yield from _time(f"route, {size}: {label}", worst, goal, "us")
    for size, kinds in figures["rebalance"].items():
        worst = max(kinds.values(), key=lambda cell: cell["median_ms"]["median"])
        yield from _time(f"rebalance, {size}", worst, REBALANCE_MS[size], "ms")
    for window, cell in figures["order"].items():
        yield from _time(f"order, window of {window}", cell, None, "us")


def _time(what: str, cell: Figures, goal: float | None, unit: str) -> Iterator[Line]:
    """The median, which has the goal, and the longest times."""
    yield _most(what, cell[f"median_{unit}"]["median"], goal, f"{{:.0f}} {unit}")
    rest = "p99_us" if unit == "us" else "worst_ms"
    yield Line(f"  {rest.split('_')[0]}", f"{cell[rest]['median']:.0f} {unit}")


def _moves(figures: Figures) -> Iterator[Line]:
    for neighbours, lengths in figures["neighbours"].items():
        beside = "a row alone" if neighbours == "0" else f"beside {neighbours} rows"
        for length, cell in lengths.items():
            what = f"stop of a move, {length} tokens, {beside}"
            yield _most(what, cell["stop_steps"]["median"], STOP_STEPS, "{:.1f} steps")
            stop, step = (cell[name]["median"] * 1e3 for name in ("stop_s", "step_s"))
            yield Line("  stop / step", f"{stop:.1f} / {step:.1f} ms")
            took, sent = cell["took_s"]["median"] * 1e3, cell["bytes"]["median"] / MIB
            yield Line("  the whole move", f"{took:.0f} ms, {sent:.1f} MiB")


def _balance(figures: Figures) -> Iterator[Line]:
    for policy, cell in figures["policies"].items():
        yield Line(f"{policy}: served", f"{cell['tokens_per_s']['median']:,.0f} tokens/s")
        against = cell["against_none"]
        for name, what in (
            ("itl_p50_s", "inter-token latency, p50"),
            ("itl_p99_s", "inter-token latency, p99"),
            ("tpot_p99_s", "time per token of replies, p99"),
            ("predicted_itl_p99_s", "inter-token latency predicted for two devices, p99"),
        ):
            value, factor = cell[name]["median"] * 1e3, against[name]["median"]
            yield Line(f"  {what}; of none", f"{value:.1f} ms, {factor:.2f}")
        moves, failed = cell["moves"]["median"], cell["moves_failed"]["median"]
        sent = cell["moved_bytes"]["median"] / MIB
        yield Line("  moves, aborted", f"{moves:.0f}, {failed:.0f}, {sent:.0f} MiB")
        for name, what, unit, scale in (
            ("step", "step time", "ms", 1e3),
            ("predicted_step", "step time predicted for two devices", "ms", 1e3),
            ("rows", "rows", "", 1.0),
        ):
            std, top = cell[name]["std"]["median"], cell[name]["max_over_mean"]["median"]
            value = f"{std * scale:.2f} {unit}".strip()
            yield Line(f"  {what}: std of workers, max/mean", f"{value}, {top:.2f}")
        slow = " / ".join(f"{cell[name]['median']:.2f}" for name in ("slow_alone", "slow_beside"))
        yield Line("  observed of predicted step time, other worker idle / busy", slow)
    yield Line("two workers on one CPU share cores and memory: what evenness gains in speed", "")
    yield Line("needs two devices; how evenly rows and predicted steps lie does not", "")


def _observers(figures: Figures) -> Iterator[Line]:
    watching = {"none": "nothing", "metrics": "metrics", "log": "metrics and decision log"}
    for name, what in watching.items():
        rate = figures[name]["tokens_per_s"]["median"]
        yield Line(f"{figures['clients']} clients, watched by {what}", f"{rate:,.0f} tokens/s")
    for name, ratios in figures["ratios"].items():
        share = figures[name]["watching_share"]["median"] * 100
        what = f"{watching[name]}, of the server's processor time"
        yield _most(what, share, WATCHING_PERCENT, "{:.2f} %")
        for what, ratio in (("tokens/s", ratios["tokens_per_s"]), ("its time", ratios["cpu"])):
            spread = f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"
            yield Line(f"  {what}, of one that nothing watches", spread)


def _least(what: str, value: float, goal: float | None, form: str) -> Line:
    if goal is None:
        return Line(what, form.format(value))
    return Line(what, form.format(value), f">= {goal:g}", value >= goal)


def _most(what: str, value: float, goal: float | None, form: str) -> Line:
    if goal is None:
        return Line(what, form.format(value))
    return Line(what, form.format(value), f"<= {goal:g}", value <= goal)


LINES: Mapping[str, Callable[[Figures], Iterator[Line]]] = {
    "raw": _raw,
    "served": _served,
    "startup": _startup,
    "turns": _turns,
    "transformers": _transformers,
    "control": _control,
    "memory": _memory,
    "decisions": _decisions,
    "moves": _moves,
    "balance": _balance,
    "observers": _observers,
}
