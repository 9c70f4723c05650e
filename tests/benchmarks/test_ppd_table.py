"""The sweep's rows become the cells that PPD's rule reads."""

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.ppd_table import build, main
from serving.policy.ppd_table import Cell, CellKey, PpdTable


def row(config: str, *, ttft: float, tpot: float, success: float = 100.0, qps: float = 2.0):
    return {
        "config": config,
        "turn1": "small",
        "turn2": "tiny",
        "qps": str(qps),
        "success_rate": str(success),
        "turn2_ttft_avg_ms": str(ttft),
        "turn2_ttft_p50_ms": str(ttft / 2),
        "turn2_tpot_avg_ms": str(tpot),
        "turn2_tpot_p50_ms": str(tpot / 2),
    }


ROWS = [row("far", ttft=100, tpot=8), row("near", ttft=40, tpot=10), row("other", ttft=1, tpot=1)]
KEY = CellKey("small", "tiny", 4.0)


def test_a_cell_pairs_the_two_configurations_in_seconds_and_turns():
    assert build(ROWS, "far", "near", "avg").cells == {KEY: Cell(0.1, 0.04, 0.008, 0.01)}


def test_another_statistic_can_be_chosen():
    assert build(ROWS, "far", "near", "p50").cells[KEY].ttft_remote_s == 0.05


def test_a_run_that_lost_requests_is_no_measurement():
    failed = row("near", ttft=1, tpot=1, success=97.5, qps=6)
    table = build([*ROWS, failed, row("far", ttft=1, tpot=1, qps=6)], "far", "near", "avg")
    assert set(table.cells) == {KEY}


def test_a_configuration_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="3P_9D"):
        build(ROWS, "far", "3P_9D", "avg")


def written(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    path = tmp_path / "sweep.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_command_writes_a_table_that_the_policy_can_read(tmp_path: Path):
    out = tmp_path / "table.json"
    arguments = [str(written(tmp_path, ROWS)), "--pair", "far:near", "--out", str(out)]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    assert PpdTable.parse(json.loads(out.read_text())) == build(ROWS, "far", "near", "avg")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [([{"config": "far"}], "lacks a column"), (ROWS[:1], "no usable row of configuration near")],
)
def test_the_command_says_in_one_line_what_a_file_lacks(tmp_path: Path, rows, problem: str):
    out = tmp_path / "table.json"
    arguments = [str(written(tmp_path, rows)), "--pair", "far:near", "--out", str(out)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 1
    assert problem in done.output
    assert not out.exists()
