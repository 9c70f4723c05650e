"""A replay's report has the simulator's keys, and says what went wrong."""

import json

from click.testing import CliRunner

from serving.cli import cli
from serving.replay.failure import TurnFailed
from serving.replay.recorder import Recorder
from serving.replay.reply import Usage
from serving.replay.report import Played, failure_of, report_of, text_of
from serving.replay.sessions import INTERRUPTED
from serving.request import TurnId
from tests.serving.replay.fake_server import config, turn, workload

WORK = workload([turn(6, 3), turn(5, 3)], [turn(6, 3)])
OWN = {
    "url",
    "model",
    "prompts",
    "lengths",
    "messages",
    "odd_lengths",
    "late",
    "interrupted",
}


def recorder() -> Recorder:
    """Two turns: one of 3 tokens with 1 s to the first and 2 s for each other, and one refused."""
    measured = Recorder()
    record = measured.on_sent(TurnId("s0.0"), 0, 6, due=0.0, now=0.5)
    for now in (1.5, 3.5, 5.5):
        measured.on_tokens(record, 1, now)
    measured.on_whole(record, Usage(6, 3, 3), asked=3)
    late = measured.on_sent(TurnId("s1.0"), 0, 6, due=0.0, now=0.5)
    measured.on_failure(late, TurnFailed("429 queue_full", "try later"))
    return measured


def test_it_has_all_keys_of_a_simulation():
    result = CliRunner().invoke(cli, ["simulate", "--limit", "2", "--json"])
    simulated = json.loads(result.stdout)
    replayed = report_of(config(), WORK, Played("m", recorder(), False, 6.0))
    assert set(replayed) == set(simulated) | OWN
    assert set(replayed["ttft"]) == set(simulated["ttft"])
    assert set(replayed["slo"]) == set(simulated["slo"])
    json.dumps(replayed)


def test_what_only_a_server_knows_is_null():
    report = report_of(config(), WORK, Played("m", recorder(), False, 6.0))
    unknown = {key for key, value in report.items() if value is None}
    assert unknown == {
        "policy",
        "rebalance",
        "predictor",
        "kv_bytes_moved",
        "preemptions",
        "pauses",
        "moves",
        "steps",
        "busy",
    }


def test_numbers_are_those_of_the_turns():
    targets = {"slo_ttft_s": 1.0, "slo_tpot_s": 2.0}
    report = report_of(config(**targets), WORK, Played("m", recorder(), False, 6.0))
    assert report["ttft"]["turn1"]["mean"] == 1.0
    assert report["ttft"]["later"] is None
    assert report["tpot"]["p50"] == report["itl"]["p99"] == 2.0
    assert report["slo_attainment"] == 0.5
    assert report["throughput_tps"] == 3 / 5
    assert report["cached_share"] == 0.5
    assert report["late"]["p99"] == 0.5
    strict = {"slo_ttft_s": 1.0, "slo_tpot_s": 1.9}
    again = report_of(config(**strict), WORK, Played("m", recorder(), False, 6.0))
    assert (again["slo_attainment"], again["goodput_tps"]) == (0.0, 0.0)


def test_the_share_of_cached_tokens_is_unknown_if_one_turn_does_not_say_it():
    measured = recorder()
    record = measured.on_sent(TurnId("s0.1"), 1, 14, due=6.0, now=6.0)
    measured.on_tokens(record, 3, 7.0)
    measured.on_whole(record, Usage(14, 3, None), asked=3)
    assert report_of(config(), WORK, Played("m", measured, False, 6.0))["cached_share"] is None


def test_the_text_tells_troubles_only_where_there_are_any():
    measured = recorder()
    measured.on_given_up(4)
    measured.odd_lengths = 2
    text = text_of(report_of(config(), WORK, Played("m", measured, True, 6.0)))
    assert "failed, 429 queue_full: 1 turns (try later)" in text
    assert "not sent, because a turn before them failed: 4 turns" in text
    assert "replies of another length than asked for: 2" in text
    assert "interrupted: " in text
    calm = text_of(report_of(config(), WORK, Played("m", Recorder(), False, 6.0)))
    assert calm.splitlines()[-1].endswith("an unknown share of prompt tokens cached")


def test_targets_are_told_only_where_there_are_any():
    played = Played("m", recorder(), False, 6.0)
    one = text_of(report_of(config(slo_tpot_s=2.0), WORK, played)).splitlines()
    assert "within any to the first token and 2 s per token: 50.0% of turns" in one
    assert any(line.startswith("1 tokens/s, 1 of them in time; ") for line in one)
    none = text_of(report_of(config(), WORK, played))
    assert "within" not in none
    assert "\n1 tokens/s; 50.0% of prompt tokens cached\n" in none


def test_a_replay_with_failed_turns_says_so_in_one_line():
    measured = recorder()
    page = "<html>\n<body>" + "x" * 500
    for i in range(2):
        record = measured.on_sent(TurnId(f"s{i}.9"), 0, 6, due=0.0, now=0.5)
        measured.on_failure(record, TurnFailed("502", page))
    failure = failure_of(report_of(config(), WORK, Played("m", measured, False, 6.0)))
    assert failure is not None
    assert failure.startswith("3 of 4 turns failed; 2 x 502 (<html> <body>xxx")
    assert len(failure) < 250


def test_none_failed_where_all_finished_or_an_interrupt_came():
    whole = Recorder()
    record = whole.on_sent(TurnId("s0.0"), 0, 6, due=0.0, now=0.5)
    whole.on_whole(record, Usage(6, 3, 3), asked=3)
    ended = whole.on_sent(TurnId("s0.1"), 0, 6, due=0.0, now=0.5)
    whole.on_failure(ended, INTERRUPTED)
    assert failure_of(report_of(config(), WORK, Played("m", whole, True, 6.0))) is None
