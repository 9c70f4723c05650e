"""Where attainment falls to nine tenths, and that every way is one the simulator knows."""

import pytest

from benchmarks.static_assignment import COMMON, WAYS, goodput
from serving.cli import cli


def cells(*attained: tuple[float, float]) -> list[dict[str, float]]:
    return [{"rate": rate, "slo_attainment": share} for rate, share in attained]


def test_goodput_lies_in_a_straight_line_between_two_rates():
    assert goodput(cells((2.0, 0.8), (1.0, 1.0))) == pytest.approx(1.5)
    assert goodput(cells((1.0, 1.0), (2.0, 0.9), (3.0, 0.4))) == pytest.approx(2.0)


def test_goodput_outside_of_what_was_measured_is_not_made_up():
    assert goodput(cells((1.0, 0.99), (2.0, 0.95))) is None
    assert goodput(cells((1.0, 0.5), (2.0, 0.4))) is None


@pytest.mark.parametrize("way", WAYS)
def test_every_way_is_one_that_the_simulator_knows(way: str, capsys):
    small = [flag for flag in COMMON if flag.split("=")[0] not in ("--format", "--limit")]
    made = ["--format=synthetic", "--limit=2", "--session-rate=1", "--max-model-len=65536"]
    cli(["simulate", *made, *small, *WAYS[way]], standalone_mode=False)
    assert '"finished": 2' in capsys.readouterr().out
