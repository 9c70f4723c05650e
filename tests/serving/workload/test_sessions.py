"""Our own format: what is written is what is read, and every mistake has its line."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.workload.lines import Skipped
from serving.workload.session import (
    END_OF_NAMES,
    LONGEST,
    BadLine,
    SessionShape,
    Span,
    TurnShape,
    Workload,
)
from serving.workload.sessions import lines_of, read_sessions

FIRST = {"new": 100, "reply": 50}
GOOD = {"id": "a", "start": 1, "turns": [FIRST]}


def write(path: Path, *records: Any) -> Path:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def read(path: Path, *, skip_bad: bool = False) -> Workload:
    return read_sessions(path, Skipped(skip_bad))


def test_the_example_of_the_documentation(tmp_path: Path):
    example = (
        '{"id": "s1", "start": 0.5, "turns": ['
        '{"think": 0, "shared": [[7, 512]], "new": 100, "reply": 50},'
        ' {"think": 12.5, "keep": 400, "new": 30, "reply": 80}]}'
    )
    turns = (
        TurnShape(0.0, None, (Span(7, 512),), 100, 50),
        TurnShape(12.5, 400, (), 30, 80),
    )
    workload = read(write(tmp_path / "f.jsonl", example))
    assert workload == Workload("f.jsonl", (SessionShape("s1", 0.5, turns),), {})
    page = Path(__file__).parents[3] / "docs" / "workloads.md"
    assert f"\n{example}\n" in page.read_text()


lengths = st.integers(1, 1000)
spans = st.builds(Span, st.integers(1, END_OF_NAMES - 1), st.integers(0, 1000))
times = st.floats(0, 1e9)
turns = st.builds(
    TurnShape,
    times,
    st.none() | st.integers(0, LONGEST),
    st.lists(spans, max_size=3).map(tuple),
    lengths,
    lengths,
)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    ids = draw(st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True))
    starts = sorted(draw(st.lists(times, min_size=len(ids), max_size=len(ids))))
    conversations = st.lists(turns, min_size=1, max_size=4).map(tuple)
    sessions = [SessionShape(i, at, draw(conversations)) for i, at in zip(ids, starts, strict=True)]
    return Workload("round.jsonl", tuple(sessions), {})


@given(workload=workloads())
def test_what_is_written_is_read(tmp_path_factory: pytest.TempPathFactory, workload: Workload):
    path = tmp_path_factory.getbasetemp() / "round.jsonl"
    write(path, *lines_of(workload))
    assert read(path) == workload


def turn(**change: Any) -> dict[str, Any]:
    return {**GOOD, "id": "b", "turns": [FIRST, {**FIRST, **change}]}


def without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


PROBLEMS = {
    "no_id": (without(GOOD, "id"), "id is missing"),
    "id_null": ({**GOOD, "id": None}, "id is not a name (None)"),
    "id_again": (GOOD, "the name has come before ('a')"),
    "no_start": ({"id": "b", "turns": [FIRST]}, "start is missing"),
    "start_text": ({**GOOD, "start": "now"}, "start is not a number ('now')"),
    "start_nan": ('{"id":"b","start":NaN,"turns":[]}', "turns is empty"),
    "start_inf": (
        '{"id":"b","start":Infinity,"turns":[{"new":1,"reply":1}]}',
        "start is not a finite number (inf)",
    ),
    "earlier": (
        {**GOOD, "id": "b", "start": 0.5},
        "the time is before that of a line above; sort the file (0.5 s, after 1.0 s)",
    ),
    "far": (
        {**GOOD, "id": "b", "start": 1e308},
        "the time is more than 10000000000 s after the first (1e+308 s, after 1.0 s)",
    ),
    "twice": ('{"id": "b", "start": 1, "start": 2}', "a key stands twice in an object ('start')"),
    "unknown": ({**GOOD, "user": 3}, "a key is not one of id, start, turns ('user')"),
    "no_turns": (without(GOOD, "turns"), "turns is missing"),
    "turns_empty": ({**GOOD, "turns": []}, "turns is empty"),
    "turns_object": ({**GOOD, "turns": {}}, "turns is not a list ({})"),
    "turn_number": ({**GOOD, "turns": [5]}, "a turn is not a JSON object (5)"),
    "turn_unknown": (
        turn(rply=3),
        "a key is not one of keep, new, reply, shared, think ('rply')",
    ),
    "no_new": ({**GOOD, "turns": [{"reply": 1}]}, "new is missing"),
    "no_reply": ({**GOOD, "turns": [{"new": 1}]}, "reply is missing"),
    "new_negative": (turn(new=-4), "a length is negative (-4)"),
    "reply_absurd": (turn(reply=5_000_000), "a length is more than 4194304 tokens (5000000)"),
    "new_half": (turn(new=0.5), "new is not a whole number (0.5)"),
    "reply_none": (turn(reply=0), "the reply has no token"),
    "first_prompt_none": (
        {**GOOD, "turns": [{"new": 0, "reply": 1}]},
        "the prompt has no token",
    ),
    "prompt_none": (turn(new=0, keep=0), "the prompt has no token"),
    "think_negative": (turn(think=-1), "a think time is not 0 s or more (-1.0)"),
    "think_absurd": (turn(think=2e10), "a think time is more than 10000000000 s (20000000000.0)"),
    "think_null": (turn(think=None), "think is not a number (None)"),
    "keep_null": (turn(keep=None), "keep is not a number (None)"),
    "shared_number": (turn(shared=7), "shared is not a list (7)"),
    "shared_flat": (turn(shared=[7, 512]), "shared text is not [name, tokens] (7)"),
    "shared_short": (turn(shared=[[7]]), "shared text is not [name, tokens] ([7])"),
    "shared_true": (turn(shared=[[True, 5]]), "shared text is not [name, tokens] ([True, 5])"),
    "name_zero": (turn(shared=[[0, 5]]), "a name of shared text is not in 1 to 16777215 (0)"),
    "name_high": (
        turn(shared=[[2**24, 5]]),
        "a name of shared text is not in 1 to 16777215 (16777216)",
    ),
    "not_json": ("{", "not JSON (Expecting property name enclosed in double quotes at column 2)"),
}


@pytest.mark.parametrize(("bad", "problem"), PROBLEMS.values(), ids=PROBLEMS)
def test_a_bad_line_is_named_and_may_be_skipped(tmp_path: Path, bad: Any, problem: str):
    later = {**GOOD, "id": "later", "start": 2}
    path = write(tmp_path / "f.jsonl", GOOD, "", bad, later)
    with pytest.raises(BadLine) as caught:
        read(path)
    assert str(caught.value) == f"{path}:3: {problem}"
    rest = read(path, skip_bad=True)
    assert [session.id for session in rest.sessions] == ["a", "later"]
    assert rest.skipped == {f"lines: {problem.split(' (')[0]}": 1}


def test_every_line_is_read_or_counted(tmp_path: Path):
    many = [{**GOOD, "id": f"s{i}"} for i in range(10)]
    bad = [turn(new=-i) for i in (1, 2, 3)] + ["{", "nonsense", "[]"]
    rest = read(write(tmp_path / "f.jsonl", *many, *bad), skip_bad=True)
    assert len(rest.sessions) == 10
    assert rest.skipped == {
        "lines: a length is negative": 3,
        "lines: not JSON": 2,
        "lines: the line is not a JSON object": 1,
    }
