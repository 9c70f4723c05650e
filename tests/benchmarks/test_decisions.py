"""The decisions part: every size is asked for once a repeat, and times are summarised."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import decisions_child, order_speed
from benchmarks.bench import QUICK, Bench
from benchmarks.costs import COSTS
from benchmarks.parts import decisions
from benchmarks.rebalance_speed import KINDS
from serving.policy.routes import ROUTE_POLICIES

DEMO = Path(__file__).parents[2] / "checkpoints" / "demo"
TIMES = {"median_us": 7.0, "p99_us": 9.0, "calls": 3}


class Child:
    """Answers with made-up times, and remembers the questions."""

    def __init__(self) -> None:
        self.asked: list[dict] = []

    def ask(self, question: dict) -> dict:
        self.asked.append(question)
        match question["what"]:
            case "route":
                return {"idle": {"foretoken": TIMES}, "busy": {"foretoken": TIMES}}
            case "rebalance":
                return {"kinds": {"level": {"cpu_median_ms": 3.0, "cpu_worst_ms": 5.0}}}
            case _:
                return TIMES

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_every_decision_is_measured_once_a_repeat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    child = Child()
    monkeypatch.setattr(Bench, "child", lambda *_: child)
    bench = Bench(
        root=tmp_path,
        checkpoint=tmp_path,
        cache=tmp_path,
        scale=replace(QUICK, repeats=2),
        torch_python=None,
        say=lambda _: None,
    )
    figures = decisions.measure(bench)
    distinct = {json.dumps(question) for question in child.asked}
    assert len(child.asked) == 2 * len(distinct) == 2 * (2 * 2 + 2 + 3)
    route = figures["route"]["64 workers, profile"]["busy"]["foretoken"]
    assert route["median_us"] == {"median": 7.0, "min": 7.0, "max": 7.0, "repeats": 2}
    level = figures["rebalance"]["64 workers, 4096 rows"]["level"]
    assert (level["median_ms"]["median"], level["worst_ms"]["median"]) == (3.0, 5.0)
    assert figures["order"]["8"]["p99_us"]["repeats"] == 2


def test_each_question_is_answered_for_what_it_names():
    route = {"what": "route", "workers": 3, "costs": "profile", "seconds": 0.0}
    assert set(decisions_child.answer(DEMO, route)["busy"]) == set(ROUTE_POLICIES)
    rebalance = {"what": "rebalance", "workers": 4, "rows": 40}
    assert set(decisions_child.answer(DEMO, rebalance)["kinds"]) == set(KINDS)
    with pytest.raises(KeyError, match="lunch"):
        decisions_child.answer(DEMO, {"what": "lunch"})


def test_a_profile_out_of_the_roofline_says_on_its_points_what_the_roofline_says():
    roofline, profile = (make(DEMO) for make in COSTS.values())
    assert profile.decode(64, 64).seconds == pytest.approx(roofline.decode(64, 64).seconds)
    assert profile.prefill(256, 0).seconds == pytest.approx(roofline.prefill(256, 0).seconds)


@pytest.mark.parametrize("size", [3, 8])
def test_windows_to_order_cannot_all_be_on_time(size: int, monkeypatch: pytest.MonkeyPatch):
    seen = []

    def on_time(window, now, *, max_passes):
        seen.append(window)

    monkeypatch.setattr(order_speed, "on_time", on_time)
    order_speed.measure(size, 0.0)
    assert len({tuple(window) for window in seen}) > 1
    for window in seen:
        assert len(window) == size
        assert window[0].duration_s > window[0].deadline
