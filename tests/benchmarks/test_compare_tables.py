"""The comparison's tables, from cells made by hand."""

from benchmarks.compare import goodput, summarise
from benchmarks.compare_tables import losses_of, tables_of
from tests.benchmarks.test_compare import cell

CELLS = summarise(
    [
        cell(1.0, 0.99),
        cell(2.0, 0.5),
        cell(1.0, 0.98, policy="foretoken"),
        cell(2.0, 0.7, policy="foretoken", seed=0),
        cell(2.0, 0.9, policy="foretoken", seed=1),
        cell(2.0, 0.9, policy="foretoken", variant="as it is"),
        cell(2.0, 0.6, policy="foretoken", variant="no moves"),
        cell(3.0, 0.4, cluster="16"),
    ]
)


LOG = {
    "cluster": "4",
    "workload": "mooncake",
    "rate": 1.0,
    "seed": 10,
    "policy": "foretoken",
    "other": "local",
    "late_under_both": 4,
    "causes": [
        ["foretoken", "TTFT, behind others", 2],
        ["foretoken", "TTFT, history gone", 1],
    ],
}


def tables(*logs: dict) -> list[str]:
    return tables_of({"cells": CELLS, "goodput": goodput(CELLS)}, logs).splitlines()


def test_a_load_is_lost_where_another_policy_has_more_in_time():
    ((ours, best),) = losses_of([one for one in CELLS if not one["variant"]])
    assert (ours["rate"], best["policy"]) == (1.0, "local")
    assert "At 1 of 3 loads another policy has more turns in time than foretoken:" in tables()


def test_every_cell_has_a_line_and_the_best_of_a_load_stands_out():
    lines = [line.split(" | ")[:3] for line in tables() if line.endswith(("| 1 |", "| 2 |"))]
    assert lines == [
        ["| 3", "local", "**40.00**"],
        ["| 1", "foretoken", "98.00"],
        ["| 1", "local", "**99.00**"],
        ["| 2", "foretoken", "**80.00 ± 127.1**"],
        ["| 2", "local", "50.00"],
    ]


def test_what_there_is_none_of_is_a_dash():
    (line,) = [line for line in tables() if line.startswith("| 3 |")]
    assert line.split(" | ")[3:5] == ["1.000", "-"]


def test_ablations_stand_beside_what_they_leave_out():
    lines = tables()
    start = lines.index("| setting | in time at 2 |")
    assert lines[start + 2 : start + 4] == ["| as it is | 90.00 |", "| no moves | 60.00 |"]


def test_a_loss_says_what_its_decision_logs_showed():
    (line,) = [line for line in tables(LOG) if "behind others" in line and line.startswith("| 4 ")]
    assert line.endswith("| 1 | 10 | 4 | 3 (2 behind others, 1 history gone) | local: 0 |")


def test_a_log_of_a_load_that_is_not_lost_is_left_out():
    for change in ({"rate": 2.0}, {"other": "ampd"}, {"cluster": "16"}):
        assert tables(LOG | change) == tables()
