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


def test_a_skipped_part_says_why():
    assert "skipped: no torch here" in rendered("transformers", {"skipped": "no torch here"})


def test_the_kernels_high_water_mark_is_in_kib():
    assert peak_in_status("Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t 1 kB\n") == 2 * 2**20
    assert peak_in_status("Name:\tx\n") is None
