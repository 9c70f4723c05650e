"""How is a workload written down by us? One session a line, as JSON.

    {"id": "s1", "start": 0.5, "turns": [
        {"think": 0, "shared": [[7, 512]], "new": 100, "reply": 50},
        {"think": 12.5, "keep": 400, "new": 30, "reply": 80}]}

Times in seconds, lengths in tokens. `think` (0) passes after the reply before; `keep` (all) is how
much of the conversation so far the prompt begins with; `shared` (none) lists text by name and
length that other sessions may have too; `new` tokens are the turn's own; `reply` are to come. Names
are numbers from 1 up. Sessions stand in the order of their starts, and their ids come once.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from serving.workload.lines import (
    InOrder,
    Line,
    Once,
    Skipped,
    count,
    json_object,
    listed,
    mapping,
    name_of,
    number,
    only,
    read_lines,
)
from serving.workload.session import (
    BadLine,
    SessionShape,
    Span,
    TurnShape,
    Workload,
    check_turn,
)

SESSION_KEYS = frozenset({"id", "start", "turns"})
TURN_KEYS = frozenset({"think", "keep", "shared", "new", "reply"})


def read_sessions(path: Path, skipped: Skipped) -> Workload:
    """Read a file of sessions; raises WorkloadError with the line that is wrong."""
    order, once = InOrder(), Once()

    def read(line: Line) -> SessionShape:
        session = _session(line)
        order.check(line, session.start_s)
        once.check(line, session.id)
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
    turns = listed(line, record, "turns")
    if not turns:
        raise BadLine(line.where, "turns is empty")
    shapes = tuple(_turn(line, turn, first=i == 0) for i, turn in enumerate(turns))
    return SessionShape(name_of(line, record, "id"), number(line, record, "start"), shapes)


def _turn(line: Line, value: Any, *, first: bool) -> TurnShape:
    record = mapping(line, value, "a turn")
    only(line, record, TURN_KEYS)
    spans = listed(line, record, "shared") if "shared" in record else []
    turn = TurnShape(
        think_s=number(line, record, "think") if "think" in record else 0.0,
        keep=count(line, record, "keep") if "keep" in record else None,
        shared=tuple(_span(line, span) for span in spans),
        new=count(line, record, "new"),
        reply=count(line, record, "reply"),
    )
    check_turn(turn, line.where, first=first)
    return turn


def _span(line: Line, value: Any) -> Span:
    pair = cast("list[Any]", value) if isinstance(value, list) else []
    if [type(one) for one in pair] != [int, int]:
        raise BadLine(line.where, "shared text is not [name, tokens]", f"{value!r}")
    return Span(*pair)
