"""Azure's public inference traces: single turns with their times and lengths (CSV)."""

import csv
from datetime import datetime
from pathlib import Path

from serving.workload.lines import InOrder, Line, Skipped, count, read_lines
from serving.workload.session import SessionShape, TurnShape, Workload, WorkloadError, check_turn

COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]
FRACTION_DIGITS = 6
"""Digits behind the second that Python's datetime keeps; the trace has seven."""


def read_azure(path: Path, skipped: Skipped) -> Workload:
    """Read a trace: every line is a session of one turn. Raises WorkloadError."""
    lines = read_lines(path)
    header = next(lines)
    if (columns := header.text.split(",")) != COLUMNS:
        problem = f"the columns are {', '.join(columns)}, not {', '.join(COLUMNS)}"
        raise WorkloadError(f"{header.where}: {problem}")
    order = InOrder()

    def read(line: Line) -> SessionShape:
        fields = next(csv.reader([line.text]))
        if len(fields) != len(COLUMNS):
            raise WorkloadError(f"{line.where}: {len(fields)} fields, not {len(COLUMNS)}")
        numbers = {
            name: _number(line, text) for name, text in zip(COLUMNS[1:], fields[1:], strict=True)
        }
        prompt, reply = (count(line, numbers, name) for name in COLUMNS[1:])
        turn = TurnShape(0.0, None, (), prompt, reply)
        check_turn(turn, line.where)
        start_s = order.check(line, _seconds(line, fields[0]))
        return SessionShape(f"azure-{line.number}", start_s, (turn,))

    found = [skipped.attempt(read, line) for line in lines]
    return Workload(path.name, tuple(s for s in found if s is not None), skipped.counts)


def _number(line: Line, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise WorkloadError(f"{line.where}: {text!r} is not a number") from error


def _seconds(line: Line, text: str) -> float:
    whole, _, fraction = text.partition(".")
    try:
        at = datetime.fromisoformat(f"{whole}.{fraction[:FRACTION_DIGITS]:0<6}+00:00")
    except ValueError as error:
        raise WorkloadError(f"{line.where}: {text!r} is not a time") from error
    return at.timestamp()
