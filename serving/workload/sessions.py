"""How is a workload written down by us? One session a line, as JSON.

    {"id": "s1", "start": 0.5, "turns": [
        {"think": 0, "shared": [[7, 512]], "new": 100, "reply": 50},
        {"think": 12.5, "keep": 400, "new": 30, "reply": 80}]}

Times in seconds, lengths in tokens. `think` (0) passes after the reply before; `keep` (all) is how
much of the conversation so far the prompt begins with; `shared` (none) lists text by name and
length that other sessions may have too; `new` tokens are the turn's own; `reply` are to come.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from serving.workload.lines import (
    InOrder,
    Line,
    Skipped,
    count,
    json_object,
    number,
    only,
    read_lines,
)
from serving.workload.session import (
    SessionShape,
    Span,
    TurnShape,
    Workload,
    WorkloadError,
    check_turn,
)

SESSION_KEYS = frozenset({"id", "start", "turns"})
TURN_KEYS = frozenset({"think", "keep", "shared", "new", "reply"})


def read_sessions(path: Path, skipped: Skipped) -> Workload:
    """Read a file of sessions; raises WorkloadError with the line that is wrong."""
    order = InOrder()
    seen: set[str] = set()

    def read(line: Line) -> SessionShape:
        session = _session(line)
        if session.id in seen:
            raise WorkloadError(f"{line.where}: the id {session.id!r} has come before")
        order.check(line, session.start_s)
        seen.add(session.id)
        return session

    found = [skipped.attempt(read, line) for line in read_lines(path)]
    return Workload(path.name, tuple(s for s in found if s is not None), skipped.counts)


def lines_of(workload: Workload) -> Iterator[str]:
    """Write a workload in this form, a line at a time."""
    for session in workload.sessions:
        turns = [_written(turn) for turn in session.turns]
        record = {"id": session.id, "start": session.start_s, "turns": turns}
        yield json.dumps(record, separators=(",", ":"))


def _written(turn: TurnShape) -> dict[str, Any]:
    record: dict[str, Any] = {"think": turn.think_s, "new": turn.new, "reply": turn.reply}
    if turn.keep is not None:
        record["keep"] = turn.keep
    if turn.shared:
        record["shared"] = [list(span) for span in turn.shared]
    return record


def _session(line: Line) -> SessionShape:
    record = json_object(line)
    only(line, record, SESSION_KEYS)
    turns = record.get("turns")
    if not isinstance(turns, list) or not turns:
        raise WorkloadError(f"{line.where}: turns is not a list of turns")
    shapes = tuple(_turn(line, one) for one in cast("list[Any]", turns))
    return SessionShape(str(record.get("id")), number(line, record, "start"), shapes)


def _turn(line: Line, record: Any) -> TurnShape:
    if not isinstance(record, dict):
        raise WorkloadError(f"{line.where}: a turn is {record!r}, not an object")
    fields = cast("Mapping[str, Any]", record)
    only(line, fields, TURN_KEYS)
    turn = TurnShape(
        think_s=number(line, {"think": 0.0, **fields}, "think"),
        keep=count(line, fields, "keep") if "keep" in fields else None,
        shared=tuple(_spans(line, fields.get("shared", []))),
        new=count(line, fields, "new"),
        reply=count(line, fields, "reply"),
    )
    check_turn(turn, line.where)
    return turn


def _spans(line: Line, value: Any) -> Iterator[Span]:
    pairs = cast("list[Any]", value) if isinstance(value, list) else [value]
    for pair in pairs:
        if not (isinstance(pair, list) and [type(x) for x in cast("list[Any]", pair)] == [int] * 2):
            raise WorkloadError(f"{line.where}: shared text is {pair!r}, not [name, tokens]")
        yield Span(*cast("list[int]", pair))
