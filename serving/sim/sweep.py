"""What was measured of two-turn conversations on four GPUs? The published sweep of PPD's authors.

One row a run: a worker mix, two workload classes, a rate; times as clients saw them. The columns
and what is known of their making: the description that comes with the file.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.workload.lines import Line, Skipped, read_lines
from serving.workload.session import WorkloadError

TURN1 = {"small": (128, 128), "large": (1024, 1024)}
TURN2 = {
    "tiny": (16, 32),
    "short_gen": (32, 256),
    "long_gen": (32, 512),
    "very_long_gen": (64, 1024),
    "small_bal": (64, 64),
    "mid_bal": (128, 128),
    "mid_paste": (256, 64),
    "big_paste": (512, 64),
    "huge_paste": (1024, 32),
}
"""Nominal tokens of prompt and reply, by class."""
COLUMNS = (
    "success_rate",
    "qps",
    "conversations",
    "turn1_ttft_p50_ms",
    "turn2_ttft_p50_ms",
    "turn2_tpot_avg_ms",
)
WHOLE = 100.0
MOST_CONNECTIONS = 50
"""The client held so many connections: with more conversations alive its queue was measured."""
REPLICAS = re.compile(r"^([0-9]+)R$")
SPLIT = re.compile(r"^([0-9]+)P_([0-9]+)(p?)D$")


@dataclass(frozen=True, slots=True)
class Mix:
    """Workers of one kind each: replicas, or prefill workers and decode workers.

    With `local` second turns are prefilled on the decode worker, else on a prefill worker.
    """

    prefill: int
    decode: int
    local: bool

    @property
    def is_replicas(self) -> bool:
        """Whether every worker does everything."""
        return self.prefill == 0


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run. Lengths in tokens, nominal; times in seconds."""

    config: str
    mix: Mix
    classes: tuple[str, str]
    first: tuple[int, int]
    second: tuple[int, int]
    rate: float
    conversations: int
    ttft1_s: float
    ttft2_s: float
    tpot2_s: float


def read_sweep(path: Path) -> list[Run]:
    """Read the stable runs of pure worker mixes; raises WorkloadError for a file that is none.

    Stable: every request was answered, and no more conversations than connections. Mixes of several
    kinds of decode workers are left out: their router kept conversations apart by rules of its own.
    """
    lines = read_lines(path)
    header = next(lines)
    names = header.text.split(",")
    missing = {"config", "turn1", "turn2", *COLUMNS} - set(names)
    if missing:
        raise WorkloadError(f"{header.where}: the column {sorted(missing)[0]} is missing")
    skipped = Skipped(allowed=False)
    found = [skipped.attempt(lambda line: _run(line, names), line) for line in lines]
    return [run for run in found if run is not None]


def rates(runs: Sequence[Run]) -> list[float]:
    """List the rates of these runs, ascending."""
    return sorted({run.rate for run in runs})


def _run(line: Line, names: Sequence[str]) -> Run | None:
    fields = next(csv.reader([line.text]))
    if len(fields) != len(names):
        raise WorkloadError(f"{line.where}: {len(fields)} fields, not {len(names)}")
    row = dict(zip(names, fields, strict=True))
    if row["turn1"] not in TURN1 or row["turn2"] not in TURN2:
        raise WorkloadError(f"{line.where}: unknown class {row['turn1']} or {row['turn2']}")
    numbers = {name: _number(line, row, name) for name in COLUMNS}
    mix = _mix(row["config"])
    conversations = int(numbers["conversations"])
    if mix is None or numbers["success_rate"] < WHOLE or not 0 < conversations <= MOST_CONNECTIONS:
        return None
    return Run(
        config=row["config"],
        mix=mix,
        classes=(row["turn1"], row["turn2"]),
        first=TURN1[row["turn1"]],
        second=TURN2[row["turn2"]],
        rate=numbers["qps"],
        conversations=conversations,
        ttft1_s=numbers["turn1_ttft_p50_ms"] / 1e3,
        ttft2_s=numbers["turn2_ttft_p50_ms"] / 1e3,
        tpot2_s=numbers["turn2_tpot_avg_ms"] / 1e3,
    )


def _mix(config: str) -> Mix | None:
    if replicas := REPLICAS.match(config):
        return Mix(0, int(replicas[1]), local=True)
    if split := SPLIT.match(config):
        return Mix(int(split[1]), int(split[2]), local=bool(split[3]))
    return None


def _number(line: Line, row: Mapping[str, str], name: str) -> float:
    try:
        value = float(row[name])
    except ValueError as error:
        raise WorkloadError(f"{line.where}: {name} is {row[name]!r}, not a number") from error
    if not 0 <= value < float("inf"):
        raise WorkloadError(f"{line.where}: {name} is {value}")
    return value
