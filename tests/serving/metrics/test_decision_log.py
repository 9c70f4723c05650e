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


def test_a_disk_that_fails_ends_the_log_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    log = opened(tmp_path / "log.jsonl")

    class Full:
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    log._file.close()
    monkeypatch.setattr(log, "_file", Full())
    for _ in range(2):
        log.on_decision(decided(), 101.0)
        log.flush()
    log.close()
    assert [one.getMessage() for one in caplog.records] == [
        "the decision log ends here: No space left on device"
    ]


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
