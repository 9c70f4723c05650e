"""The comparison's arithmetic: which cells there are, where attainment falls, and what is kept."""

import json
from pathlib import Path

import pytest
from click import Command
from click.testing import CliRunner

from benchmarks.compare import (
    goodput,
    key_of,
    read_rows,
    run_cell,
    summarise,
)
from benchmarks.compare import main as compare_main
from benchmarks.compare_losses import main as losses_main
from benchmarks.comparison import (
    ABLATIONS,
    FIRST_SEED,
    POLICIES,
    SOURCES,
    Cell,
    Source,
    ablations_of,
    cells_of,
    lacking,
)
from serving.policy.routes import ROUTE_POLICIES


def cell(rate: float, attained: float, seed: int = 0, **changes) -> dict:
    spread = {"mean": 1.0, "p50": 1.0, "p90": 1.0, "p99": 2.0}
    row = {
        "cluster": "4",
        "workload": "mooncake",
        "rate": rate,
        "policy": "local",
        "seed": seed,
        "variant": "",
        "slo_attainment": attained,
        "goodput_tps": 5.0,
        "ttft": {"turn1": spread, "later": None},
        "tpot": spread,
        "itl": spread,
        "kv_bytes_moved": 2**30,
        "preemptions": 0,
        "moves": 1,
    }
    return {**row, **changes}


def test_every_policy_that_needs_no_table_is_compared():
    assert set(POLICIES) == set(ROUTE_POLICIES) - {"ppd"}


def test_there_is_one_cell_for_every_choice():
    cells = list(cells_of(["4", "16"], list(SOURCES), POLICIES, 3))
    loads = sum(len(source.rates) for source in SOURCES.values())
    assert len(set(cells)) == len(cells) == 2 * loads * 7 * 3
    assert all(len(source.rates) >= 5 for source in SOURCES.values())


def test_every_ablation_is_run_near_saturation():
    found = list(ablations_of("4", ["azure"]))
    assert len(found) == 2 * len(ABLATIONS)
    assert {one.rate for one in found} == set(SOURCES["azure"].rates[-3:-1])


@pytest.mark.parametrize("source", [s for s in SOURCES.values() if s.part_s is not None])
def test_no_reported_part_of_a_trace_served_to_choose_settings(source: Source):
    for seed in range(FIRST_SEED):
        start_s, seconds = source.window(seed, whole=False)
        assert seconds is not None
        assert 0 <= start_s < start_s + seconds <= source.window(FIRST_SEED, whole=False)[0]


@pytest.mark.parametrize(
    ("attained", "rate", "bound"),
    [
        ({1.0: 0.95, 2.0: 0.85}, 1.5, "at"),
        ({1.0: 0.95, 2.0: 0.99}, 2.0, "above"),
        ({1.0: 0.95, 2.0: 0.9}, 2.0, "above"),
        ({2.0: 0.8, 3.0: 0.7}, 2.0, "below"),  # nothing is known of lower loads
        ({1.0: 0.95, 2.0: 0.85, 3.0: 0.95}, 1.5, "at"),  # the first fall counts
    ],
)
def test_goodput_is_where_attainment_falls_below_nine_tenths(
    attained: dict, rate: float, bound: str
):
    cells = summarise([cell(r, share) for r, share in attained.items()])
    (found,) = goodput(cells)
    assert found["rate"] == pytest.approx(rate)
    assert found["bound"] == bound


def test_seeds_are_put_together_with_their_interval():
    (found,) = summarise([cell(1.0, 0.8, 0), cell(1.0, 0.9, 1)])
    assert found["seeds"] == 2
    assert found["slo_attainment"]["mean"] == pytest.approx(0.85)
    # Student's t of one degree of freedom, by tables 12.706.
    assert found["slo_attainment"]["half_width"] == pytest.approx(12.706 * 0.05, rel=1e-4)
    assert found["ttft_later_mean"] is None
    assert found["kv_gib_moved"]["mean"] == 1.0
    (alone,) = summarise([cell(1.0, 0.8)])
    assert alone["slo_attainment"] == {"mean": 0.8, "half_width": None}


def test_a_run_that_was_cut_short_goes_on(tmp_path: Path):
    file = tmp_path / "cells.jsonl"
    assert read_rows(file) == []
    file.write_text('{"cluster": "4", "workload": "azure", "rate": 6.0, "policy": "local", '
                    '"seed": 0, "variant": ""}\n{"cluster": "4", "wor')  # fmt: skip
    (row,) = read_rows(file)
    assert key_of(row) == Cell("4", "azure", 6.0, "local", 0)


def test_a_cell_is_simulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    lines += [f"2023-11-16 18:15:{10 + i}.0000000,{300 + i},20" for i in range(12)]
    (tmp_path / "tiny.csv").write_text("\n".join(lines))
    split = {"replicas": 0, "pd-delta": 1}
    tiny = Source("tiny.csv", "made up", "azure", 10, 1.0, 0.03, (1.0,) * 5, split)
    monkeypatch.setitem(SOURCES, "tiny", tiny)
    for policy in ("replicas", "pd-delta"):
        row = run_cell(Cell("4", "tiny", 1.0, policy, 0), str(tmp_path), None)
        assert (row["policy"], row["finished"], row["slo_attainment"]) == (policy, 10, 1.0)
        assert (row["kv_bytes_moved"] == 0) == (policy == "replicas")


def test_each_policy_has_a_split_of_its_own():
    for source in SOURCES.values():
        assert source.quarters.keys() == set(ROUTE_POLICIES)
        assert source.quarters["replicas"] == 0
        assert all(0 < n < 4 for p, n in source.quarters.items() if p.startswith("pd-"))


def touch(folder: Path, *workloads: str) -> str:
    for name in workloads:
        (folder / SOURCES[name].file).touch()
    return str(folder)


def test_files_that_a_folder_lacks_are_named_with_their_origin(tmp_path: Path):
    problem = lacking(["azure", "weka", "azure", "mooncake"], touch(tmp_path, "weka"))
    assert problem == (
        f"--traces {tmp_path} has no azure_2023_conv.csv.zst (github.com/Azure/AzurePublicDataset),"
        " mooncake_conversation.jsonl.zst (github.com/kvcache-ai/Mooncake);"
        " docs/workloads.md says how they are made"
    )
    assert lacking(["weka"], str(tmp_path)) is None
    unnamed = lacking(["weka"], None)
    assert unnamed is not None
    assert unnamed.startswith("--traces or FORETOKEN_TRACES must name a folder with weka_claude")


@pytest.mark.parametrize("command", [compare_main, losses_main])
def test_nothing_is_simulated_without_its_trace(command: Command, tmp_path: Path):
    lists = {
        compare_main: ["--workload", "azure", "--cells", str(tmp_path / "made" / "rows.jsonl")],
        losses_main: ["--cell", "4", "azure", "6.0", "10", "foretoken", "replicas"],
    }
    asked = [*lists[command], "--traces", str(tmp_path), "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(command, asked)
    assert done.exit_code == 2
    assert "has no azure_2023_conv.csv.zst (github.com/Azure" in done.stderr
    assert not list(tmp_path.iterdir())


def test_what_is_simulated_already_needs_no_trace(tmp_path: Path):
    rows, out = tmp_path / "rows.jsonl", tmp_path / "out.json"
    wanted = {"workload": "azure", "policy": "replicas", "seed": FIRST_SEED}
    rates = SOURCES["azure"].rates
    rows.write_text("".join(json.dumps(cell(rate, 1.0, **wanted)) + "\n" for rate in rates))
    asked = ["--cluster", "4", "--workload", "azure", "--policy", "replicas", "--seeds", "1"]
    files = ["--no-ablations", "--cells", str(rows), "--out", str(out)]
    done = CliRunner().invoke(compare_main, [*asked, *files], catch_exceptions=False)
    assert done.exit_code == 0
    assert len(json.loads(out.read_text())["cells"]) == len(rates)
