"""`foretoken explain`: a decision log put together again, turn by turn, and told to people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from serving.cli import cli
from serving.config import ConfigError
from serving.messages import Decision, WorkerId
from serving.metrics import decision_log
from serving.metrics.explain import explain, explain_all, explain_turn
from serving.metrics.history import read_history, read_runs, tell
from serving.metrics.stories import History, Story
from tests.support.fake_fleet import FakeFleet
from tests.support.shape import Shape
from tests.support.turns import make_turn

D0, D1 = WorkerId("d0"), WorkerId("d1")
ROOT = Path(__file__).parents[3]
LOG = ROOT / "docs" / "decisions.jsonl"
OPENING = {
    "t": 0.0,
    "kind": "start",
    "time": "2026-01-01T00:00:00+00:00",
    "workers": {"p0": "prefill", "d0": "decode", "d1": "decode"},
    "policies": {"route_policy": "foretoken", "rebalance_policy": "none", "roles_policy": "none"},
}


def said(t: float, kind: str, choice: str = "", reason: str = "", **details: Any) -> dict[str, Any]:
    return {
        "t": t,
        "kind": kind,
        "turn": "chat-1",
        "session": "s1",
        "choice": choice,
        "reason": reason,
        "details": details,
    }


ARRIVAL = said(1.0, "arrival", prompt_len=40, max_tokens=99, ttft_target_s=0.25, tpot_target_s=None)
PLACE = said(1.0, "place", "d0", "least_load")
OPTIONS = [
    {
        "choice": "p0",
        "history": "recompute",
        "ttft_s": 0.5,
        "harm": 0.0,
        "missed": 0,
        "moved_bytes": 3 * 2**20,
        "score": 1.0,
    },
    {
        "choice": "local",
        "history": None,
        "ttft_s": 0.75,
        "harm": 0.25,
        "missed": 2,
        "moved_bytes": 0,
        "score": 2.0,
    },
]
ROUTE = said(
    1.0,
    "route",
    "p0",
    "remote_fastest",
    prompt_len=40,
    cached_len=16,
    history="recompute",
    options=OPTIONS,
)
FIRST = said(
    2.0, "first_token", "p0", ttft_s=1.0, predicted_ttft_s=0.5, prefill_s=0.75, computed=24
)
MOVE = said(4.0, "move", "d1", "spread", kv_len=42, replied=2, gain_s=0.001, **{"from": "d0"})
MOVED = said(4.5, "moved", "d1", "spread", replied=2, **{"from": "d0"})
RESUMED = said(5.0, "resumed", "d1", "observed", replied=3, stop_s=1.0, **{"from": "d0"})
END = said(5.5, "end", "completed", "stop", prompt_len=40, reply_len=5, cached_len=16)


def told(*records: dict[str, Any]) -> History:
    return tell(OPENING, records)


def story_of(*records: dict[str, Any]) -> Story:
    (story,) = told(*records).stories.values()
    return story


def test_one_turn_from_its_arrival_to_its_end():
    text = explain_turn(story_of(ARRIVAL, PLACE, ROUTE, FIRST, MOVE, MOVED, RESUMED, END))
    assert text.splitlines() == [
        "turn chat-1",
        "session s1, its turn 1",
        "    0.000 s  arrives: 40 prompt tokens, a reply of at most 99, TTFT target 250.0 ms",
        "    0.000 s  owner d0 (least_load); p0 prefills for it (remote_fastest)",
        "             24 tokens to compute, 16 cached; history: recompute",
        "               option                          TTFT    harm missed      sent    score",
        "             > p0 recompute                500.0 ms   0.000      0   3.0 MiB    1.000",
        "               local                       750.0 ms   0.250      2     0 KiB    2.000",
        "    1.000 s  first token after 1.00 s (predicted 500.0 ms): "
        "250.0 ms in queues, 750.0 ms for 24 tokens",
        "    3.000 s  its row is to move from d0 to d1 (spread, predicted gain 1.0 ms a step)",
        "    4.000 s  goes on at d1: its client waited 1.00 s between two tokens",
        "             time per token 1.00 s before, 500.0 ms after",
        "    4.500 s  completed (stop) after 5 tokens, 875.0 ms a token; "
        "16 of 40 prompt tokens were cached",
    ]


def test_a_workers_own_decisions_about_a_turn_are_told_where_they_fell():
    records = [
        said(1.25, "defer", "p0", "growth", waiting=3),
        said(1.5, "order", "p0", "deadlines", passed_over=2),
        said(1.5, "admit", "p0", "fits", cached_len=16, pages=3, reserved=4),
        said(1.5, "pause", "p0", "reply_ends", lost_steps=0.5, saved_steps=3.0),
        said(1.5, "pause", "p0", "first_to_end", kept=2),
        said(1.5, "pause", "p0", "first_token"),
        said(1.5, "restore", "p0", "fetch_faster", tokens=16, fetch_s=0.001, compute_s=0.004),
    ]
    lines = explain_turn(story_of(ARRIVAL, PLACE, ROUTE, *records, FIRST)).splitlines()
    assert [line for line in lines if " at p0: " in line] == [
        "    0.250 s  at p0: waits for room (growth), 3 in the queue",
        "    0.500 s  at p0: overtakes 2 older (deadlines)",
        "    0.500 s  at p0: has room (fits): 3 pages, 4 more set aside for growth",
        "    0.500 s  at p0: waits for a page (reply_ends): 0.500 steps are likely lost, "
        "3.000 saved",
        "    0.500 s  at p0: waits for a page (first_to_end): 2 left are kept for another",
        "    0.500 s  at p0: waits for a page (first_token): who gives way first tells its token",
        "    0.500 s  at p0: 16 tokens lie in host memory (fetch_faster: 1.0 ms to fetch, "
        "4.0 ms to compute)",
    ]


def test_a_run_counts_what_waited_what_overtook_and_what_was_evicted():
    evicted = [
        {**said(1.5, "evict", "d0", outcome, worker="d0", pages=pages), "turn": None}
        for outcome, pages in (("dropped", 2), ("offloaded", 1), ("dropped", 3))
    ]
    defer = said(1.25, "defer", "p0", "growth", waiting=3)
    order = said(1.25, "order", "p0", "deadlines", passed_over=1)
    paused = said(1.25, "pause", "p0", "reply_ends", lost_steps=0.5, saved_steps=3.0)
    lines = explain_all(told(ARRIVAL, PLACE, ROUTE, defer, order, paused, *evicted)).splitlines()
    assert "waited for a page and kept theirs: 1 reply_ends" in lines
    assert "had to wait for room: 1 growth" in lines
    assert "overtook older ones: 1 deadlines" in lines
    assert "pages evicted: 5 dropped, 1 offloaded" in lines
    assert not any(line.startswith("workers:") for line in lines)


def test_a_move_that_is_given_up_says_why():
    failed = said(4.5, "move_failed", "d1", "ending", **{"from": "d0"})
    text = explain_turn(story_of(ARRIVAL, PLACE, ROUTE, FIRST, MOVE, failed))
    assert "    3.500 s  it stays (ending)" in text.splitlines()


def test_a_turn_that_begins_anew_says_why():
    again = [said(3.0, "retry", "attempt 1", "preempted", replied=1), PLACE, {**ROUTE, "t": 3.0}]
    story = story_of(ARRIVAL, PLACE, ROUTE, FIRST, *again, END)
    assert [attempt.again for attempt in story.attempts] == [None, "preempted"]
    assert "begins anew (preempted): owner d0" in explain_turn(story)

    assert "begun anew: 1 preempted" in explain_all(told(ARRIVAL, PLACE, ROUTE, FIRST, *again, END))


def test_a_rejected_turn_has_a_story_too():
    end = said(1.0, "end", "rejected", "queue_full", prompt_len=40, reply_len=0, cached_len=0)
    story = story_of(ARRIVAL, {**end, "session": None})
    assert "rejected (queue_full) after 0 tokens" in explain_turn(story)


def test_the_summary_counts_ways_reasons_and_endings():
    text = explain_all(told(ARRIVAL, PLACE, ROUTE, FIRST, MOVE, MOVED, RESUMED, END))
    assert text.startswith("1 turns in 4.5 s;")
    assert "ended: 1 completed (stop)" in text
    row = next(line for line in text.splitlines() if line.startswith("p0"))
    assert row.split() == ["p0", "remote_fastest", "1", "24", "16", "1.00", "s", "500.0", "ms"]
    assert "off by 500.0 ms (median); their sum is 0.50 of what came" in text
    assert "moves: 1 done (spread)" in text
    assert "clients waited 1.00 s (median), at most 1.00 s" in text
    assert "mean time per token 1.00 s before, 500.0 ms after" in text
    assert len(text.splitlines()) < 24


def test_turns_of_a_session_are_numbered():
    second = [{**one, "turn": "chat-2", "t": 9.0} for one in (ARRIVAL, PLACE, ROUTE)]
    stories = told(ARRIVAL, PLACE, ROUTE, *second).stories
    assert [story.number for story in stories.values()] == [1, 2]


def test_a_log_without_turns_can_be_told():
    assert explain_all(told()).startswith("0 turns in 0.0 s")


@pytest.mark.parametrize(
    ("name", "problem"), [("chat", "2 turns begin with 'chat'"), ("cmpl", "no turn of this log")]
)
def test_a_turn_must_be_named_well_enough(name: str, problem: str):
    history = told(ARRIVAL, {**ARRIVAL, "turn": "chat-12"})
    assert explain([history], None, "chat-1").startswith("turn chat-1\n")
    assert explain([history], None, "chat-12").startswith("turn chat-12\n")
    with pytest.raises(ConfigError, match=problem):
        explain([history], None, name)


def named(*turns: str) -> History:
    return told(*({**ARRIVAL, "turn": turn} for turn in turns))


def first_lines(runs: list[History], number: int | None, turn: str | None) -> list[str]:
    return explain(runs, number, turn).splitlines()[:2]


def test_the_last_of_several_runs_is_told_unless_another_is_named():
    runs = [named("old-1"), named("new-1", "new-2")]
    which, text = first_lines(runs, None, None)
    assert which == "last of 2 runs (--run 1 to 2 tells another)"
    assert text.startswith("2 turns in ")
    which, text = first_lines(runs, 1, None)
    assert which == "run 1 of 2"
    assert text.startswith("1 turns in ")
    assert explain(runs[1:], None, None).startswith("2 turns in ")


def test_a_turn_is_looked_for_in_all_runs_from_the_last_one_back():
    runs = [named("a-1", "b-1"), named("b-2"), named("c-3")]
    assert first_lines(runs, None, "a") == ["run 1 of 3", "turn a-1"]
    assert first_lines(runs, None, "b") == ["run 2 of 3", "turn b-2"]
    assert first_lines(runs, 1, "b") == ["run 1 of 3", "turn b-1"]
    with pytest.raises(ConfigError, match="no turn of run 3 of this log begins with 'b'"):
        explain(runs, 3, "b")
    with pytest.raises(ConfigError, match="no turn of this log begins with 'd'"):
        explain(runs, None, "d")


def test_a_run_that_is_not_there_is_one_line():
    with pytest.raises(ConfigError, match="--run 3: this log has 2 runs; use 1 to 2"):
        explain([named("a"), named("b")], 3, None)
    with pytest.raises(ConfigError, match=r"--run 3: this log has one run$"):
        explain([named("a")], 3, None)


def test_a_simulation_is_told_as_one(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    flags = ["simulate", "--limit", "2", "--time-scale", "0.01", "--decision-log", str(path)]
    assert CliRunner().invoke(cli, flags, catch_exceptions=False).exit_code == 0
    told = CliRunner().invoke(cli, ["explain", str(path)], catch_exceptions=False).output
    assert told.splitlines()[0].endswith(" s; simulated")


def test_what_a_stop_string_ended_is_no_lost_work():
    stopped = {**END, "choice": "dropped", "reason": "stopped"}
    assert "completed (stop string) after 5 tokens" in explain_turn(story_of(ARRIVAL, stopped))
    gone = {**END, "choice": "dropped", "reason": "disconnected", "turn": "chat-2"}
    text = explain_all(told(ARRIVAL, stopped, {**ARRIVAL, "turn": "chat-2"}, gone))
    assert "ended: 1 completed (stop string), 1 dropped (disconnected)" in text


def test_a_worker_that_was_lost_is_named_with_what_it_owed():
    def lost(t: float, worker: str, reason: str, overdue_s: float | None) -> dict[str, Any]:
        one = said(t, "worker_lost", "", reason, worker=worker, overdue_s=overdue_s)
        return {**one, "turn": None, "session": None}

    text = explain_all(
        told(lost(1.5, "p0", "broke", None), lost(312.25, "d0", "step_overdue", 300.5))
    )
    assert "workers: 2 worker_lost" in text
    assert "  p0 was lost at 1.500 s (broke)" in text
    assert "  d0 was lost at 312.250 s (step_overdue, its step out for 300.50 s)" in text


def write(path: Path, records: Sequence[dict[str, Any]], rest: str = "") -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in records) + rest)
    return path


def test_the_last_run_of_a_file_counts_and_a_line_cut_short_does_not(tmp_path: Path):
    other = {**ARRIVAL, "turn": "old"}
    records = [OPENING, other, OPENING, ARRIVAL]
    path = write(tmp_path / "log", records, '{"t": 2.0, "ki')
    assert list(read_history(path).stories) == ["chat-1"]
    assert [list(run.stories) for run in read_runs(path)] == [["old"], ["chat-1"]]


def test_what_a_killed_server_left_of_a_line_is_passed_over_where_the_next_run_begins(
    tmp_path: Path,
):
    path = write(tmp_path / "log", [OPENING, ARRIVAL], '{"t": 2.0, "ki\n')
    with path.open("a") as file:
        file.write(json.dumps(OPENING) + "\n")
    assert [list(run.stories) for run in read_runs(path)] == [["chat-1"], []]
    with path.open("a") as file:
        file.write("not json\n" + json.dumps(ARRIVAL) + "\n")
    with pytest.raises(ConfigError, match="log:5: not valid JSON"):
        read_runs(path)


def test_the_command_tells_the_run_that_is_named(tmp_path: Path):
    path = write(tmp_path / "log", [OPENING, ARRIVAL, OPENING])
    done = CliRunner().invoke(cli, ["explain", str(path), "--run", "1", "--turn", "chat"])
    assert done.stdout.startswith("run 1 of 2\nturn chat-1\n")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no decision log"),
        ('{"t": 1.0, "kind": "arrival", "turn": "a"}\n', "no decision log"),
        ("[1]\n", "log:1: no record of a decision log"),
        ("not json\n", "log:1: not valid JSON"),
    ],
)
def test_what_is_no_log_is_one_clear_error(tmp_path: Path, text: str, problem: str):
    (tmp_path / "log").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_history(tmp_path / "log")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_history(tmp_path / "nowhere")


@pytest.mark.parametrize("seed", range(3))
def test_every_record_that_a_fleet_makes_can_be_told(seed: int):
    """Moves, preemptions and a lost worker; what is told of a move is what the fleet decided."""
    fleet = FakeFleet(
        Shape(decode_workers=2, prefill_workers=1, max_model_len=64, num_pages=24), seed=seed
    )
    fleet.run()
    turns = [make_turn(f"t{i}", [i % 3] * (5 + i), max_tokens=30, seed=i) for i in range(8)]
    for turn in turns:
        fleet.submit(turn)
    workers = fleet.coordinator.fleet.workers
    for i in range(3000):
        for here, there in ((D0, D1), (D1, D0)):
            if i % 40 == 0 and {here, there} <= workers.keys() and workers[here].decoding:
                fleet.move(next(iter(workers[here].decoding)), there)
        if i > 200 and D1 in fleet.workers and workers[D1].decoding:
            fleet.lose(D1)
        if not fleet.round():
            break
    happened: list[Any] = [*turns, *fleet.decisions]
    happened += [reply.end for reply in fleet.replies.values() if reply.end is not None]
    records = [json.loads(decision_log.line(decision_log.record(one, 1.0))) for one in happened]
    history = tell(OPENING, records)
    assert len(explain_all(history).splitlines()) < 40
    for story in history.stories.values():
        explain_turn(story)

    def count(kind: str) -> int:
        return sum(isinstance(d, Decision) and d.kind == kind for d in fleet.decisions)

    moves = [move for story in history.stories.values() for move in story.moves]
    assert len(moves) == count("move")
    assert sum(move.outcome == "moved" for move in moves) == count("moved")
    assert sum(move.stop_s is not None for move in moves) == count("resumed")
    again = [a for story in history.stories.values() for a in story.attempts if a.again]
    assert moves
    assert 0 < len(again) <= count("retry")


def test_the_readme_shows_what_explain_prints_of_the_log_beside_it():
    readme = (ROOT / "README.md").read_text()
    moved = next(s for s in read_history(LOG).stories.values() if s.moves)
    assert explain_turn(moved) in readme
    assert moved.turn[:17] in readme


def test_a_new_session_shows_who_was_kept_clear_of_rows():
    placed = said(1.0, "place", "d0", "least_load", clear=["d2", "d3"])
    story = story_of(ARRIVAL, placed, ROUTE)
    first = "owner d0 (least_load; kept clear of rows: d2, d3); p0 prefills for it"
    assert first in explain_turn(story)
