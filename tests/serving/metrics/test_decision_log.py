"""The decision log: what is written, when, and what a disk that fails does to serving."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from serving.config import ConfigError
from serving.messages import (
    Completed,
    Decision,
    Dropped,
    End,
    Failed,
    Outcome,
    Rejected,
    StepsTimed,
    WorkerId,
)
from serving.metrics import DecisionLog, decision_log
from serving.request import FinishReason, SessionId, TurnId
from tests.support.turns import make_turn

A = TurnId("a")
KEYS = ["t", "kind", "turn", "session", "choice", "reason", "details"]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text, parse_constant=pytest.fail) for text in path.read_text().splitlines()]


def decided(**details: Any) -> Decision:
    return Decision("route", A, SessionId("s1"), "p0", "remote_fastest", details)


def opened(path: Path) -> DecisionLog:
    return DecisionLog(path, {"version": "1", "policies": {"route_policy": "local"}}, 100.0)


def test_a_turn_from_its_arrival_to_its_end(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = opened(path)
    log.on_arrival(make_turn("a", range(5), max_tokens=9), 101.0)
    log.on_decision(decided(options=[{"choice": "local", "ttft_s": 0.5}]), 101.25)
    log.on_tokens([A], 101.5)
    log.on_steps(StepsTimed(WorkerId("d0"), (), 0.0, 0.0))
    log.on_moved(WorkerId("p0"), WorkerId("d0"), 10)
    log.on_end(End(A, Completed(FinishReason.STOP), 5, 4, 3), 102.0)
    log.close()
    start, arrival, route, end = lines(path)
    assert (start["t"], start["kind"], start["version"]) == (0.0, "start", "1")
    assert start["policies"] == {"route_policy": "local"}
    assert list(arrival) == list(route) == list(end) == KEYS
    assert [one["t"] for one in (arrival, route, end)] == [1.0, 1.25, 2.0]
    assert arrival["details"]["prompt_len"] == 5
    assert arrival["details"]["max_tokens"] == 9
    assert list(route.values())[1:6] == ["route", "a", "s1", "p0", "remote_fastest"]
    assert route["details"] == {"options": [{"choice": "local", "ttft_s": 0.5}]}
    assert (end["kind"], end["choice"], end["reason"]) == ("end", "completed", "stop")
    assert end["details"] == {"prompt_len": 5, "reply_len": 4, "cached_len": 3}


@pytest.mark.parametrize(
    ("outcome", "choice", "reason"),
    [
        (Completed(FinishReason.LENGTH), "completed", "length"),
        (Rejected("queue_full", "many words"), "rejected", "queue_full"),
        (Failed("engine_dead", "many words"), "failed", "engine_dead"),
        (Dropped("disconnected"), "dropped", "disconnected"),
    ],
)
def test_every_way_to_end(outcome: Outcome, choice: str, reason: str):
    one = decision_log.record(End(A, outcome, 5, 4, 3), 0.0)
    assert (one["choice"], one["reason"]) == (choice, reason)


def test_a_decision_about_a_worker_has_no_turn():
    decision = Decision("drain", None, None, "prefill", "asked", {"worker": WorkerId("d0")})
    one = decision_log.record(decision, 0.0)
    assert (one["turn"], one["session"], one["details"]) == (None, None, {"worker": "d0"})


def test_numbers_that_json_does_not_have_become_null():
    one = decision_log.record(decided(options=[{"ttft_s": math.inf, "score": 1.5}]), 0.0)
    read = json.loads(decision_log.line(one), parse_constant=pytest.fail)
    assert read["details"] == {"options": [{"ttft_s": None, "score": 1.5}]}


def test_what_gathers_is_written_while_the_server_runs(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = opened(path)
    log.on_decision(decided(), 101.0)
    log.flush()
    assert [one["kind"] for one in lines(path)] == ["start", "route"]
    log.close()
    assert len(lines(path)) == 2


def test_a_second_run_is_appended(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    for _ in range(2):
        opened(path).close()
    assert [one["kind"] for one in lines(path)] == ["start", "start"]


def test_a_file_that_cannot_be_opened_is_one_clear_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--decision-log .*nowhere.*: cannot be written \(No "):
        opened(tmp_path / "nowhere" / "log.jsonl")
    with pytest.raises(ConfigError, match="Is a directory"):
        opened(tmp_path)


FULL = Path("/dev/full")
"""A file on a full disk."""


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_disk_that_fails_ends_the_log_and_nothing_else(caplog: pytest.LogCaptureFixture):
    log = opened(FULL)
    for _ in range(2):
        log.on_decision(decided(), 101.0)
        log.flush()
    log.close()
    assert caplog.messages == ["the decision log /dev/full ends here: No space left on device"]


def test_a_log_goes_on_in_a_new_file_where_the_old_one_was_moved_or_removed(tmp_path: Path):
    path, old = tmp_path / "log.jsonl", tmp_path / "log.jsonl.1"
    log = opened(path)
    log.on_decision(decided(number=1), 101.0)
    log.flush()
    path.rename(old)
    log.on_decision(decided(number=2), 102.0)
    log.flush()
    assert [one["kind"] for one in lines(old)] == ["start", "route"]
    start, route = lines(path)
    assert start == lines(old)[0]  # times still count from there
    assert (route["t"], route["details"]) == (2.0, {"number": 2})
    path.unlink()
    log.on_decision(decided(number=3), 103.0)
    log.close()
    assert [one["details"]["number"] for one in lines(path)[1:]] == [3]


def test_a_log_that_a_full_disk_ended_begins_again_where_it_was_moved(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    path.symlink_to(FULL)
    log = opened(path)
    path.unlink()
    log.on_decision(decided(), 101.0)
    log.close()
    assert [one["kind"] for one in lines(path)] == ["start", "route"]


def test_a_log_that_was_emptied_begins_again(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    log = opened(path)
    log.on_decision(decided(), 101.0)
    log.flush()
    path.write_text("")  # as copytruncate does
    log.on_decision(decided(), 102.0)
    log.close()
    assert [one["kind"] for one in lines(path)] == ["start", "route"]


def test_where_a_log_cannot_go_on_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tmp_path / "logs"
    folder.mkdir()
    log = opened(folder / "log.jsonl")
    folder.rename(tmp_path / "away")
    for _ in range(3):
        log.on_decision(decided(), 101.0)
        log.flush()
    log.close()
    (line,) = caplog.messages
    assert line.endswith("log.jsonl ends here: No such file or directory")


def test_a_run_begins_on_a_line_of_its_own_behind_one_that_was_cut_short(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    opened(path).close()
    with path.open("a") as file:
        file.write('{"t":1.0,"ki')  # and the server was killed
    opened(path).close()
    *_, half, start = path.read_text().splitlines()
    assert half == '{"t":1.0,"ki'
    assert json.loads(start)["kind"] == "start"


def test_the_end_waits_for_a_disk_that_does_not_answer_but_not_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decision_log, "CLOSE_S", 0.01)
    monkeypatch.setattr(decision_log, "FLUSH_S", 0.0)
    log = opened(tmp_path / "log.jsonl")
    with log._writing:  # as if the thread were stuck in a write
        log.close()
    (line,) = caplog.messages
    assert line.endswith("lacks its end: the disk does not answer")
    monkeypatch.setattr(decision_log, "CLOSE_S", 30.0)
    log.close()


def test_a_disk_that_does_not_answer_costs_a_limited_amount_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(decision_log, "MAX_PENDING", 3)
    path = tmp_path / "log.jsonl"
    log = opened(path)
    with log._writing:  # as if the thread were stuck in a write
        for _ in range(8):
            log.on_decision(decided(), 101.0)
    log.close()
    assert [one["kind"] for one in lines(path)] == ["start", "route", "route", "route", "lost"]
    assert lines(path)[-1]["records"] == 5
