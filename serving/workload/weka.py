"""Weka's public sessions of a coding agent: calls with lengths, think times and prefix hashes.

The file says when a call came within its session, not when sessions began: they begin here as a
Poisson process of the rate asked for (ours). Hashes are local to a session, so what sessions share
is modelled: equally long system prompts with tools are taken to be the same text (ours). A call
keeps the conversation so far if its prompt holds all whole blocks of the prompt before and is long
enough for the reply as well; else, after a compaction say, the blocks that it does share.
"""

import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from serving.workload.lines import Line, Skipped, count, json_object, number, read_lines
from serving.workload.session import (
    SessionShape,
    Span,
    TurnShape,
    Workload,
    WorkloadError,
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
    now = 0.0
    sessions: list[SessionShape] = []
    for line in read_lines(path):
        found = skipped.attempt(_streams, line)
        for name, offset_s, turns in found or ():
            sessions.append(SessionShape(name, now + offset_s, turns))
        now += noise.expovariate(session_rate)
    sessions.sort(key=lambda session: session.start_s)
    return Workload(f"{path.name} (session starts drawn)", tuple(sessions), skipped.counts)


def _streams(line: Line) -> list[tuple[str, float, tuple[TurnShape, ...]]]:
    """Take the main stream of a session, and its agents': name, start and turns of each."""
    record = json_object(line)
    if record.get("block_size") != BLOCK:
        raise WorkloadError(f"{line.where}: block_size is {record.get('block_size')}, not {BLOCK}")
    name = str(record.get("id"))
    calls = _list(line, record, "requests")
    main = [call for call in calls if call.get("type") != SUBAGENT]
    found = [(name, 0.0, _turns(line, main, _system(line, record)))]
    for i, agent in enumerate(call for call in calls if call.get("type") == SUBAGENT):
        own = _list(line, agent, "requests")
        turns = _turns(line, own, _system(line, agent))
        found.append((f"{name}-agent{i}", number(line, agent, "t"), turns))
    return [stream for stream in found if stream[2]]


def _system(line: Line, record: Mapping[str, Any]) -> Span:
    tokens = [count(line, {"n": record.get(k) or 0}, "n") for k in ("tool_tokens", "system_tokens")]
    return Span(1 + sum(tokens), sum(tokens))


def _turns(line: Line, calls: Iterable[Mapping[str, Any]], system: Span) -> tuple[TurnShape, ...]:
    turns: list[TurnShape] = []
    before: _Call | None = None
    for record in calls:
        call = _call(line, record)
        turn = _first(call, system) if before is None else _later(call, before)
        check_turn(turn, line.where)
        turns.append(turn)
        before = call
    return tuple(turns)


def _first(call: _Call, system: Span) -> TurnShape:
    shared = Span(system.name, min(system.tokens, call.prompt - 1))
    spans = (shared,) if shared.tokens > 0 else ()
    return TurnShape(0.0, None, spans, call.prompt - max(0, shared.tokens), call.reply)


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
    runs = record.get("hr")
    blocks = cast("list[list[int]]", runs) if isinstance(runs, list) else []
    if not all(isinstance(run, list) and len(run) == 2 for run in blocks):  # pyright: ignore
        raise WorkloadError(f"{line.where}: hr is not a list of [first, count]")
    prompt, reply = count(line, record, "in"), count(line, record, "out")
    if prompt < 1:
        raise WorkloadError(f"{line.where}: a call has no prompt")
    think_s = number(line, {"think_time": record.get("think_time", 0.0)}, "think_time")
    pairs = [(run[0], run[1]) for run in blocks]
    return _Call(max(0.0, think_s), prompt, max(1, reply), pairs)


def _list(line: Line, record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    value = record.get(key)
    if not isinstance(value, list):
        raise WorkloadError(f"{line.where}: {key} is not a list")
    return cast("list[Mapping[str, Any]]", value)
