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
from serving.workload.synthetic import Habits, make_sessions
from serving.workload.weka import read_weka

FORMATS = ("sessions", "mooncake", "azure", "weka", "servegen", "synthetic")
TRACES_VARIABLE = "FORETOKEN_TRACES"
DEFAULT_TURNS = 1000
"""Turns made up if no number is asked for."""
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
    if choice.format not in FORMATS:
        raise WorkloadError(f"--format {choice.format} is unknown; use one of {', '.join(FORMATS)}")
    if choice.session_rate <= 0:
        raise WorkloadError(f"--session-rate {choice.session_rate} must be positive")
    workload = from_first_arrival(_read(choice))
    if choice.max_context is not None:
        workload = within_context(workload, choice.max_context)
    if choice.format != "servegen" and (choice.start_s or choice.seconds is not None):
        workload = window(workload, choice.start_s, choice.seconds or float("inf"))
    workload = scale_time(scale_rate(workload, choice.rate_scale), choice.time_scale)
    if choice.limit is not None:
        workload = first_turns(workload, choice.limit)
    return from_first_arrival(workload)


def _read(choice: WorkloadChoice) -> Workload:
    skipped = Skipped(choice.skip_bad)
    if choice.format == "synthetic":
        habits = Habits(session_rate=choice.session_rate)
        return make_sessions(habits, choice.limit or DEFAULT_TURNS, choice.seed)
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


def _find(choice: WorkloadChoice) -> Path:
    """Find the file as given, else in the folder of traces."""
    if choice.path is None:
        raise WorkloadError(f"--format {choice.format} needs --workload FILE")
    folder = os.environ.get(TRACES_VARIABLE)
    if not choice.path.exists() and folder is not None and not choice.path.is_absolute():
        return Path(folder) / choice.path
    return choice.path
