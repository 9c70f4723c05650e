"""Which workload is meant? A file in one of the formats, or none, cut and scaled as asked."""

import os
from dataclasses import dataclass
from pathlib import Path

from serving.workload.azure import read_azure
from serving.workload.lines import Skipped
from serving.workload.mooncake import read_mooncake
from serving.workload.servegen import read_servegen
from serving.workload.session import (
    Workload,
    WorkloadError,
    first_turns,
    from_first_arrival,
    scale_rate,
    scale_time,
    window,
    within_context,
)
from serving.workload.sessions import read_sessions
from serving.workload.synthetic import Habits, make_sessions, make_span
from serving.workload.weka import read_weka

FORMATS = ("sessions", "mooncake", "azure", "weka", "servegen", "synthetic")
TIMED = ("sessions", "mooncake", "azure", "servegen")
"""Formats that say when sessions begin."""
TRACES_VARIABLE = "FORETOKEN_TRACES"
DEFAULT_TURNS = 1000
"""Turns made up if neither a number nor a time is asked for."""
MOST_TURNS = 1_000_000
"""Turns made up at most: more would take hours to simulate, and the memory of a large machine."""
MOST_OFTEN = 1e6
"""Sessions a second, and a scale of them, beyond which a number is taken for a mistake."""
DRAWN_SECONDS = 600.0
"""Span drawn from a distribution if none is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadChoice:
    """What to read and what to make of it. Times in seconds; None: all of it.

    `session_rate`: sessions a second where the source has no times. `limit` counts turns.
    """

    path: Path | None
    format: str
    seed: int
    limit: int | None
    max_context: int | None
    rate_scale: float
    time_scale: float
    start_s: float
    seconds: float | None
    session_rate: float
    skip_bad: bool


def read_workload(choice: WorkloadChoice) -> Workload:
    """Read or make the workload; raises WorkloadError with what is wrong and where."""
    _check(choice)
    workload = from_first_arrival(_read(choice))
    if choice.max_context is not None:
        workload = within_context(workload, choice.max_context)
    if choice.format != "servegen" and (choice.start_s or choice.seconds is not None):
        seconds = float("inf") if choice.seconds is None else choice.seconds
        workload = window(workload, choice.start_s, seconds)
    if choice.limit is not None:
        workload = first_turns(workload, choice.limit)
    workload = scale_time(scale_rate(workload, choice.rate_scale), choice.time_scale)
    return from_first_arrival(workload)


def _check(choice: WorkloadChoice) -> None:
    known = ", ".join(FORMATS)
    if choice.format not in FORMATS:
        raise WorkloadError(f"--format {choice.format} is unknown; use one of {known}")
    if choice.format == "synthetic" and choice.path is not None:
        raise WorkloadError(f"--workload {choice.path} needs the --format of the file: {known}")
    if not 0 < choice.session_rate < float("inf"):
        raise WorkloadError(f"--session-rate {choice.session_rate} must be positive")
    for flag, often in (("session-rate", choice.session_rate), ("rate-scale", choice.rate_scale)):
        if often > MOST_OFTEN:
            raise WorkloadError(f"--{flag} {often} must be at most {MOST_OFTEN:g}")
    if not 0 <= choice.start_s < float("inf"):
        raise WorkloadError(f"--start {choice.start_s} must not be negative")
    if choice.seconds is not None and not 0 < choice.seconds < float("inf"):
        raise WorkloadError(f"--seconds {choice.seconds} must be positive")
    if choice.max_context is not None and choice.max_context < 2:
        raise WorkloadError(f"--max-context {choice.max_context} has no room for a turn")
    if choice.limit is not None and choice.limit < 1:
        raise WorkloadError(f"--limit {choice.limit} leaves no turn")


def _read(choice: WorkloadChoice) -> Workload:
    if choice.format == "synthetic":
        return _make(choice)
    skipped = Skipped(choice.skip_bad)
    path = _find(choice)
    match choice.format:
        case "mooncake":
            return read_mooncake(path, skipped)
        case "azure":
            return read_azure(path, skipped)
        case "weka":
            rate = choice.session_rate
            return read_weka(path, skipped, session_rate=rate, seed=choice.seed)
        case "servegen":
            seconds = DRAWN_SECONDS if choice.seconds is None else choice.seconds
            start_s, seed = choice.start_s, choice.seed
            return read_servegen(path, skipped, start_s=start_s, seconds=seconds, seed=seed)
        case _:
            return read_sessions(path, skipped)


def _make(choice: WorkloadChoice) -> Workload:
    habits = Habits(session_rate=choice.session_rate)
    if choice.seconds is None:
        turns = DEFAULT_TURNS if choice.limit is None else choice.limit
        _check_made_up(turns, f"--limit {turns}")
        return make_sessions(habits, turns, choice.seed)
    end_s = choice.start_s + choice.seconds
    turns = end_s * habits.session_rate * habits.mean_turns
    _check_made_up(turns, f"{end_s:g} s of --start and --seconds")
    return make_span(habits, end_s, choice.seed)


def _check_made_up(turns: float, asked: str) -> None:
    if turns > MOST_TURNS:
        raise WorkloadError(f"{asked}: {MOST_TURNS:,} turns are made up at most, not {turns:,.0f}")


def _find(choice: WorkloadChoice) -> Path:
    """Find the file as given, else in the folder of traces; in both also compressed."""
    if choice.path is None:
        raise WorkloadError(f"--format {choice.format} needs --workload FILE")
    folder = os.environ.get(TRACES_VARIABLE)
    places = [choice.path] if folder is None else [choice.path, Path(folder) / choice.path]
    named = [path for place in places for path in (place, Path(f"{place}.zst"))]
    return next((path for path in named if path.exists()), places[-1])
