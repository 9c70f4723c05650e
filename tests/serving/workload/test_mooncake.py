"""Mooncake's format: prompts keep their blocks, and conversations are rebuilt by a fixed rule."""

import json
from pathlib import Path
from typing import Any

import pytest

from serving.workload.lines import Skipped
from serving.workload.mooncake import REPLY_S, read_mooncake
from serving.workload.session import BadLine, Span, TurnShape, Workload


def request(at_ms: float, prompt: int, reply: int, *hashes: int) -> dict[str, Any]:
    return {
        "timestamp": at_ms,
        "input_length": prompt,
        "output_length": reply,
        "hash_ids": list(hashes),
    }


def read(path: Path, *records: Any, skip_bad: bool = False) -> Workload:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines))
    return read_mooncake(path, Skipped(skip_bad))


def test_a_first_prompt_is_its_blocks_by_name(tmp_path: Path):
    workload = read(tmp_path / "f.jsonl", request(0, 1100, 7, 0, 5, 9))
    [session] = workload.sessions
    spans = (Span(1, 512), Span(6, 512), Span(10, 76))
    assert session.turns == (TurnShape(0.0, None, spans, 0, 7),)
    assert workload.origin == "f.jsonl (sessions rebuilt)"
    [exact] = read(tmp_path / "f.jsonl", request(0, 1024, 7, 0, 5)).sessions
    assert exact.turns[0].shared == (Span(1, 512), Span(6, 512))


def test_a_request_goes_on_from_the_one_whose_whole_blocks_it_has(tmp_path: Path):
    # 1100 tokens and 100 of reply, then 1300 of prompt: 1200 kept and 100 new.
    workload = read(
        tmp_path / "f.jsonl", request(0, 1100, 100, 0, 1, 2), request(9000, 1300, 4, 0, 1, 3)
    )
    [session] = workload.sessions
    assert session.turns[1] == TurnShape(9.0 - 100 * REPLY_S, 1200, (), 100, 4)


def test_a_prompt_shorter_than_what_came_before_keeps_whole_blocks(tmp_path: Path):
    workload = read(
        tmp_path / "f.jsonl", request(0, 1100, 100, 0, 1, 2), request(9000, 1150, 4, 0, 1, 3)
    )
    [session] = workload.sessions
    assert session.turns[1] == TurnShape(6.0, 1024, (), 126, 4)


def test_nobody_thinks_for_less_than_no_time(tmp_path: Path):
    workload = read(
        tmp_path / "f.jsonl", request(0, 1100, 200, 0, 1, 2), request(3000, 1400, 4, 0, 1, 3)
    )
    assert [turn.think_s for turn in workload.sessions[0].turns] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("only block 0 is shared", request(9000, 1300, 4, 0, 7, 8)),
        ("a whole block is not shared", request(9000, 2100, 4, 0, 1, 3, 4, 5)),
        ("the prompt did not grow", request(9000, 1600, 4, 0, 1, 2, 3)),
        ("nothing is shared", request(9000, 2100, 4, 10, 11, 12, 13, 14)),
    ],
)
def test_other_requests_begin_sessions(tmp_path: Path, name: str, second: dict[str, Any]):
    first = request(0, 1600, 4, 0, 1, 2, 6)
    sessions = read(tmp_path / "f.jsonl", first, second).sessions
    assert [len(session.turns) for session in sessions] == [1, 1], name
    assert [session.id for session in sessions] == ["mooncake-0", "mooncake-1"]
    assert sum(span.tokens for span in sessions[1].turns[0].shared) == second["input_length"]


def test_a_short_first_prompt_cannot_be_linked(tmp_path: Path):
    sessions = read(
        tmp_path / "f.jsonl", request(0, 600, 4, 0, 1), request(9000, 700, 4, 0, 2)
    ).sessions
    assert len(sessions) == 2


def test_the_latest_owner_goes_on_and_the_second_of_two_begins_a_session(tmp_path: Path):
    sessions = read(
        tmp_path / "f.jsonl",
        request(0, 1100, 4, 0, 1, 2),  # a
        request(3000, 1200, 4, 0, 1, 3),  # goes on from a
        request(6000, 1300, 4, 0, 1, 4),  # the latest with block 1 is the one above
        request(9000, 1250, 4, 0, 1, 5),  # would go on from a 1300-token prompt: it did not grow
        request(12000, 1400, 4, 0, 1, 6),  # goes on from the one above, which is the latest
    ).sessions
    assert [len(session.turns) for session in sessions] == [3, 2]
    assert [session.start_s for session in sessions] == [0.0, 9.0]


def test_what_has_been_gone_on_from_is_not_gone_on_from_again(tmp_path: Path):
    sessions = read(
        tmp_path / "f.jsonl",
        request(0, 1100, 1, 0, 1, 2),
        request(3000, 2100, 2, 0, 1, 3, 4, 5),  # goes on from the first
        request(6000, 1600, 3, 0, 1, 2, 6),  # would too: of block 2 the first is the latest owner
        request(9000, 1100, 4, 0, 1, 2),  # shorter than the latest with block 2
        request(12000, 1200, 5, 0, 1, 7),  # goes on from the one above
    ).sessions
    replies = [[turn.reply for turn in session.turns] for session in sessions]
    assert replies == [[1, 2], [3], [4, 5]]


def test_requests_of_a_step_are_spread_over_it_in_their_order(tmp_path: Path):
    records = [request(0, 10 + i, 1, i) for i in range(3)]
    records += [request(3000, 20 + i, 1, 10 + i) for i in range(2)]
    workload = read(tmp_path / "f.jsonl", *records)
    assert [session.start_s for session in workload.sessions] == [0.0, 1.0, 2.0, 3.0, 4.5]
    lengths = [session.turns[0].shared[0].tokens for session in workload.sessions]
    assert lengths == [10, 11, 12, 20, 21]


def test_shorter_steps_are_not_left(tmp_path: Path):
    records = [request(at, 10, 1, i) for i, at in enumerate((0, 0, 500, 500))]
    workload = read(tmp_path / "f.jsonl", *records)
    assert [session.start_s for session in workload.sessions] == [0.0, 0.25, 0.5, 2.0]


GOOD = request(3000, 600, 5, 0, 1)
HASHES = "hash_ids are not a whole number for every 512 tokens"
PROBLEMS = [
    ("nonsense", "not JSON (Expecting value at column 1)"),
    ("7", "the line is not a JSON object (7)"),
    ({**GOOD, "user": 1},
     "a key is not one of hash_ids, input_length, output_length, timestamp ('user')"),
    ({"timestamp": 1}, "input_length is missing"),
    ({**GOOD, "timestamp": "x"}, "timestamp is not a number ('x')"),
    ({**GOOD, "input_length": -600}, "a length is negative (-600)"),
    ({**GOOD, "input_length": 0, "hash_ids": []}, "the prompt has no token"),
    ({**GOOD, "output_length": 0}, "the reply has no token"),
    ({**GOOD, "output_length": 1e9}, "a length is more than 4194304 tokens (1000000000)"),
    ({**GOOD, "hash_ids": [0]}, HASHES),
    ({**GOOD, "hash_ids": [0, 1, 2]}, HASHES),
    ({**GOOD, "hash_ids": [0, "1"]}, HASHES),
    ({**GOOD, "hash_ids": 5}, "hash_ids is not a list (5)"),
    ({**GOOD, "hash_ids": [0, -1]}, "a name of shared text is not in 1 to 16777215 (0)"),
    ({**GOOD, "hash_ids": [0, 2**24]},
     "a name of shared text is not in 1 to 16777215 (16777217)"),
    (request(0, 600, 5, 0, 1),
     "the time is before that of a line above; sort the file (0.0 s, after 3.0 s)"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "problem"), PROBLEMS)
def test_a_bad_line_is_named_and_may_be_skipped(tmp_path: Path, bad: Any, problem: str):
    path, later = tmp_path / "f.jsonl", request(6000, 600, 5, 0, 2)
    with pytest.raises(BadLine) as caught:
        read(path, GOOD, bad, later)
    assert str(caught.value) == f"{path}:2: {problem}"
    rest = read(path, GOOD, bad, later, skip_bad=True)
    assert rest.num_turns == 2
    assert rest.skipped == {f"lines: {problem.split(' (')[0]}": 1}
