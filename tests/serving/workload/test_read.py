"""Which workload is meant: the format, where the file is, and how it is cut and scaled."""

import subprocess
from pathlib import Path
from shutil import which
from typing import Any

import pytest

from serving.workload.read import (
    DEFAULT_TURNS,
    DRAWN_SECONDS,
    FORMATS,
    TRACES_VARIABLE,
    WorkloadChoice,
    read_workload,
)
from serving.workload.session import Workload, WorkloadError

HASH_IDS = '{"timestamp": 3000, "input_length": 9, "output_length": 2, "hash_ids": [0]}'
CALL = '{"in": 9, "out": 2, "hr": []}'
DISTRIBUTION = '{"input_tokens": {"9": 1.0}, "output_tokens": {"2": 1.0}}'
RATES = ", ".join(f'[{600 * i}, 1.0, 1.0, "Gamma", 1.0, 1.0]' for i in range(3))
FILES = {
    "sessions": '{"id": "a", "start": 5, "turns": [{"new": 9, "reply": 2}]}',
    "mooncake": HASH_IDS,
    "azure": "TIMESTAMP,ContextTokens,GeneratedTokens\n2001-01-01 00:00:00,9,2",
    "weka": f'{{"id": "a", "block_size": 64, "requests": [{CALL}]}}',
    "servegen": f'{{"client": 1, "windows": {{"0": {DISTRIBUTION}}}, "trace": [{RATES}]}}',
}


@pytest.fixture(autouse=True)
def _no_folder_of_traces(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(TRACES_VARIABLE, raising=False)


def read(path: Path | None = None, **change: Any) -> Workload:
    values = {
        "path": path,
        "format": "sessions",
        "seed": 0,
        "limit": None,
        "max_context": None,
        "rate_scale": 1.0,
        "time_scale": 1.0,
        "start_s": 0.0,
        "seconds": None,
        "session_rate": 1.0,
        "skip_bad": False,
    }
    return read_workload(WorkloadChoice(**{**values, **change}))


def write(path: Path, *starts: float, turns: int = 2) -> Path:
    turn = '{"think": 4, "new": 10, "reply": 5}'
    lines = [
        f'{{"id": "s{i}", "start": {start}, "turns": [{", ".join([turn] * turns)}]}}\n'
        for i, start in enumerate(starts)
    ]
    path.write_text("".join(lines))
    return path


def starts(workload: Workload) -> list[float]:
    return [session.start_s for session in workload.sessions]


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_and_begins_at_time_zero(tmp_path: Path, name: str):
    path = None
    if name in FILES:
        path = tmp_path / name
        path.write_text(FILES[name])
    workload = read(path, format=name)
    assert starts(workload)[0] == 0
    if name in FILES:
        assert name in workload.origin
        turn = workload.sessions[0].turns[0]
        assert (turn.new + sum(span.tokens for span in turn.shared), turn.reply) == (9, 2)


@pytest.mark.parametrize("name", FILES)
def test_every_format_of_a_file_skips_bad_lines_only_if_asked_to(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text(f"{FILES[name]}\nbad\n")
    with pytest.raises(WorkloadError, match=rf"{name}:\d: not "):
        read(path, format=name)
    assert sum(read(path, format=name, skip_bad=True).skipped.values()) == 1


@pytest.mark.parametrize("name", FILES)
def test_every_format_of_a_file_refuses_an_empty_one(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_text("\n")
    with pytest.raises(WorkloadError) as caught:
        read(path, format=name, skip_bad=True)
    assert str(caught.value) == f"{path}: the file is empty"


KNOWN = "sessions, mooncake, azure, weka, servegen, synthetic"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "vllm"}, f"--format vllm is unknown; use one of {KNOWN}"),
        ({"format": "azure"}, "--format azure needs --workload FILE"),
        (
            {"format": "synthetic", "path": Path("f.csv")},
            f"--workload f.csv needs the --format of the file: {KNOWN}",
        ),
        ({"session_rate": 0.0}, "--session-rate 0.0 must be positive"),
        ({"session_rate": float("nan")}, "--session-rate nan must be positive"),
        ({"session_rate": float("inf")}, "--session-rate inf must be positive"),
        ({"start_s": -1.0}, "--start -1.0 must not be negative"),
        ({"start_s": float("nan")}, "--start nan must not be negative"),
        ({"seconds": 0.0}, "--seconds 0.0 must be positive"),
        ({"seconds": float("inf")}, "--seconds inf must be positive"),
        ({"limit": 0}, "--limit 0 leaves no turn"),
        ({"format": "synthetic", "limit": -1}, "--limit -1 leaves no turn"),
        ({"max_context": -1}, "--max-context -1 has no room for a turn"),
        (
            {"format": "synthetic", "rate_scale": 2e6},
            "--rate-scale 2000000.0 must be at most 1e+06",
        ),
        (
            {"format": "synthetic", "limit": 10**7},
            "--limit 10000000: 1,000,000 turns are made up at most, not 10,000,000",
        ),
        (
            {"format": "synthetic", "start_s": 1e6, "seconds": 1e6},
            "2e+06 s of --start and --seconds: 1,000,000 turns are made up at most, not 6,200,000",
        ),
        ({"format": "synthetic", "rate_scale": 0.0}, "--rate-scale 0.0 must be positive"),
        ({"format": "synthetic", "time_scale": -1.0}, "--time-scale -1.0 must be positive"),
        ({"path": Path("none.jsonl")}, "none.jsonl: cannot be read (No such file or directory)"),
    ],
)
def test_a_choice_that_cannot_be_is_one_line(change: dict[str, Any], problem: str):
    with pytest.raises(WorkloadError) as caught:
        read(**change)
    assert str(caught.value) == problem


def test_a_file_is_found_here_and_else_in_the_folder_of_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    here, folder = tmp_path / "here", tmp_path / "folder"
    here.mkdir()
    folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv(TRACES_VARIABLE, str(folder))
    write(folder / "f.jsonl", 0.0, turns=3)
    assert read(Path("f.jsonl")).num_turns == 3
    write(here / "f.jsonl", 0.0, turns=1)
    assert read(Path("f.jsonl")).num_turns == 1
    with pytest.raises(WorkloadError, match=rf"^{folder}/none\.jsonl: cannot be read"):
        read(Path("none.jsonl"))
    with pytest.raises(WorkloadError, match=rf"^{here}/none\.jsonl: cannot be read"):
        read(here / "none.jsonl")


@pytest.mark.skipif(which("zstd") is None, reason="no zstd here")
def test_a_compressed_file_is_found_by_its_plain_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(TRACES_VARIABLE, str(tmp_path))
    write(tmp_path / "f.jsonl", 0.0, turns=3)
    subprocess.run(["zstd", "-q", "--rm", str(tmp_path / "f.jsonl")], check=True)
    assert read(Path("f.jsonl")).num_turns == 3
    assert read(tmp_path / "f.jsonl").num_turns == 3


def test_a_window_that_starts_late_starts_at_its_first_arrival(tmp_path: Path):
    path = write(tmp_path / "f.jsonl", 100.0, 130.0, 142.0, 150.0, 190.0)
    workload = read(path, start_s=20.0, seconds=40.0)
    assert [one.id for one in workload.sessions] == ["s1", "s2", "s3"]
    assert starts(workload) == [0.0, 12.0, 20.0]
    assert workload.skipped == {"turns outside the window": 4}
    assert starts(read(path, start_s=45.0)) == [0.0, 40.0]
    assert starts(read(path, seconds=30.0)) == [0.0]


def test_the_window_is_of_the_time_before_scaling(tmp_path: Path):
    path = write(tmp_path / "f.jsonl", 100.0, 130.0, 142.0, 190.0)
    workload = read(path, seconds=60.0, rate_scale=2.0, time_scale=3.0)
    assert starts(workload) == [0.0, 45.0, 63.0]
    assert {turn.think_s for one in workload.sessions for turn in one.turns} == {12.0}


def test_the_limit_counts_what_is_left_of_context_and_window(tmp_path: Path):
    path = write(tmp_path / "f.jsonl", 0.0, 10.0, 20.0, turns=4)
    workload = read(path, max_context=30, start_s=5.0, limit=3)
    assert [len(one.turns) for one in workload.sessions] == [2, 1]
    assert workload.skipped == {
        "turns beyond a context of 30 tokens": 6,
        "turns outside the window": 2,
        "turns beyond the limit": 1,
    }


def test_nothing_left_says_why(tmp_path: Path):
    path = write(tmp_path / "f.jsonl", 0.0, 10.0)
    with pytest.raises(WorkloadError) as caught:
        read(path, max_context=14)
    assert str(caught.value) == (
        "f.jsonl: no session is left to run (left out: 4 turns beyond a context of 14 tokens)"
    )
    path.write_text("bad\nworse\n")
    with pytest.raises(WorkloadError, match=r"left to run \(left out: 2 lines: not JSON\)$"):
        read(path, skip_bad=True)


def test_made_up_sessions_are_as_many_or_as_long_as_asked_for():
    assert read(format="synthetic").num_turns == DEFAULT_TURNS
    assert read(format="synthetic", limit=70).num_turns == 70
    long = read(format="synthetic", seconds=3000.0)
    assert len(long.sessions) == pytest.approx(3000, rel=0.1)
    late = read(format="synthetic", start_s=1000.0, seconds=500.0)
    assert len(late.sessions) == pytest.approx(500, rel=0.2)
    assert read(format="synthetic", seconds=500.0, limit=70).num_turns == 70
    assert len(read(format="synthetic", seconds=100.0, session_rate=5.0).sessions) > 300


def test_a_drawn_stream_has_the_span_asked_for_or_ten_minutes(tmp_path: Path):
    path = tmp_path / "servegen"
    path.write_text(FILES["servegen"])
    drawn = read(path, format="servegen")
    assert drawn.num_turns == pytest.approx(DRAWN_SECONDS, rel=0.15)
    late = read(path, format="servegen", start_s=700.0, seconds=1000.0)
    assert late.num_turns == pytest.approx(1000, rel=0.15)
    assert starts(late)[0] == 0.0
    assert 950 < starts(late)[-1] < 1000
    assert not late.skipped


@pytest.mark.parametrize("name", ["synthetic", "weka", "servegen"])
def test_what_is_drawn_depends_on_the_seed_alone(tmp_path: Path, name: str):
    path = None
    if name in FILES:
        path = tmp_path / name
        again = FILES[name].replace('"a"', '"b"').replace('"client": 1', '"client": 2')
        path.write_text(f"{FILES[name]}\n{again}\n")
    one, same, other = (read(path, format=name, seed=seed) for seed in (3, 3, 4))
    assert one == same
    assert one.sessions != other.sessions


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rate_scale": 1e-309}, "inf s"),
        ({"rate_scale": 1e-10}, "2e+10 s"),
        ({"time_scale": 1e10}, "4e+10 s"),
    ],
)
def test_times_that_no_clock_can_tell_apart_are_one_line(
    tmp_path: Path, change: dict[str, float], told: str
):
    path = write(tmp_path / "f.jsonl", 1.0, 3.0)
    with pytest.raises(WorkloadError) as caught:
        read(path, **change)
    assert str(caught.value) == (
        f"f.jsonl: a session begins or a user thinks for {told}, more than 1e+10;"
        " see --session-rate and the scales"
    )
