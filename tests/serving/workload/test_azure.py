"""Azure's format: a line is a session of one turn."""

from pathlib import Path

import pytest

from serving.workload.azure import read_azure
from serving.workload.lines import Skipped
from serving.workload.session import BadLine, SessionShape, TurnShape, Workload, WorkloadError

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
GOOD = "2001-01-01 00:00:01.5000000,20,3"


def read(path: Path, *lines: str, skip_bad: bool = False) -> Workload:
    path.write_text("\r\n".join(lines))
    return read_azure(path, Skipped(skip_bad))


def test_lines_become_sessions_with_the_differences_of_their_times(tmp_path: Path):
    workload = read(
        tmp_path / "f.csv",
        HEADER,
        "2001-01-01 23:59:59,10,2",
        "2001-01-02 00:00:00.2500009,20,3",
        "2001-01-02 00:01:00.250000+00:00,30,4",
        "2001-01-02 02:01:01.25+02:00,40,5",
    )
    first = workload.sessions[0].start_s
    starts = [session.start_s - first for session in workload.sessions]
    assert starts == pytest.approx([0, 1.25, 61.25, 62.25], abs=1e-6)
    turns = [session.turns for session in workload.sessions]
    assert turns == [(TurnShape(0.0, None, (), 10 * i, 1 + i),) for i in (1, 2, 3, 4)]
    assert [session.id for session in workload.sessions] == [f"azure-{i}" for i in (2, 3, 4, 5)]
    assert workload.origin == "f.csv"


PROBLEMS = [
    ("2001-01-01 00:00:02,20", "not 3 fields (2)"),
    ("2001-01-01 00:00:02,20,3,4", "not 3 fields (4)"),
    ("yesterday,20,3", "TIMESTAMP is not a time ('yesterday')"),
    ("2001-01-01 00:00:02.5x,20,3", "TIMESTAMP is not a time ('2001-01-01 00:00:02.5x')"),
    ("2001-13-01 00:00:02,20,3", "TIMESTAMP is not a time ('2001-13-01 00:00:02')"),
    ("2001-01-01 00:00:02,,3", "ContextTokens is not a number ('')"),
    ("2001-01-01 00:00:02,20,many", "GeneratedTokens is not a number ('many')"),
    ("2001-01-01 00:00:02,20,nan", "GeneratedTokens is not a finite number (nan)"),
    ("2001-01-01 00:00:02,1e999,3", "ContextTokens is not a finite number (inf)"),
    ("2001-01-01 00:00:02,2.5,3", "ContextTokens is not a whole number (2.5)"),
    ("2001-01-01 00:00:02,-20,3", "a length is negative (-20)"),
    ("2001-01-01 00:00:02,5000000,3", "a length is more than 4194304 tokens (5000000)"),
    ("2001-01-01 00:00:02,0,3", "the prompt has no token"),
    ("2001-01-01 00:00:02,20,0", "the reply has no token"),
    (
        "2001-01-01 00:00:01,20,3",
        "the time is before that of a line above; sort the file"
        " (978307201.0 s, after 978307201.5 s)",
    ),
]


@pytest.mark.parametrize(("bad", "problem"), PROBLEMS)
def test_a_bad_line_is_named_and_may_be_skipped(tmp_path: Path, bad: str, problem: str):
    path = tmp_path / "f.csv"
    later = "2001-01-01 00:00:03,20,3"
    with pytest.raises(BadLine) as caught:
        read(path, HEADER, GOOD, bad, later)
    assert str(caught.value) == f"{path}:3: {problem}"
    rest = read(path, HEADER, GOOD, bad, later, skip_bad=True)
    assert [session.id for session in rest.sessions] == ["azure-2", "azure-4"]
    assert rest.skipped == {f"lines: {problem.split(' (')[0]}": 1}


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize("header", ["time,in,out", GOOD, f"{HEADER},User", "TIMESTAMP"])
def test_other_columns_are_another_file(tmp_path: Path, header: str, skip_bad: bool):
    path = tmp_path / "f.csv"
    with pytest.raises(WorkloadError) as caught:
        read(path, header, GOOD, skip_bad=skip_bad)
    assert str(caught.value) == f"{path}:1: the columns are not {HEADER} ({header!r})"


def test_an_empty_file(tmp_path: Path):
    with pytest.raises(WorkloadError, match=r"f\.csv: the file is empty$"):
        read(tmp_path / "f.csv")


def test_a_header_alone_is_no_session(tmp_path: Path):
    assert read(tmp_path / "f.csv", HEADER) == Workload("f.csv", (), {})


def test_a_session_is_whole(tmp_path: Path):
    [session] = read(tmp_path / "f.csv", HEADER, GOOD).sessions
    assert session == SessionShape("azure-2", 978307201.5, (TurnShape(0.0, None, (), 20, 3),))
