"""Where attainment falls to nine tenths, and that every way is one the simulator knows."""

import json
from pathlib import Path

import pytest

from benchmarks.static_assignment import SERVEGEN, WAYS, goodput, goodputs, known_cells
from serving.cli import cli


def cells(*attained: tuple[float, float]) -> list[dict[str, float]]:
    return [{"rate": rate, "slo_attainment": share} for rate, share in attained]


def test_goodput_lies_in_a_straight_line_between_two_rates():
    assert goodput(cells((2.0, 0.8), (1.0, 1.0))) == pytest.approx(1.5)
    assert goodput(cells((1.0, 1.0), (2.0, 0.9), (3.0, 0.4))) == pytest.approx(2.0)


def test_goodput_of_several_seeds_is_that_of_their_mean():
    two = cells((1.0, 1.0), (2.0, 0.9), (1.0, 0.9), (2.0, 0.8))
    assert goodput(two) == pytest.approx(1.5)


def test_goodput_outside_of_what_was_measured_is_not_made_up():
    assert goodput(cells((1.0, 0.99), (2.0, 0.95))) is None
    assert goodput(cells((1.0, 0.5), (2.0, 0.4))) is None


def test_goodput_is_that_of_each_way_in_each_setting():
    found = [
        {"setting": setting, "way": way, "rate": rate, "slo_attainment": share}
        for setting, way, high in (("a", "static", 1.0), ("a", "head", 2.0), ("b", "head", 4.0))
        for rate, share in ((high, 1.0), (2 * high, 0.8))
    ]
    expected = {"a": {"static": 1.5, "head": 3.0}, "b": {"head": 6.0}}
    assert goodputs(found) == {k: pytest.approx(v) for k, v in expected.items()}


def test_cells_of_other_code_or_another_regime_are_made_anew(tmp_path: Path):
    out = tmp_path / "results.json"
    assert known_cells(out, "servegen", "abc") == []
    document = {"code": "abc", "regime": "servegen", "cells": [{"rate": 1.0}]}
    out.write_text(json.dumps(document))
    assert known_cells(out, "servegen", "abc") == [{"rate": 1.0}]
    assert known_cells(out, "servegen", "abd") == []
    assert known_cells(out, "reasoning", "abc") == []


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_one_that_the_simulator_knows(way: str, capsys):
    small = [flag for flag in SERVEGEN.flags if flag.split("=")[0] not in ("--format", "--limit")]
    made = [
        "--format=synthetic",
        "--limit=2",
        "--session-rate=1",
        "--max-model-len=65536",
        "--json",
    ]
    cli(["simulate", *made, *small, *WAYS[way]], standalone_mode=False)
    assert '"finished": 2' in capsys.readouterr().out
