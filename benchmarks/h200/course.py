"""In which order is everything measured, and what if it fails or time runs out? Point by point.

    1. the numbers, compared with the reference: where they differ, nothing is timed
    2. the device's own rates, then the points that the project's table asks for
    3. every other point

Programs of a round are compiled ahead, several at a time. A point is kept as soon as it has been
measured, so that whatever ends a run loses one point at most; a point that fails leaves the others.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from benchmarks.h200.agreement import AGREEMENT
from benchmarks.h200.gaps import GAPS
from benchmarks.h200.grid import GRID
from benchmarks.h200.pages import PAGES
from benchmarks.h200.part import Job, Part
from benchmarks.h200.rates import RATES
from benchmarks.h200.record import Record
from benchmarks.h200.rig import OutOfTimeError, Rig, RigError
from benchmarks.h200.steps import DECODE, MIXED, PREFILL, SKEWED

PARTS: Mapping[str, Part] = {
    "agreement": AGREEMENT,
    "rates": RATES,
    "decode": DECODE,
    "skewed": SKEWED,
    "prefill": PREFILL,
    "mixed": MIXED,
    "gaps": GAPS,
    "pages": PAGES,
    "grid": GRID,
}
"""In this order: what is not right is not worth timing."""
STEPS = ("decode", "skewed", "prefill", "mixed")  # parts whose points are programs of their own
NOT_YET = "not run yet"


@dataclass(frozen=True, slots=True)
class Course:
    """How a run goes.

    `code` names the code; `keep` writes what has been measured so far. With `ahead` programs are
    compiled before they are needed, for which the compilation cache has to be on.
    """

    code: str
    ahead: bool
    keep: Callable[[Record], None]

    def run(self, record: Record, rig: Rig, chosen: Sequence[str]) -> Record:
        """Measure what the record lacks of these parts; raises DisagreementError."""
        parts = [name for name in PARTS if name in chosen]
        tried: set[tuple[str, str]] = set()  # what has failed is not tried again in the same run
        for only_first in (True, False) if rig.scale.first else (False,):
            due = {n: self._due(record, rig, n, tried, only_first=only_first) for n in parts}
            is_compiled = not self.ahead
            for name, jobs in due.items():
                if name in STEPS and not is_compiled:
                    points = [point for n in STEPS for point in due.get(n, ())]
                    record = self._compiled(record, rig, points)
                    is_compiled = True
                if jobs:
                    record = self._measured(record, rig, name, jobs)
                    tried |= {(name, point) for point in jobs}
        return record

    def _before(self, record: Record, name: str) -> Mapping[str, Any]:
        """Return a part as it stands, unless it is that of other code and not whole."""
        part = record.parts.get(name, {})
        return {} if part.get("missing") and part["code"] != self.code else part

    def _points(self, record: Record, name: str) -> dict[str, Any]:
        """Return what has been measured of a part."""
        part = self._before(record, name)
        return PARTS[name].points(part["figures"]) if part else {}

    def _due(
        self,
        record: Record,
        rig: Rig,
        name: str,
        tried: Container[tuple[str, str]],
        *,
        only_first: bool,
    ) -> dict[str, Job]:
        """Return the points of a part that are to be measured in this round."""
        points = self._points(record, name)
        return {
            point: job
            for point, job in PARTS[name].jobs(rig).items()
            if point not in points
            and (name, point) not in tried
            and not (only_first and _is_later(rig, name, point))
        }

    def _measured(self, record: Record, rig: Rig, name: str, jobs: Mapping[str, Job]) -> Record:
        """Measure these points of a part."""
        points, before = self._points(record, name), self._before(record, name)
        seconds = before.get("seconds", 0.0)
        wanted = list(PARTS[name].jobs(rig))
        why = {**dict.fromkeys(wanted, NOT_YET), **before.get("missing", {})}
        for point, job in jobs.items():
            start = rig.clock()
            rig.say(f"{name}: {point}")
            try:
                rig.check_time()
                points[point] = job()
            except RigError:
                raise
            except Exception as error:  # whatever one point dies of, the others may live
                why[point] = _one_line(error)
                rig.say(f"{name}: {point}: {why[point]}")
            seconds = round(seconds + rig.clock() - start, 1)
            missing = {point: why[point] for point in wanted if point not in points}
            figures = PARTS[name].figures(rig, points)
            record = record.with_part(name, self._document(seconds, figures, missing))
            self.keep(record)
        return record

    def _compiled(self, record: Record, rig: Rig, due: Sequence[str]) -> Record:
        """Compile what these points need, if there is time."""
        start = rig.clock()
        if not due or start > rig.until:
            return record
        rig.say(f"compiling {len(due)} steps")
        steps = rig.scale.step_works()
        points = {
            **(record.figures("compile") or {"points": {}})["points"],
            **rig.compile_ahead({point: steps[point] for point in due}),
        }
        seconds = round(rig.clock() - start, 1)
        record = record.with_part("compile", self._document(seconds, {"points": points}, {}))
        self.keep(record)
        return record

    def _document(
        self, seconds: float, figures: Mapping[str, Any], missing: Mapping[str, str]
    ) -> dict[str, Any]:
        return {
            "code": self.code,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "seconds": seconds,
            "figures": dict(figures),
            "missing": dict(missing),
        }


def _is_later(rig: Rig, part: str, point: str) -> bool:
    """Say whether a point is one of those that are measured after all others."""
    return part in STEPS and part != "skewed" and point not in rig.scale.first


def _one_line(error: BaseException) -> str:
    """Say what an error is, without the pages that XLA appends."""
    if isinstance(error, OutOfTimeError):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"
