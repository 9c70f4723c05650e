"""What does the results file hold, and which parts of it may be kept? One JSON document.

    {"schema": 1, "machine": {...},
     "parts": {name: {"code", "date", "seconds", ..., "figures": {...}}}}

A part is kept only if the same code was measured on the same machine. Knows nothing of what the
figures of a part mean.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Machine

SCHEMA = 1


class ResultsError(ValueError):
    """A results file that does not hold what this program writes; one line for a person."""


@dataclass(frozen=True, slots=True)
class PartResult:
    """One finished part.

    `load_average` is the machine's, over a minute, and `usable_cores` this process's, both before
    the part began.
    """

    code: str
    date: str
    seconds: float
    load_average: float
    usable_cores: int
    figures: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Results:
    """Every finished part and the machine they were measured on."""

    machine: Machine
    parts: Mapping[str, PartResult]

    def with_part(self, name: str, part: PartResult) -> "Results":
        """Return the results with a part added or replaced."""
        return Results(self.machine, {**self.parts, name: part})

    def kept(self, machine: Machine, code: str, wanted: Iterable[str]) -> tuple[str, ...]:
        """Name the wanted parts that need not be measured again."""
        if machine != self.machine or code == "unknown":
            return ()
        return tuple(n for n in wanted if n in self.parts and self.parts[n].code == code)


def load(path: Path, machine: Machine) -> Results:
    """Read the results of this machine; empty ones if there are none yet, or another machine's.

    Raises ResultsError for a file that is not one of ours.
    """
    if not path.exists():
        return Results(machine, {})
    try:
        found = from_json(json.loads(path.read_text()))
    except (json.JSONDecodeError, ResultsError) as error:
        raise ResultsError(f"{path}: {error}") from error
    return found if found.machine == machine else Results(machine, {})


def save(path: Path, results: Results) -> None:
    """Replace the file as a whole, so that an interruption leaves the former one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = path.with_suffix(".partial")
    written.write_text(json.dumps(to_json(results), indent=1) + "\n")
    written.replace(path)


def to_json(results: Results) -> dict[str, Any]:
    """Return the document."""
    parts = {
        name: {field: getattr(part, field) for field in PartResult.__slots__}
        for name, part in results.parts.items()
    }
    return {"schema": SCHEMA, "machine": results.machine, "parts": parts}


def from_json(document: Any) -> Results:
    """Read a document; raises ResultsError that names what is missing or of the wrong type."""
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise ResultsError(f"not a results file of schema {SCHEMA}")
    machine = _fields(document.get("machine"), "machine", Machine.__annotations__)
    parts = document.get("parts")
    if not isinstance(parts, dict):
        raise ResultsError("parts: expected an object")
    read = {
        name: PartResult(**_fields(part, f"parts.{name}", PartResult.__annotations__))
        for name, part in parts.items()
    }
    return Results(Machine(**machine), read)


_JSON_TYPES = {str: (str,), float: (float, int), int: (int,)}


def _fields(found: Any, where: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(found, dict) or set(found) != set(expected):
        raise ResultsError(f"{where}: expected exactly the fields {', '.join(expected)}")
    for name, kind in expected.items():
        if not isinstance(found[name], _JSON_TYPES.get(kind, (dict,))):
            raise ResultsError(f"{where}.{name}: wrong type")
    return found
