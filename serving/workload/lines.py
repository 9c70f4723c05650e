"""How are the lines of a workload file read? Plain or zstd-compressed, each with its place.

A bad line is an error with its number, or, where that is asked for, left out and counted.
"""

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from serving.workload.session import WorkloadError

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
        """Read a line; None if it is bad and may be skipped. Raises WorkloadError if it may not."""
        try:
            return read(line)
        except WorkloadError as error:
            if not self.allowed:
                raise
            reason = str(error).removeprefix(f"{line.where}: ")
            self.counts[reason] = self.counts.get(reason, 0) + 1
            return None


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a file that are not blank; raises WorkloadError if there is none.

    A name ending in `.zst` is read through the program `zstd`.
    """
    any_line = False
    for number, text in enumerate(_texts(path), start=1):
        if text.strip():
            any_line = True
            yield Line(path, number, text)
    if not any_line:
        raise WorkloadError(f"{path}: the file is empty")


def _texts(path: Path) -> Iterator[str]:
    try:
        if path.suffix != ".zst":
            with path.open(encoding="utf-8-sig", newline="\n") as file:
                yield from (line.rstrip("\r\n") for line in file)
            return
        path.open("rb").close()
    except OSError as error:
        raise WorkloadError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise WorkloadError(f"{path}: is not UTF-8 text") from error
    yield from _decompressed(path)


def _decompressed(path: Path) -> Iterator[str]:
    command = ["zstd", "-dcq", str(path)]
    try:
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
            encoding="utf-8-sig",
        ) as process:  # fmt: skip
            assert process.stdout is not None
            yield from (line.rstrip("\r\n") for line in process.stdout)
            process.stdout.close()
            if process.wait():
                raise WorkloadError(f"{path}: is no whole zstd file")
    except FileNotFoundError as error:
        problem = "needs the program zstd: install it, or decompress the file"
        raise WorkloadError(f"{path}: {problem}") from error


def json_object(line: Line) -> dict[str, Any]:
    """Parse a line that holds one JSON object; raises WorkloadError."""
    try:
        value = json.loads(line.text)
    except ValueError as error:
        raise WorkloadError(f"{line.where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise WorkloadError(f"{line.where}: not a JSON object")
    return cast("dict[str, Any]", value)


def number(line: Line, record: Mapping[str, Any], key: str) -> float:
    """Take a finite number of a record; raises WorkloadError if it is absent or something else."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WorkloadError(f"{line.where}: {key} is {value!r}, not a number")
    if not abs(value) < float("inf"):
        raise WorkloadError(f"{line.where}: {key} is {value}")
    return float(value)


def count(line: Line, record: Mapping[str, Any], key: str) -> int:
    """Take a whole number of a record; raises WorkloadError if it is absent or something else."""
    value = number(line, record, key)
    if value != int(value):
        raise WorkloadError(f"{line.where}: {key} is {value}, not a whole number")
    return int(value)


def only(line: Line, record: Mapping[str, Any], known: frozenset[str]) -> None:
    """Raise WorkloadError for a key that is not known here."""
    unknown = sorted(record.keys() - known)
    if unknown:
        names = ", ".join(sorted(known))
        raise WorkloadError(f"{line.where}: unknown key {unknown[0]!r}; known: {names}")


class InOrder:
    """Checks that times never run back in a file."""

    def __init__(self) -> None:
        """Start before any time."""
        self._last = float("-inf")

    def check(self, line: Line, time_s: float) -> float:
        """Return the time; raises WorkloadError if an earlier line has a later one."""
        if time_s < self._last:
            problem = f"its time {time_s:g} s is before the line above ({self._last:g} s)"
            raise WorkloadError(f"{line.where}: {problem}; sort the file")
        self._last = time_s
        return time_s
