"""Weka's format: turns keep what their blocks say, agents are sessions, starts are drawn."""

import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from serving.workload.lines import Skipped
from serving.workload.session import BadLine, Span, TurnShape, Workload
from serving.workload.weka import read_weka


def call(prompt: int, reply: int, *runs: list[Any], think_s: float | None = None) -> dict[str, Any]:
    record = {"type": "s", "in": prompt, "out": reply, "hr": list(runs)}
    return record if think_s is None else {**record, "think_time": think_s}


def session(name: str, *calls: Any, **more: Any) -> dict[str, Any]:
    return {"id": name, "block_size": 64, "requests": list(calls), **more}


def read(
    path: Path, *records: Any, skip_bad: bool = False, rate: float = 0.1, seed: int = 0
) -> Workload:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines))
    return read_weka(path, Skipped(skip_bad), session_rate=rate, seed=seed)


def turns(path: Path, *calls: dict[str, Any], **more: Any) -> tuple[TurnShape, ...]:
    [one] = read(path, session("a", *calls, **more)).sessions
    return one.turns


def test_a_first_prompt_begins_with_a_system_prompt_named_by_its_length(tmp_path: Path):
    path = tmp_path / "f.jsonl"
    first = call(200, 7, [1, 3])
    assert turns(path, first, tool_tokens=100, system_tokens=20) == (
        TurnShape(0.0, None, (Span(121, 120),), 80, 7),
    )
    assert turns(path, first) == (TurnShape(0.0, None, (), 200, 7),)
    # A prompt shorter than that has a token of its own all the same.
    assert turns(path, call(50, 7), system_tokens=120) == (
        TurnShape(0.0, None, (Span(121, 49),), 1, 7),
    )


@pytest.mark.parametrize(
    ("case", "later", "kept"),
    [
        ("all, and the reply", call(320, 5, [1, 5]), 250),
        ("all whole blocks, and the last differs", call(320, 5, [1, 3], [9, 2]), 250),
        ("all blocks, and no more text than before", call(250, 5, [1, 3]), 192),
        ("all blocks, and less text", call(210, 5, [1, 3]), 192),
        ("some of the blocks", call(320, 5, [1, 2], [9, 3]), 128),
        ("some of the blocks, and a short prompt", call(129, 5, [1, 2]), 128),
        ("all of the prompt is old: one token is new", call(128, 5, [1, 2]), 127),
        ("another beginning", call(320, 5, [7, 5]), 0),
    ],
)
def test_what_a_later_prompt_keeps(tmp_path: Path, case: str, later: dict[str, Any], kept: int):
    # Before: 200 tokens, three whole blocks, and a reply of 50.
    first = call(200, 50, [1, 3])
    second = {**later, "think_time": 2.5}
    [_, turn] = turns(tmp_path / "f.jsonl", first, second)
    assert turn == TurnShape(2.5, kept, (), later["in"] - kept, 5), case


def test_runs_that_part_end_what_is_shared(tmp_path: Path):
    first = call(640, 1, [1, 4], [10, 6])
    second = call(900, 1, [1, 4], [10, 5], [30, 5])
    third = call(900, 1, [1, 3], [10, 11])
    kept = [turn.keep for turn in turns(tmp_path / "f.jsonl", first, second, third)]
    assert kept == [None, 9 * 64, 3 * 64]


def test_a_missing_think_time_is_none_and_an_empty_reply_has_a_token(tmp_path: Path):
    [first, second] = turns(tmp_path / "f.jsonl", call(64, 0, [1, 1]), call(128, 3, [1, 2]))
    assert first == TurnShape(0.0, None, (), 64, 1)
    assert second == TurnShape(0.0, 65, (), 63, 3)


def test_agents_are_sessions_that_begin_within_theirs(tmp_path: Path):
    agent = {"type": "subagent", "t": 3.5, "tool_tokens": 10, "requests": [call(70, 2, [1, 1])]}
    later = {**agent, "t": 9.25}
    main = [call(100, 5, [1, 1]), agent, call(200, 6, [1, 3]), later]
    workload = read(tmp_path / "f.jsonl", session("a", *main))
    assert [(one.id, one.start_s) for one in workload.sessions] == [
        ("a", 0.0),
        ("a-agent0", 3.5),
        ("a-agent1", 9.25),
    ]
    assert [turn.reply for turn in workload.sessions[0].turns] == [5, 6]
    assert workload.sessions[1].turns == (TurnShape(0.0, None, (Span(11, 10),), 60, 2),)
    assert workload.origin == "f.jsonl (session starts drawn)"


def test_starts_are_drawn_at_the_rate_and_in_order(tmp_path: Path):
    records = [session(f"s{i}", call(64, 1, [1, 1])) for i in range(2000)]
    path = tmp_path / "f.jsonl"
    workload = read(path, *records, rate=4.0, seed=3)
    starts = [one.start_s for one in workload.sessions]
    assert starts == sorted(starts)
    assert starts[0] == 0.0
    assert starts[-1] / 1999 == pytest.approx(0.25, rel=0.05)
    gaps = [b - a for a, b in pairwise(starts)]
    assert sum(gap > 0.25 for gap in gaps) / 1999 == pytest.approx(0.368, abs=0.03)
    assert read(path, *records, rate=4.0, seed=3) == workload
    assert read(path, *records, rate=4.0, seed=4) != workload


def test_sessions_of_drawn_starts_stand_in_order_with_their_agents(tmp_path: Path):
    agent = {"type": "subagent", "t": 1e6, "requests": [call(70, 2, [1, 1])]}
    records = [session(f"s{i}", call(64, 1, [1, 1]), agent) for i in range(3)]
    ids = [one.id for one in read(tmp_path / "f.jsonl", *records).sessions]
    assert ids == ["s0", "s1", "s2", "s0-agent0", "s1-agent0", "s2-agent0"]


GOOD = session("a", call(64, 1, [1, 1]))
PROBLEMS = [
    ("{}", "block_size is not 64 (None)"),
    ({**GOOD, "block_size": 16}, "block_size is not 64 (16)"),
    ({"block_size": 64, "requests": []}, "id is missing"),
    (GOOD, "the name has come before ('a')"),
    ({"id": "b", "block_size": 64}, "requests is missing"),
    ({**GOOD, "requests": 5}, "requests is not a list (5)"),
    (session("b"), "a session or an agent has no call"),
    (session("b", 5), "a request is not a JSON object (5)"),
    (session("b", call(-1, 5)), "the prompt has no token"),
    (session("b", call(0, 5)), "the prompt has no token"),
    (session("b", call(64, -5)), "a length is negative (-5)"),
    (session("b", call(2**23, 5)), "a length is more than 4194304 tokens (8388608)"),
    (session("b", {"in": 64, "hr": []}), "out is missing"),
    (session("b", {"in": 64, "out": 5}), "hr is missing"),
    (session("b", call(64, 5, [1])), "hr is not a list of [first, count] ([1])"),
    (session("b", call(64, 5, [1, 0])), "hr is not a list of [first, count] ([1, 0])"),
    (session("b", call(64, 5, ["1", 2])), "hr is not a list of [first, count] (['1', 2])"),
    (session("b", call(64, 5), call(99, 5, think_s=-2)),
     "a think time is not 0 s or more (-2.0)"),
    (session("b", call(64, 5), system_tokens="x"), "system_tokens is not a number ('x')"),
    (session("b", call(64, 5), tool_tokens=-3), "a length is negative (-3)"),
    (session("b", call(64, 5), tool_tokens=2**24),
     "a name of shared text is not in 1 to 16777215 (16777217)"),
    (session("b", call(64, 5), {"type": "subagent", "requests": [call(64, 5)]}), "t is missing"),
    (session("b", call(64, 5), {"type": "subagent", "t": 1.0, "requests": []}),
     "a session or an agent has no call"),
    (session("b", call(64, 5), {"type": "subagent", "t": -5, "requests": [call(64, 5)]}),
     "an agent's t is not in 0 to 10000000000 s (-5.0)"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "problem"), PROBLEMS)
def test_a_bad_line_is_named_and_may_be_skipped(tmp_path: Path, bad: Any, problem: str):
    path, later = tmp_path / "f.jsonl", session("later", call(64, 1, [1, 1]))
    with pytest.raises(BadLine) as caught:
        read(path, GOOD, bad, later)
    assert str(caught.value) == f"{path}:2: {problem}"
    rest = read(path, GOOD, bad, later, skip_bad=True)
    assert [one.id for one in rest.sessions] == ["a", "later"]
    assert rest.skipped == {f"lines: {problem.split(' (')[0]}": 1}


def test_a_session_that_is_called_like_an_agent_is_named(tmp_path: Path):
    agent = {"type": "subagent", "t": 1.0, "requests": [call(70, 2, [1, 1])]}
    records = [session("a", call(64, 1, [1, 1]), agent), session("a-agent0", call(64, 1, [1, 1]))]
    with pytest.raises(BadLine, match=r":2: the name has come before \('a-agent0'\)$"):
        read(tmp_path / "f.jsonl", *records)


def test_shared_blocks_agree_with_counting_one_by_one(tmp_path: Path):
    noise = random.Random(5)

    def blocks() -> list[int]:
        return [noise.choice((i, i, i, 50 + i)) for i in range(noise.randint(1, 6))]

    def runs(ids: list[int]) -> list[list[int]]:
        found: list[list[int]] = []
        for one in ids:
            if found and sum(found[-1]) == one:
                found[-1][1] += 1
            else:
                found.append([one, 1])
        return found

    for _ in range(200):
        one, other = blocks(), blocks()
        alike = 0
        while alike < min(len(one), len(other)) and one[alike] == other[alike]:
            alike += 1
        first, second = (call(64 * len(ids), 1000, *runs(ids)) for ids in (one, other))
        [_, turn] = turns(tmp_path / "f.jsonl", first, second)
        assert turn.keep == min(64 * alike, second["in"] - 1)
