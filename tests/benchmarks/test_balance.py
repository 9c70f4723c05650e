"""How far workers lie apart, and what clients see: means within a second, gaps of replies."""

import pytest

from benchmarks.parts.balance import COMPARED, PLAIN, SPREADS, _figures
from benchmarks.spread import Timed, client_figures, company, predicted_itl, spread
from serving.messages import WorkerId

A, B = WorkerId("a"), WorkerId("b")


def test_the_spread_is_that_of_the_workers_means_within_a_second():
    values = [(0.1, A, 1.0), (0.2, A, 3.0), (0.9, B, 4.0), (1.5, A, 2.0), (1.6, B, 2.0)]
    found = spread(values)
    # Second 0: means 2 and 4, so 3 with deviation 1 and 4/3 at most; second 1: level.
    assert found["mean"] == pytest.approx(2.5)
    assert found["std"] == pytest.approx(0.5)
    assert found["max_over_mean"] == pytest.approx((4 / 3 + 1) / 2)


def test_a_worker_that_is_silent_beside_another_one_has_nothing_to_do():
    found = spread([(0.1, A, 1.0), (0.2, B, 1.0), (5.0, A, 9.0)])
    # Second 5: 9 and 0, so 4.5 with deviation 4.5; seconds in which nobody spoke do not count.
    assert found["mean"] == pytest.approx((1.0 + 4.5) / 2)
    assert found["std"] == pytest.approx(4.5 / 2)
    assert found["max_over_mean"] == pytest.approx((1.0 + 2.0) / 2)


def test_every_row_of_a_step_counts_as_a_predicted_gap():
    steps = [Timed(0.0, A, 3, 0.002, 0.5), Timed(0.0, B, 1, 0.001, 0.5), Timed(0.0, B, 0, 9.0, 9.0)]
    assert predicted_itl(steps) == {
        "predicted_itl_p50_s": 0.002,
        "predicted_itl_p99_s": pytest.approx(0.002),
    }


def test_a_workers_steps_are_slower_in_company():
    steps = [
        Timed(0.1, A, 2, 1.0, 1.5),
        Timed(1.1, A, 2, 1.0, 2.5),
        Timed(1.2, B, 1, 1.0, 3.5),
        Timed(0.3, B, 0, 1.0, 9.0),  # a prompt alone: no row
    ]
    assert company(steps) == {"alone_share": 0.5, "slow_alone": 1.5, "slow_beside": 3.0}
    assert company(steps[1:3])["slow_alone"] == 0.0


def test_clients_see_gaps_and_each_reply_its_mean():
    figures = client_figures({"x": [0.0, 0.1, 0.4], "y": [1.0], "z": [1.0, 2.0], "lost": []})
    assert figures["tokens"] == 6
    assert figures["tokens_per_s"] == pytest.approx(6 / 2.0)
    assert figures["itl_p50_s"] == pytest.approx(0.3)
    assert figures["tpot_p50_s"] == pytest.approx((0.2 + 1.0) / 2)


def run(factor: float) -> dict:
    spreads = dict.fromkeys(("mean", "std", "max_over_mean"), factor)
    return {**dict.fromkeys(PLAIN, factor), **dict.fromkeys(SPREADS, spreads)}


def test_policies_are_compared_seed_by_seed():
    # Over seeds both have the same median; within each seed, one of them takes half.
    found = _figures([run(1.0), run(2.0)], [run(2.0), run(4.0)])
    for name in (*COMPARED, "step_std", "rows_std"):
        against = found["against_none"][name]
        assert (against["min"], against["max"]) == (0.5, 0.5)
    assert found["moves"]["median"] == 1.5
