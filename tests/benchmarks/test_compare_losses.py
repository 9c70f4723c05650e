"""Why a turn was late under one policy and in time under another, from fates made by hand."""

from collections.abc import Mapping
from typing import Any

import pytest

from benchmarks import compare_losses
from benchmarks.compare_losses import cause, compare
from benchmarks.comparison import Cell
from serving.messages import TurnId
from serving.sim.measure import COMPLETED, TurnRecord


def fate(**changes: Any) -> Mapping[str, Any]:
    same = {
        "ttft": 1000.0,
        "missed_by": [0.0, 0.0],
        "computed": 1000,
        "older": 0,
        "younger": 0,
        "rows": 0,
        "room_after": 0.0,
        "moves": [],
    }
    return same | changes


LATE = {"ttft": 2500.0, "missed_by": [500.0, 0.0]}


@pytest.mark.parametrize(
    ("late", "why"),
    [
        (LATE, "TTFT, alone"),
        (LATE | {"rows": 3}, "TTFT, beside rows"),
        (LATE | {"older": 51, "rows": 3}, "TTFT, behind others"),
        (LATE | {"older": 49}, "TTFT, alone"),
        (LATE | {"older": 100, "younger": 101}, "TTFT, passed over"),
        (LATE | {"computed": 1500, "older": 400}, "TTFT, history gone"),
        (LATE | {"room_after": 751.0, "older": 900}, "TTFT, no room"),
        (LATE | {"room_after": 749.0, "older": 900}, "TTFT, behind others"),
        ({"missed_by": [0.0, 3.0]}, "TPOT"),
        ({"missed_by": [0.0, 3.0], "moves": [["spread", "moved", 9.0]]}, "TPOT, moved"),
    ],
)
def test_the_cause_is_what_most_of_the_difference_is(late: dict[str, Any], why: str):
    assert cause(fate(**late), fate()) == why


def test_a_turn_without_a_token_has_no_other_cause():
    assert cause({"outcome": "Failed"}, fate()) == "no token"


def record(name: str, ttft_s: float) -> TurnRecord:
    return TurnRecord(
        TurnId(name), 0, 10, 0.0, first=ttft_s, last=ttft_s, tokens=1, outcome=COMPLETED
    )


def test_only_turns_that_are_late_under_one_of_both_are_told(monkeypatch: pytest.MonkeyPatch):
    """Mooncake's first tokens may take two seconds."""
    monkeypatch.setattr(
        compare_losses, "fate", lambda run, turn, source: fate(**({} if run[1] else LATE))
    )
    ours = {name: record(name, s) for name, s in (("a", 3.0), ("b", 3.0), ("c", 1.0), ("d", 1.0))}
    theirs = {name: record(name, s) for name, s in (("a", 3.0), ("b", 1.0), ("c", 1.0), ("d", 3.0))}
    found = compare(Cell("4", "mooncake", 1.0, "foretoken", 10), (ours, {}), "ampd", (theirs, {}))
    assert found["turns"] == 4
    assert found["late"] == {"foretoken": 2, "ampd": 2}
    assert found["late_under_both"] == 1
    assert [(one["turn"], one["late_under"]) for one in found["differ"]] == [
        ("b", "foretoken"),
        ("d", "ampd"),
    ]
    assert found["causes"] == [["ampd", "TTFT, alone", 1], ["foretoken", "TTFT, alone", 1]]


def test_of_many_turns_some_are_told_and_all_are_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        compare_losses, "fate", lambda run, turn, source: fate(**({} if run[1] else LATE))
    )
    late = {f"{i}": record(f"{i}", 3.0) for i in range(150)}
    met = {f"{i}": record(f"{i}", 1.0) for i in range(150)}
    found = compare(Cell("4", "mooncake", 1.0, "foretoken", 10), (late, {}), "ampd", (met, {}))
    assert len(found["differ"]) == 100
    assert found["causes"] == [["foretoken", "TTFT, alone", 150]]
