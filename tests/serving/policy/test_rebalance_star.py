"""The reconstruction of STAR's rescheduling (papers.md 4.5) in numbers worked out by hand.

Steps cost by the token alone here, so that step times are its loads N, to a factor.
"""

from dataclasses import replace

import numpy as np
import pytest

from serving.costs.costs import Link, StepModel
from serving.policy.rebalance import RebalanceConfig, overloaded
from serving.policy.rebalance_effects import effects, score, start
from serving.policy.rebalance_load import predict, steps_per_point
from tests.serving.policy.rebalance_views import EAGER, view

A_SECOND_A_TOKEN = StepModel(0.0, 0.0, 1.0)
STAR = RebalanceConfig(horizon_steps=512)


def tokens(*workers, **changes):
    """Workers "a", "b", ... with these rows, whose load is their tokens."""
    return view(*workers, **{"step_models": (A_SECOND_A_TOKEN,) * len(workers), **changes})


def test_a_point_of_the_grid_weighs_its_spacing_and_half_as_much_at_the_horizon():
    # Points 0, 64 and 256 of 512 steps stand for 32, 128 and 352 of them.
    assert steps_per_point(np.array([0.0, 64.0, 256.0]), 512.0).tolist() == [32.0, 128.0, 352.0]
    raw = np.array([32 * 1.0, 128 * 0.5**0.125, 352 * 0.5**0.5])
    loads = predict(tokens([100], [100]), STAR)
    assert loads.weights.tolist() == pytest.approx((raw / raw.sum()).tolist())


def test_a_load_is_what_rows_hold_times_the_chance_that_they_still_run():
    loads = predict(tokens([(100, 1.0, 0.5, 0.25), 40], []), STAR)
    # (n + k) S(k) of both rows, at 0, 64 and 256 steps.
    assert loads.step_s[0].tolist() == [100 + 40, 82 + 104, 89 + 296]
    assert loads.load_s[0] == pytest.approx(float(loads.step_s[0] @ loads.weights))
    # (n + k)^2 S (1 - S) of the row that may end.
    assert loads.held_noise[0].tolist() == [0, 164**2 / 4, 356**2 * 3 / 16]


def test_the_variance_falls_by_two_over_n_times_x_and_what_the_gap_exceeds_it_by():
    # n dV = 2 x (N_d - N_s + x): of 900 and 100 a row of 300 leaves 600 and 400.
    found = tokens([600, 300], [100])
    now_only = replace(EAGER, horizon_steps=32)
    loads = predict(found, now_only)
    balance = start(loads, found.may_send, found.may_receive)
    change = effects(loads, balance, np.array([1]), np.array([1])).variance[0]
    assert score(loads, balance).variance == pytest.approx(400**2)
    assert change - 400**2 == pytest.approx(300 * (100 - 900 + 300))


@pytest.mark.parametrize(
    ("length", "was_over", "over"),
    [(1160, "", "a"), (1140, "", ""), (1140, "a", "a"), (1040, "a", "")],
)
def test_over_loaded_begins_at_115_and_ends_at_105_percent_of_the_mean(length, was_over, over):
    rest = (3000 - length) / 2
    found = tokens([length], [rest], [rest], was_over=frozenset(was_over))
    present = replace(STAR, horizon_steps=32)
    assert overloaded(found, present) == set(over)


@pytest.mark.parametrize(("payback", "repays"), [(2.9, True), (3.1, False)])
def test_what_is_left_of_a_row_repays_its_move_so_many_times(payback: float, repays: bool):
    # 1,000 tokens of 1,024 bytes take 0.05 + 0.95 s. Half of 6 steps' chance of a second each: 3 s.
    link = Link(0.05, 1024_000 / 0.95)
    found = tokens(
        [(1000, 0.5, 0.5, 0.5)],
        [],
        step_models=(StepModel(1.0, 0.0, 0.0),) * 2,
        link=link,
    )
    loads = predict(found, RebalanceConfig(horizon_steps=6, payback=payback))
    assert loads.candidate.tolist() == [repays]


def test_memory_is_looked_at_so_many_deviations_above_the_mean_and_below_a_watermark():
    # At 64 steps: 82 tokens and a deviation of 82; 1.3 of these on top make 188.6 of 190.
    row = (100, 1.0, 0.5, 0.0)
    for capacity, excess in ((200.0, 0.0), (198.0, (82 + 1.3 * 82 - 0.95 * 198) / 198)):
        loads = predict(tokens([row], [], capacity=np.full(2, capacity)), STAR)
        found = loads.excess(loads.held, loads.held_noise, np.arange(2))
        assert found.tolist() == pytest.approx([excess, 0.0])
