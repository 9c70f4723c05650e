"""`foretoken simulate`: the documented keys, equal logs, and one line for each problem."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.cli import cli, run
from serving.config import ConfigError
from serving.metrics.history import read_history
from serving.sim import report as documented

ROOT = Path(__file__).parents[3]
SMALL = ("--limit", "12", "--session-rate", "2", "--max-model-len", "32768", "--time-scale", "0.01")


def simulate(*flags: str):
    return CliRunner().invoke(cli, ["simulate", *SMALL, *flags], catch_exceptions=False)


def report(*flags: str) -> dict:
    done = simulate("--json", *flags)
    assert done.exit_code == 0
    return json.loads(done.stdout)


def test_the_object_has_the_documented_keys():
    found = report("--slo-ttft", "1", "--slo-tpot", "0.05")
    assert documented.__doc__ is not None
    names = re.findall(r"^    ([a-z]\S*(?:, \S+)*)  ", documented.__doc__, re.MULTILINE)
    keys = [key for group in names for key in group.split(", ")]
    assert {"policy", "ttft.turn1", "ttft.later", "itl", "wall_s"} <= set(keys)
    for key in keys:
        inside = found
        for part in key.split("."):
            assert part in inside, key
            inside = inside[part]
    assert (found["turns"], found["finished"]) == (12, 12)
    assert found["ttft"]["later"].keys() == {"mean", "p50", "p90", "p99"}
    assert found["slo"] == {"ttft_s": 1.0, "tpot_s": 0.05}
    assert 0 <= found["slo_attainment"] <= 1


def test_an_unknown_format_of_weights_is_one_line():
    with pytest.raises(ConfigError, match="--quantize int4 is unknown; use none, int8 or fp8"):
        simulate("--quantize", "int4")


@pytest.mark.parametrize(
    "policy", ["replicas", "pd-full", "pd-delta", "local", "threshold", "ampd"]
)
def test_every_policy_is_one_flag(policy: str):
    workers = ("--prefill-workers", "0" if policy == "replicas" else "1", "--decode-workers", "2")
    found = report("--policy", policy, "--rebalance", "none", *workers)
    assert (found["policy"], found["finished"], found["moves"]) == (policy, 12, 0)
    if policy == "replicas":
        assert found["kv_bytes_moved"] == 0


def test_a_slow_way_to_host_memory_is_felt_where_kv_comes_back_from_it(tmp_path: Path):
    asked, again = {"new": 9000, "reply": 8}, {"think": 60, "new": 16, "reply": 8}
    talk = {"id": "a", "start": 0, "turns": [asked, again]}
    other = {"id": "b", "start": 30, "turns": [asked]}
    path = tmp_path / "two.jsonl"
    path.write_text(f"{json.dumps(talk)}\n{json.dumps(other)}\n")
    small = ("--prefill-workers", "0", "--decode-workers", "1", "--kv-pages", "200")
    flags = (f"--workload={path}", "--format=sessions", "--host-kv-gib=8", *small)

    def later_s(*more: str) -> float:
        command = ["simulate", *flags, "--max-model-len=10000", "--json", *more]
        done = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert done.exit_code == 0
        return json.loads(done.stdout)["ttft"]["later"]["mean"]

    # Two conversations take 141 pages each, of 199: 83 had to go, one of them part-filled.
    fast, slow = later_s("--host-link-gib-per-s=20"), later_s("--host-link-gib-per-s=10")
    assert slow - fast == pytest.approx(82 * 64 * 131072 / 2**30 * (1 / 10 - 1 / 20))
    # Three payloads of 33 pages at most: while one of 13 ms is copied, the next is on its way.
    late = later_s("--host-link-gib-per-s=20", "--host-link-latency-us=10200")
    assert late - fast == pytest.approx(0.01)


def test_ppd_says_that_nothing_was_measured_for_it(tmp_path: Path):
    notice = "foretoken: ppd without --route-table goes by predicted times"
    ppd = ("--policy", "ppd", "--json")
    done = simulate(*ppd)
    assert notice in done.stderr
    assert json.loads(done.stdout)["finished"] == 12
    table = tmp_path / "table.json"
    table.write_text('{"schema": 1, "cells": []}')
    assert notice not in simulate(*ppd, "--route-table", str(table)).stderr
    assert notice not in simulate("--policy", "local").stderr


@pytest.mark.parametrize("predictor", ["head", "oracle", "histogram", "none"])
def test_every_predictor_is_one_flag(predictor: str):
    assert report("--predictor", predictor)["finished"] == 12


def test_the_text_says_what_the_object_says():
    done = simulate("--slo-ttft", "1")
    assert "12 turns, 12 finished" in done.stdout
    assert "within 1 s to the first token and any per token: 100.0% of turns" in done.stdout
    assert " of them in time; " in done.stdout


def test_the_text_tells_of_no_target_where_there_is_none():
    told = simulate().stdout
    assert "within" not in told
    assert "in time" not in told
    assert " tokens/s; " in told


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_equal_seeds_give_equal_logs_to_the_byte(tmp_path: Path, hash_seed: str):
    logs = [tmp_path / name for name in ("one.jsonl", "other.jsonl")]
    simulate("--decision-log", str(logs[0]), "--step-noise", "0.1", "--decode-workers", "3")
    command = [sys.executable, "-m", "serving.cli", "simulate", *SMALL, "--step-noise", "0.1"]
    subprocess.run(
        [*command, "--decode-workers", "3", "--decision-log", str(logs[1])],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        check=True,
    )
    assert logs[0].read_bytes() == logs[1].read_bytes()
    assert len(read_history(logs[0]).stories) == 12


def test_another_seed_is_another_history():
    one, other = report("--seed", "1"), report("--seed", "2")
    assert one["ttft"] != other["ttft"]


def test_pictures_are_drawn(tmp_path: Path):
    simulate("--figures", str(tmp_path / "drawn"))
    for name in ("workers.png", "latency.png"):
        assert (tmp_path / "drawn" / name).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--model", "gpt-9"], "--model gpt-9 is neither known"),
        (["--hardware", "h1000"], "--hardware h1000 is unknown"),
        (["--policy", "best"], "--route-policy best is unknown; use one of foretoken"),
        (["--policy", "replicas"], "use --prefill-workers 0 --decode-workers 2"),
        (["--policy", "pd-full", "--prefill-workers", "0"], "add --prefill-workers"),
        (["--predictor", "psychic"], "--predictor psychic is unknown; use one of head"),
        (["--model", "llama-3.1-70b"], "weights of 131.4 GiB leave room for 0 of"),
        (
            ["--kv-pages", "100000"],
            "--kv-pages 100000 do not fit beside the weights of llama-3.1-8b on 1 x h100; use 7622"
            " at most",
        ),
        (["--decode-tp", "3"], "--decode-tp 3 does not divide the model's 8 key-value heads"),
        (["--link-gib-per-s", "0"], "--link-gib-per-s must be positive"),
        (["--host-link-gib-per-s", "0"], "--host-link-gib-per-s must be positive"),
        (["--host-link-latency-us", "-1"], "--host-link-latency-us must not be negative"),
        (["--slo-ttft-ms", "0"], "--slo-ttft-ms must be positive"),
        (["--step-noise", "nan"], "--step-noise nan does not lie in 0 to 10"),
        (["--step-noise", "1e3"], r"--step-noise 1000\.0 does not lie in 0 to 10"),
        (["--head-sigma", "inf"], "--head-sigma inf does not lie in 0 to 10"),
        (["--host-kv-gib", "inf"], "--host-kv-gib must be at most 1048576"),
        (["--slo-tpot-ms", "inf"], "--slo-tpot-ms must be positive and finite"),
        (
            ["--slo-ttft", "1", "--slo-ttft-ms", "500"],
            "--slo-ttft and --slo-ttft-ms are the same target; leave one out",
        ),
        (
            ["--slo_tpot_ms=500", "--slo-tpot", "0.5"],
            "--slo-tpot and --slo-tpot-ms are the same target; leave one out",
        ),
        (["--max-model-len", "999999"], "above the model's own limit of 131072"),
        (["--rate-scale", "0"], "--rate-scale"),
        (["--format", "excel"], "--format excel is unknown"),
        (
            ["--route-table", "t.json"],
            "--route-table has no effect with --route-policy foretoken; leave it out, or use ppd",
        ),
        (
            ["--format", "azure", "--session-rate", "2"],
            "--session-rate has no effect with --format azure, which says when sessions begin; use"
            " --rate-scale",
        ),
    ],
)
def test_what_cannot_be_simulated_is_one_line(flags: list[str], problem: str):
    with pytest.raises(ConfigError, match=problem) as error:
        simulate(*flags)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", ["simulate", "replay"])
@pytest.mark.parametrize("flag", ["--slo-ttft", "--slo-tpot"])
def test_a_target_is_refused_by_the_flag_that_was_typed(command: str, flag: str):
    done = CliRunner().invoke(cli, [command, flag, "-1"])
    assert done.exit_code == 2
    assert f"Invalid value for '{flag}'" in done.stderr


def test_a_target_that_is_typed_overrides_one_of_a_file_or_a_variable(tmp_path: Path):
    (tmp_path / "server.toml").write_text("slo-ttft-ms = 500.0\n")
    typed = ("--slo-ttft", "1", "--json", "--config", str(tmp_path / "server.toml"))
    asked = ["simulate", *SMALL, *typed, "--slo-tpot", "0.05"]
    done = CliRunner().invoke(
        cli, asked, env={"FORETOKEN_SLO_TPOT_MS": "20"}, catch_exceptions=False
    )
    assert json.loads(done.stdout)["slo"] == {"ttft_s": 1.0, "tpot_s": 0.05}


@pytest.mark.parametrize(("typed", "named"), [("--policy", "--policy"), ("--route_policy",) * 2])
def test_a_setting_is_named_as_it_was_typed(
    typed: str, named: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["foretoken", "simulate", *SMALL, typed, "best"])
    assert run(cli) == 2
    problem = f"foretoken: {named.replace('_', '-')} best is unknown; use one of foretoken"
    assert capsys.readouterr().err.splitlines()[-1].startswith(problem)


def test_turns_of_a_session_that_was_refused_are_said_to_be_given_up(tmp_path: Path):
    file = tmp_path / "some.jsonl"
    turn = '{"new": 60000, "reply": 4}'
    lines = [f'{{"id": "{i}", "start": 0, "turns": [{turn}, {turn}, {turn}]}}' for i in range(9)]
    file.write_text("\n".join(lines))
    flags = ["simulate", "--workload", str(file), "--format", "sessions", "--max-context", "121000"]
    flags += ["--max-queue-size", "1", "--prefill-workers", "0"]
    done = CliRunner().invoke(cli, [*flags, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert 0 < found["finished"] < found["turns"]
    assert found["turns"] + found["given_up"] == 18
    assert found["failed"] == {"queue_full": found["turns"] - found["finished"]}
    told = CliRunner().invoke(cli, flags, catch_exceptions=False).stdout
    assert f"failed, queue_full: {found['failed']['queue_full']} turns" in told
    assert f"not sent, because a turn before them failed: {found['given_up']} turns" in told


def test_what_was_left_out_is_said(tmp_path: Path):
    file = tmp_path / "some.jsonl"
    good = '{"id": "a", "start": 0, "turns": [{"new": 8, "reply": 4}]}'
    file.write_text(good + "\nnot json\n")
    flags = ["simulate", "--workload", str(file), "--format", "sessions", "--skip-bad"]
    done = CliRunner().invoke(cli, flags, catch_exceptions=False)
    assert "1 turns, 1 finished" in done.stdout
    assert "left out: 1 x " in done.stdout
