"""The published sweep's columns: which runs count, and what is wrong with others."""

from pathlib import Path

import pytest

from serving.sim.sweep import Mix, read_sweep
from serving.workload.session import WorkloadError

HEADER = (
    "config,turn1,turn2,qps,success_rate,conversations,turn1_ttft_p50_ms,turn2_ttft_p50_ms,"
    "turn2_tpot_avg_ms"
)
ROW = {
    "config": "2P_2pD",
    "turn1": "small",
    "turn2": "mid_paste",
    "qps": "2",
    "success_rate": "100.0",
    "conversations": "20",
    "turn1_ttft_p50_ms": "100",
    "turn2_ttft_p50_ms": "40",
    "turn2_tpot_avg_ms": "8",
}


def written(path: Path, *rows: dict[str, str]) -> Path:
    lines = [HEADER, *(",".join({**ROW, **row}.values()) for row in rows)]
    file = path / "sweep.csv"
    file.write_text("\n".join(lines) + "\n")
    return file


def test_a_run_is_what_its_row_says(tmp_path: Path):
    (run,) = read_sweep(written(tmp_path, {}))
    assert (run.config, run.mix) == ("2P_2pD", Mix(2, 2, local=True))
    assert (run.first, run.second) == ((128, 128), (256, 64))
    assert (run.rate, run.conversations) == (2.0, 20)
    assert (run.ttft1_s, run.ttft2_s, run.tpot2_s) == (0.1, 0.04, 0.008)


@pytest.mark.parametrize(
    ("config", "mix"),
    [
        ("4R", Mix(0, 4, local=True)),
        ("1P_3D", Mix(1, 3, local=False)),
        ("3P_1pD", Mix(3, 1, local=True)),
        ("1R_1P_2D", None),
        ("2P_1D_1pD", None),
    ],
)
def test_mixes_of_one_kind_count(tmp_path: Path, config: str, mix: Mix | None):
    found = read_sweep(written(tmp_path, {"config": config}))
    assert [run.mix for run in found] == ([] if mix is None else [mix])


@pytest.mark.parametrize(
    "change", [{"success_rate": "99.3"}, {"conversations": "51"}, {"conversations": "0"}]
)
def test_runs_that_are_not_stable_are_left_out(tmp_path: Path, change: dict[str, str]):
    assert len(read_sweep(written(tmp_path, change, {}))) == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"qps": "fast"}, r"sweep\.csv:3: qps is 'fast', not a number"),
        ({"turn2_tpot_avg_ms": "-1"}, r"sweep\.csv:3: turn2_tpot_avg_ms is -1"),
        ({"turn2_tpot_avg_ms": "inf"}, r"sweep\.csv:3: turn2_tpot_avg_ms is inf"),
        ({"turn1": "tiny"}, r"sweep\.csv:3: unknown class tiny"),
        ({"config": "4R,5R"}, r"sweep\.csv:3: 10 fields, not 9"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, change: dict[str, str], problem: str):
    with pytest.raises(WorkloadError, match=problem):
        read_sweep(written(tmp_path, {}, change))


def test_another_file_is_refused(tmp_path: Path):
    file = tmp_path / "other.csv"
    file.write_text("a,b\n1,2\n")
    with pytest.raises(WorkloadError, match=r"other\.csv:1: the column config is missing"):
        read_sweep(file)
