"""Validation: measured and simulated side by side, never on what was fitted; and as a command."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from serving.cli import cli
from serving.sim.sweep import read_sweep
from serving.sim.validation import text_of, validate, workload_of
from serving.workload.session import WorkloadError
from tests.serving.sim.test_calibration import ADDED, runs
from tests.serving.sim.test_sweep import written

LOW = {"qps": "0.5", "conversations": "2"}
HIGH = {"qps": "2", "conversations": "4"}


def test_one_file_is_split_by_rate(tmp_path: Path):
    found = read_sweep(written(tmp_path, LOW, {**LOW, "turn2": "tiny"}, HIGH))
    said = validate(found, found, seeds=1)
    assert said["calibrated_on"] == {"runs": 2, "rates": [0.5]}
    assert said["reported_on"] == {"runs": 1, "rates": [2.0]}
    (row,) = said["rows"]
    assert (row["rate"], row["ttft2_s"]["measured"]) == (2.0, 0.04)
    error = abs(row["tpot2_s"]["simulated"] / row["tpot2_s"]["measured"] - 1)
    assert said["errors"]["tpot2"]["median"] == pytest.approx(error)
    assert "calibrated on 2 runs at 0.5" in text_of(said)


def test_two_files_are_what_they_are_named(tmp_path: Path):
    said = validate(runs(0.5, ADDED), read_sweep(written(tmp_path, HIGH)), seeds=1)
    assert said["calibrated_on"]["runs"] == len(runs(0.5, ADDED))
    assert said["reported_on"]["runs"] == 1


def test_nothing_to_report_on_is_an_error(tmp_path: Path):
    found = read_sweep(written(tmp_path, LOW))
    with pytest.raises(WorkloadError, match="no stable run of a pure worker mix is left"):
        validate(found, found, seeds=1)


def test_a_run_is_simulated_as_it_was_made():
    (run,) = [r for r in runs(2.0, ADDED) if r.config == "2P_2D" and r.classes[1] == "tiny"][:1]
    made = workload_of(run, ADDED, seed=3)
    assert len(made.sessions) == run.conversations
    assert all(0 <= session.start_s < 10 for session in made.sessions)
    first, second = made.sessions[0].turns
    assert (first.new, first.reply) == (192, 128)  # 1.5 tokens sent for a nominal one
    # Three quarters of the reply come back as other tokens.
    assert (second.keep, second.new, second.reply) == (192 + 32, 96 + 24, 32)
    assert made == workload_of(run, ADDED, seed=3)
    assert made != workload_of(run, ADDED, seed=4)


def test_the_command_prints_one_object(tmp_path: Path):
    file = str(written(tmp_path, LOW, {**LOW, "turn2": "tiny"}, HIGH))
    arguments = ["validate-simulator", "--calibrate", file, "--measurements", file, "--json"]
    done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["errors"].keys() == {"ttft2", "tpot2"}
