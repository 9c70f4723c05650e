"""What does a person read? One short table, with shares of the device's own measured rates.

Knows the figures of every part; measures nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.h200.record import CHECK_NOTE, RANDOM, Record

GOALS = {
    "1 rows at 1024": (5.5, 5.0),
    "32 rows at 1024": (7.3, 6.6),
    "128 rows at 1024": (11.5, 10.2),
    "256 rows at 1024": (17.5, 15.5),
    "8192 tokens in chunks of 8192": (230.0, 195.0),
    "32 rows at 2048 + 512 on 6144": (19.0, 17.0),
}
"""Milliseconds that the project calls good and excellent, of Llama-3.1-8B on one H200."""
SKEW_GOALS = " (good 1.3, excellent 1.1)"
GOALS_FOR = ("llama-3.1-8b", "h200")
STEP_PARTS = ("decode", "skewed", "mixed", "prefill")


def lines(record: Record) -> list[dict[str, Any]]:
    """List every point: its time, the shares of copy bandwidth and matrix rate, the goals."""
    rates = record.figures("rates")
    copy = None if rates is None else rates["copy_bytes_per_s"]["median"]
    matmul = None if rates is None else rates["best_matmul_flops_per_s"]
    return [
        {
            "part": part,
            "point": name,
            "ms": 1e3 * (seconds := point["seconds"]["median"]),
            "of_copy_bandwidth": None if copy is None else point["bytes"] / seconds / copy,
            "of_matrix_rate": None if matmul is None else point["flops"] / seconds / matmul,
            "good_and_excellent_ms": _goals(record, name),
        }
        for part in STEP_PARTS
        for name, point in (record.figures(part) or {"points": {}})["points"].items()
    ]


def not_measured(record: Record, parts: Sequence[str]) -> dict[str, str]:
    """Say what the file lacks, and why."""
    missing = {name: "not run yet" for name in parts if name not in record.parts}
    for name, part in record.parts.items():
        lacking = {**part["figures"].get("not_measured", {}), **part.get("missing", {})}
        missing |= {f"{name}: {what}": why for what, why in lacking.items()}
    return missing


def render(record: Record, parts: Sequence[str]) -> str:
    """Write everything as text."""
    return "\n".join(_text(record, parts))


def _text(record: Record, parts: Sequence[str]) -> Iterator[str]:
    setting = record.setting
    if setting["cpu_check"]:
        yield f"CPU CHECK: {CHECK_NOTE}."
    device = setting["device"]
    yield (
        f"{device['kind']}, jax {setting['machine']['jax']}, {setting['model']}, weights"
        f" {setting['weights']}, attention {setting['attention']}"
    )
    if (rates := record.figures("rates")) is not None:
        yield (
            f"copy {rates['copy_bytes_per_s']['median'] / 1e12:.3g} TB/s, read"
            f" {rates['read_bytes_per_s']['median'] / 1e12:.3g} TB/s, matmul in"
            f" {rates['matmul_dtype']} {rates['best_matmul_flops_per_s'] / 1e12:.3g} TFLOP/s"
        )
    if (found := record.figures("agreement")) is not None:
        worst = max(found["attention_error_by_window"].values())
        yield f"attention within {worst:.1e} of the reference, {found['tokens']} tokens equal"
    rows = lines(record)
    if rows:
        yield f"{'step':38} {'ms':>9} {'of copy':>8} {'of matmul':>9}  good / excellent"
    for row in rows:
        goals = row["good_and_excellent_ms"]
        yield (
            f"{row['point']:38} {row['ms']:9.3f} {_share(row['of_copy_bandwidth']):>8}"
            f" {_share(row['of_matrix_rate']):>9}  {_both(goals)}"
        )
    if (skewed := record.figures("skewed")) is not None:
        yield f"skewed / uniform: {skewed['ratio']:.3f}{SKEW_GOALS if _has_goals(record) else ''}"
    yield from _others(record)
    for what, why in not_measured(record, parts).items():
        yield f"not measured: {what} ({why})"


def _others(record: Record) -> Iterator[str]:
    for name, gap in (record.figures("gaps") or {"points": {}})["points"].items():
        bound = ", bound by the host" if gap["host_bound"] else ""
        yield (
            f"host gap, {name}: {1e3 * gap['gap_s']:.3f} ms asynchronous,"
            f" {1e3 * gap['synchronous_gap_s']:.3f} synchronous, launch"
            f" {1e3 * gap['launch_s']['median']:.3f}{bound}"
        )
    for count, rates in (record.figures("pages") or {"points": {}})["points"].items():
        shown = {
            name.removesuffix("_bytes_per_s").replace("_", " "): rate["median"] / 1e9
            for name, rate in rates.items()
            if name.endswith("_bytes_per_s")
        }
        yield f"{count} pages, GB/s: " + ", ".join(f"{n} {r:.3g}" for n, r in shown.items())
        waits = {
            name.removesuffix("_dispatch_s_per_page"): 1e6 * spent["median"]
            for name, spent in rates.items()
            if name.endswith("_dispatch_s_per_page")
        }
        if waits:  # not in records from before it was measured
            yield f"{count} pages, us of the thread a page: " + ", ".join(
                f"{name} {spent:.3g}" for name, spent in waits.items()
            )
    if (found := record.figures("grid")) is not None:
        yield f"cost profile: {found['points']} points in {found['file']}"


def _goals(record: Record, point: str) -> tuple[float, float] | None:
    return GOALS.get(point) if _has_goals(record) else None


def _has_goals(record: Record) -> bool:
    model, device = GOALS_FOR
    setting: Mapping[str, Any] = record.setting
    plain = setting["model"] == model and setting["weights"] == RANDOM
    return plain and device in setting["device"]["kind"].lower()


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _both(goals: tuple[float, float] | None) -> str:
    return "" if goals is None else f"{goals[0]:g} / {goals[1]:g}"
