"""How are the lines of a workload file read? Plain or zstd-compressed, each with its place.

A bad line is an error with its number, or, where that is asked for, left out and counted. What is
wrong with a file as a whole (no zstd, a part missing, no text) is an error in any case.
"""

import json
import subprocess
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

from serving.workload.session import LONGEST_S, BadLine, WorkloadError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a file, without its end."""

    path: Path
    number: int
    text: str

    @property
    def where(self) -> str:
        """Its place, for messages."""
        return f"{self.path}:{self.number}"


@dataclass
class Skipped:
    """What to do about bad lines: raise, or with `allowed` count them by reason."""

    allowed: bool
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def attempt(self, read: Callable[[Line], T], line: Line) -> T | None:
        """Read a line; None if it is bad and may be skipped. Raises BadLine if it may not."""
        try:
            return read(line)
        except BadLine as error:
            if not self.allowed:
                raise
            reason = f"lines: {error.reason}"
            self.counts[reason] = self.counts.get(reason, 0) + 1
            return None


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file that are not blank; raises WorkloadError if there is none.

    A name ending in `.zst` is read through the program `zstd`.
    """
    any_line = False
    for number, raw in enumerate(BytesIO(_contents(path).removeprefix(BOM_UTF8)), start=1):
        try:
            text = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise WorkloadError(f"{path}:{number}: is not UTF-8 text") from error
        if text.strip():
            any_line = True
            yield Line(path, number, text)
    if not any_line:
        raise WorkloadError(f"{path}: the file is empty")


def _contents(path: Path) -> bytes:
    try:
        if path.suffix != ".zst":
            return path.read_bytes()
        path.open("rb").close()
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read ({error.strerror})") from error
    return _decompressed(path)


def _decompressed(path: Path) -> bytes:
    command = ["zstd", "-dcq", "--", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, check=False)
    except OSError as error:
        problem = "needs the program zstd: install it, or decompress the file"
        raise WorkloadError(f"{path}: {problem}") from error
    if done.returncode:
        raise WorkloadError(f"{path}: is no whole zstd file")
    return done.stdout


def json_object(line: Line) -> Mapping[str, Any]:
    """Parse a line that holds one JSON object, no key twice; raises BadLine."""
    try:
        value = json.loads(line.text, object_pairs_hook=partial(_of_pairs, line))
    except BadLine:
        raise
    except json.JSONDecodeError as error:
        raise BadLine(line.where, "not JSON", f"{error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:  # thousands of digits, or of brackets
        raise BadLine(line.where, "JSON that cannot be read", str(error)) from error
    return mapping(line, value, "the line")


def _of_pairs(line: Line, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of its members; of two of one name JSON would keep the last, unsaid."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for i, (key, _) in enumerate(pairs) if key in dict(pairs[:i]))
        raise BadLine(line.where, "a key stands twice in an object", f"{twice!r}")
    return made


def mapping(line: Line, value: Any, name: str) -> Mapping[str, Any]:
    """Take a value for a JSON object; raises BadLine if it is something else."""
    if not isinstance(value, dict):
        raise BadLine(line.where, f"{name} is not a JSON object", f"{value!r}")
    return cast("Mapping[str, Any]", value)


def listed(line: Line, record: Mapping[str, Any], key: str) -> list[Any]:
    """Take a list of a record; raises BadLine if it is absent or something else."""
    value = _value(line, record, key)
    if not isinstance(value, list):
        raise BadLine(line.where, f"{key} is not a list", f"{value!r}")
    return cast("list[Any]", value)


def name_of(line: Line, record: Mapping[str, Any], key: str) -> str:
    """Take a name of a record, text or a whole number; raises BadLine."""
    value = _value(line, record, key)
    if value == "" or type(value) not in (str, int):
        raise BadLine(line.where, f"{key} is not a name", f"{value!r}")
    return str(value)


def number(line: Line, record: Mapping[str, Any], key: str) -> float:
    """Take a finite number of a record; raises BadLine if it is absent or something else."""
    value = _value(line, record, key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadLine(line.where, f"{key} is not a number", f"{value!r}")
    if not abs(value) <= sys.float_info.max:
        raise BadLine(line.where, f"{key} is not a finite number", f"{value}")
    return float(value)


def count(line: Line, record: Mapping[str, Any], key: str) -> int:
    """Take a whole number of a record; raises BadLine if it is absent or something else."""
    value = number(line, record, key)
    if value != int(value):
        raise BadLine(line.where, f"{key} is not a whole number", f"{value}")
    return int(value)


def only(line: Line, record: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise BadLine for a key that is not known here."""
    unknown = sorted(record.keys() - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise BadLine(line.where, f"a key is not one of {names}", f"{unknown[0]!r}")


def _value(line: Line, record: Mapping[str, Any], key: str) -> Any:
    if key not in record:
        raise BadLine(line.where, f"{key} is missing")
    return record[key]


class InOrder:
    """Checks that times never run back in a file, nor far ahead of its first."""

    def __init__(self) -> None:
        """Start before any time."""
        self._first: float | None = None
        self._last = float("-inf")

    def check(self, line: Line, time_s: float) -> None:
        """Raise BadLine if an earlier line has a later time, or the first a far earlier one."""
        if time_s < self._last:
            problem = "the time is before that of a line above; sort the file"
            raise BadLine(line.where, problem, f"{time_s} s, after {self._last} s")
        first = time_s if self._first is None else self._first
        if time_s - first > LONGEST_S:
            problem = f"the time is more than {LONGEST_S:.0f} s after the first"
            raise BadLine(line.where, problem, f"{time_s} s, after {first} s")
        self._first, self._last = first, time_s


class Once:
    """Checks that a name comes once in a file."""

    def __init__(self) -> None:
        """Start before any name."""
        self._seen: set[str] = set()

    def check(self, line: Line, name: str) -> None:
        """Raise BadLine if the name has come before."""
        if name in self._seen:
            raise BadLine(line.where, "the name has come before", f"{name!r}")
        self._seen.add(name)
