"""Weka's public sessions of a coding agent: calls with lengths, think times and prefix hashes.

The file says when a call came within its session, not when sessions began: they begin here as a
Poisson process of the rate asked for (ours). Hashes are local to a session, so what sessions share
is modelled: equally long system prompts with tools are taken to be the same text (ours). A call
keeps the conversation so far if its prompt holds all whole blocks of the prompt before and is long
enough for the reply as well; else, after a compaction say, the blocks that it does share. A think
time that is missing is 0 s, and a reply of no tokens has one.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from serving.workload.lines import (
    Line,
    Once,
    Skipped,
    count,
    json_object,
    listed,
    mapping,
    name_of,
    number,
    read_lines,
)
from serving.workload.session import (
    LONGEST_S,
    BadLine,
    SessionShape,
    Span,
    TurnShape,
    Workload,
    check_turn,
)

BLOCK = 64
SUBAGENT = "subagent"


class _Call(NamedTuple):
    think_s: float
    prompt: int
    reply: int
    blocks: Sequence[tuple[int, int]]  # (first id, count), in order


def read_weka(path: Path, skipped: Skipped, *, session_rate: float, seed: int) -> Workload:
    """Read sessions; each agent that a session starts is one of its own. Raises WorkloadError."""
    noise = random.Random(f"weka {seed}")
    once = Once()

    def read(line: Line) -> list[SessionShape]:
        found = _streams(line)
        for stream in found:
            once.check(line, stream.id)
        return found

    now = 0.0
    sessions: list[SessionShape] = []
    for line in read_lines(path):
        for stream in skipped.attempt(read, line) or ():
            sessions.append(replace(stream, start_s=now + stream.start_s))
        now += noise.expovariate(session_rate)
    sessions.sort(key=lambda session: session.start_s)
    return Workload(f"{path.name} (session starts drawn)", tuple(sessions), skipped.counts)


def _streams(line: Line) -> list[SessionShape]:
    """Take the main stream of a session, which begins at 0, and then its agents'."""
    record = json_object(line)
    if record.get("block_size") != BLOCK:
        raise BadLine(line.where, f"block_size is not {BLOCK}", f"{record.get('block_size')!r}")
    name = name_of(line, record, "id")
    entries = [mapping(line, entry, "a request") for entry in listed(line, record, "requests")]
    main = [entry for entry in entries if entry.get("type") != SUBAGENT]
    found = [SessionShape(name, 0.0, _turns(line, main, _system(line, record)))]
    for i, agent in enumerate(entry for entry in entries if entry.get("type") == SUBAGENT):
        calls = [mapping(line, call, "a request") for call in listed(line, agent, "requests")]
        turns = _turns(line, calls, _system(line, agent))
        begins_s = number(line, agent, "t")
        if not 0 <= begins_s <= LONGEST_S:
            raise BadLine(
                line.where, f"an agent's t is not in 0 to {LONGEST_S:.0f} s", f"{begins_s}"
            )
        found.append(SessionShape(f"{name}-agent{i}", begins_s, turns))
    return found


def _system(line: Line, record: Mapping[str, Any]) -> Span:
    counts = [count(line, record, key) for key in ("tool_tokens", "system_tokens") if key in record]
    return Span(1 + sum(counts), sum(counts))


def _turns(line: Line, calls: Sequence[Mapping[str, Any]], system: Span) -> tuple[TurnShape, ...]:
    if not calls:
        raise BadLine(line.where, "a session or an agent has no call")
    turns: list[TurnShape] = []
    before: _Call | None = None
    for record in calls:
        call = _call(line, record)
        turn = _first(call, system) if before is None else _later(call, before)
        check_turn(turn, line.where, first=before is None)
        turns.append(turn)
        before = call
    return tuple(turns)


def _first(call: _Call, system: Span) -> TurnShape:
    shared = Span(system.name, min(system.tokens, call.prompt - 1))
    spans = (shared,) if shared.tokens else ()
    return TurnShape(0.0, None, spans, call.prompt - shared.tokens, call.reply)


def _later(call: _Call, before: _Call) -> TurnShape:
    alike = _shared_blocks(call.blocks, before.blocks) * BLOCK
    context = before.prompt + before.reply
    if alike >= before.prompt // BLOCK * BLOCK and call.prompt > context:
        keep = context
    else:
        keep = min(alike, call.prompt - 1)
    return TurnShape(call.think_s, keep, (), call.prompt - keep, call.reply)


def _shared_blocks(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> int:
    """Count the leading blocks that are alike; runs are maximal, so the first difference ends."""
    alike = 0
    for (first, run), (other_first, other_run) in zip(one, other, strict=False):
        if first != other_first:
            break
        alike += min(run, other_run)
        if run != other_run:
            break
    return alike


def _call(line: Line, record: Mapping[str, Any]) -> _Call:
    prompt, reply = count(line, record, "in"), count(line, record, "out")
    if prompt < 1:
        raise BadLine(line.where, "the prompt has no token")
    think_s = number(line, record, "think_time") if "think_time" in record else 0.0
    blocks = [_run(line, run) for run in listed(line, record, "hr")]
    return _Call(think_s, prompt, reply or 1, blocks)


def _run(line: Line, value: Any) -> tuple[int, int]:
    pair = cast("list[Any]", value) if isinstance(value, list) else []
    if [type(one) for one in pair] != [int, int] or pair[1] < 1:
        raise BadLine(line.where, "hr is not a list of [first, count]", f"{value!r}")
    return pair[0], pair[1]
