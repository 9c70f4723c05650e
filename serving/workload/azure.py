"""Azure's public inference traces: single turns with their times and lengths (CSV)."""

from datetime import UTC, datetime
from pathlib import Path

from serving.workload.lines import InOrder, Line, Skipped, count, read_lines
from serving.workload.session import (
    BadLine,
    SessionShape,
    TurnShape,
    Workload,
    WorkloadError,
    check_turn,
)

COLUMNS = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]


def read_azure(path: Path, skipped: Skipped) -> Workload:
    """Read a trace: every line is a session of one turn. Raises WorkloadError."""
    lines = read_lines(path)
    header = next(lines)
    if header.text.split(",") != COLUMNS:
        problem = f"the columns are not {','.join(COLUMNS)} ({header.text[:80]!r})"
        raise WorkloadError(f"{header.where}: {problem}")
    order = InOrder()

    def read(line: Line) -> SessionShape:
        fields = line.text.split(",")
        if len(fields) != len(COLUMNS):
            raise BadLine(line.where, f"not {len(COLUMNS)} fields", f"{len(fields)}")
        prompt, reply = (_tokens(line, i, fields[i]) for i in (1, 2))
        turn = TurnShape(0.0, None, (), prompt, reply)
        check_turn(turn, line.where, first=True)
        start_s = _seconds(line, fields[0])
        order.check(line, start_s)
        return SessionShape(f"azure-{line.number}", start_s, (turn,))

    found = [skipped.attempt(read, line) for line in lines]
    return Workload(path.name, tuple(s for s in found if s is not None), skipped.counts)


def _tokens(line: Line, column: int, text: str) -> int:
    try:
        value = float(text)
    except ValueError as error:
        raise BadLine(line.where, f"{COLUMNS[column]} is not a number", f"{text!r}") from error
    return count(line, {COLUMNS[column]: value}, COLUMNS[column])


def _seconds(line: Line, text: str) -> float:
    """Read a time; one without a zone counts as UTC, as only differences matter."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise BadLine(line.where, f"{COLUMNS[0]} is not a time", f"{text!r}") from error
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
