"""The table: a goal is met or missed by its figure, and what was skipped says so."""

import pytest

from benchmarks.machine import Machine
from benchmarks.memory_sampler import peak_in_status
from benchmarks.results import PartResult, Results
from benchmarks.table import render

MACHINE = Machine(
    cpu="Chip 9", cores=2, ram_gib=4.0, system="Linux x", python="3.11.1", jax="1", jaxlib="1"
)


def rendered(name: str, figures: dict) -> str:
    return render(Results(MACHINE, {name: PartResult("c1", "2026-01-02", 1.5, 0.1, 2, figures)}))


@pytest.mark.parametrize(("gib", "verdict"), [(1.9, "met"), (2.0, "met"), (2.1, "MISSED")])
def test_memory_is_to_stay_below_its_goal(gib: float, verdict: str):
    table = rendered("memory", {"peak_bytes": gib * 2**30})
    assert table.splitlines()[-1].split() == (
        ["peak", "resident", "memory", f"{gib:.2f}", "GiB", "<=", "2", verdict]
    )


def served_cell(share: float) -> dict:
    mode = {
        "tokens_per_s": {"median": 1000},
        "generator_cores": {"median": 0.1},
        "of_raw": {"median": share},
    }
    return {"unstreamed": mode, "streamed": mode}


def test_the_served_share_has_a_goal_at_16_rows_only():
    rows = {"4": served_cell(0.5), "16": served_cell(0.5)}
    table = rendered("served", {"colocated": {"rows": rows}, "split": {"rows": {}}})
    shares = [line.split()[5:] for line in table.splitlines() if "of the raw" in line]
    assert shares == [[], [], [">=", "0.7", "MISSED"], [">=", "0.4", "met"]]


def value(median: float) -> dict:
    return {"median": median, "min": median, "max": median, "repeats": 1}


def verdicts(table: str, goal: str) -> list[str]:
    return [line.split()[-1] for line in table.splitlines() if goal in line]


def test_the_slowest_fleet_of_a_policy_counts_for_its_goal():
    def times(median: float) -> dict:
        return {"median_us": value(median), "p99_us": value(2 * median)}

    fleets = {
        "idle": {"foretoken": times(90), "ppd": times(50)},
        "busy": {"foretoken": times(60), "ppd": times(120)},
    }
    kinds = {"level": {"median_ms": value(3), "worst_ms": value(4)}}
    figures = {
        "route": {"64 workers, profile": fleets},
        "rebalance": {"64 workers, 4096 rows": kinds},
        "order": {"8": times(400)},
    }
    table = rendered("decisions", figures)
    assert verdicts(table, "<= 100") == ["met", "MISSED"]
    assert verdicts(table, "<= 20") == ["met"]
    assert "400 us" in table


@pytest.mark.parametrize(("steps", "verdict"), [(1.9, "met"), (2.1, "MISSED")])
def test_a_move_stops_a_row_for_two_steps_at_most(steps: float, verdict: str):
    cell = {
        "stop_steps": value(steps),
        "stop_s": value(0.02),
        "step_s": value(0.01),
        "took_s": value(0.1),
        "bytes": value(2**20),
    }
    table = rendered("moves", {"neighbours": {"0": {"64": cell}, "8": {"64": cell}}})
    assert verdicts(table, "<= 2") == [verdict] * 2
    assert "100 ms, 1.0 MiB" in table


def test_the_balance_says_what_a_cpu_cannot_show():
    spread = {"mean": value(1), "std": value(0.002), "max_over_mean": value(1.2)}
    gaps = ("itl_p50_s", "itl_p99_s", "tpot_p99_s", "predicted_itl_p99_s")
    cell = {
        **dict.fromkeys(("tokens_per_s", "moves", "moves_failed"), value(4)),
        "moved_bytes": value(2**21),
        **dict.fromkeys(gaps, value(0.03)),
        **dict.fromkeys(("step", "predicted_step", "rows"), spread),
        **dict.fromkeys(("slow_alone", "slow_beside"), value(1.5)),
        "against_none": dict.fromkeys(gaps, value(0.75)),
    }
    table = rendered("balance", {"policies": {"none": cell, "predicted": cell}})
    assert "predicted: served" in table
    assert "2.00 ms, 1.20" in table
    assert "30.0 ms, 0.75" in table
    assert "1.50 / 1.50" in table
    assert "needs two devices" in table


@pytest.mark.parametrize(("share", "verdict"), [(0.029, "met"), (0.031, "MISSED")])
def test_observers_may_take_three_percent(share: float, verdict: str):
    way = {
        "tokens_per_s": value(1000),
        "cpu_us_per_token": value(100),
        "watching_share": value(0.01),
    }
    figures = {
        "clients": 16,
        **dict.fromkeys(("none", "metrics"), way),
        "log": {**way, "watching_share": value(share)},
        "ratios": {
            name: {"tokens_per_s": value(1), "cpu": value(1)} for name in ("metrics", "log")
        },
    }
    assert verdicts(rendered("observers", figures), "<= 3") == ["met", verdict]


def test_a_skipped_part_says_why():
    assert "skipped: no torch here" in rendered("transformers", {"skipped": "no torch here"})


def test_the_kernels_high_water_mark_is_in_kib():
    assert peak_in_status("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n") == 2 * 2**20
    assert peak_in_status("Name:\tx\n") is None
