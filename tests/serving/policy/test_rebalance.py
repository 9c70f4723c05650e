from dataclasses import replace

import numpy as np
import pytest

from benchmarks import rebalance_speed
from serving.costs.costs import Link, StepModel
from serving.policy.rebalance import (
    REBALANCE_POLICIES,
    RebalanceConfig,
    current,
    none,
    overloaded,
    predicted,
    present,
)
from tests.serving.policy.rebalance_views import EAGER, view

NOW = replace(EAGER, horizon_steps=32)
"""So near a horizon that no row grows: load is the sum of lengths."""


def ends_soon(kv_len):
    """A row that is gone at the next point of the grid."""
    return (kv_len, 1.0, 0.0, 0.0)


def chosen(found, policy=predicted, config=NOW):
    """Moves as (kv_len, source, destination, reason)."""
    moves = policy(found, config)
    return [(int(found.kv_len[m.row]), m.source, m.to, m.reason) for m in moves]


# ---- what is chosen ------------------------------------------------------------------------------


def test_the_row_that_levels_the_worst_worker_moves():
    assert chosen(view([300, 200, 100], [100])) == [(200, "a", "b", "worst_step")]


def test_the_gain_is_the_fall_of_the_worst_step_time():
    (move,) = predicted(view([300, 200, 100], [100]), NOW)
    assert move.gain_s == pytest.approx(200 * 2.0**-20)


def test_the_destination_is_the_one_that_stays_lowest():
    assert chosen(view([500, 200], [150], [100])) == [(200, "a", "c", "worst_step")]


def test_where_no_move_lowers_the_worst_the_spread_falls():
    assert chosen(view([1000], [800, 150], [100])) == [(150, "b", "c", "spread")]


def test_level_workers_keep_their_rows():
    assert chosen(view([300, 200], [200, 300])) == []


def test_a_pair_may_end_level_but_not_the_other_way_round():
    assert chosen(view([200, 200], [])) == [(200, "a", "b", "worst_step")]
    assert chosen(view([200], [])) == []


def test_predicted_looks_past_a_long_row_that_is_about_to_end():
    full_now = view([ends_soon(500), 20], [250, 170, 50])
    assert chosen(full_now, policy=current, config=EAGER) == [(20, "a", "b", "worst_step")]
    assert chosen(full_now, config=EAGER)[0][1:3] == ("b", "a")


def test_a_worker_that_is_level_now_but_not_later_sends_a_row():
    later = view([500, 300], [ends_soon(400), ends_soon(400)])
    assert chosen(later, policy=current, config=EAGER) == []
    assert chosen(later, config=EAGER) == [(300, "a", "b", "worst_step")]


def test_rows_cost_as_well_as_tokens():
    by_row = (StepModel(0.0, 1.0, 0.0),) * 2
    many_short = view([1, 2, 3, 4], [4000, 4001], step_models=by_row)
    assert chosen(many_short)[0][1:3] == ("a", "b")


def test_a_slower_worker_carries_less():
    models = (StepModel(0.0, 0.0, 4.0), StepModel(0.0, 0.0, 1.0))
    assert chosen(view([300, 200], [500], step_models=models))[0][1:3] == ("a", "b")


def test_ties_go_to_the_smaller_ids():
    assert chosen(view([200, 100], [], []))[0][1:3] == ("a", "b")


def test_several_moves_share_no_worker():
    found = view([500, 300, 200], [450, 320, 100], [100], [130])
    moves = chosen(found, config=replace(NOW, max_moves=2))
    assert {source for _, source, _, _ in moves} == {"a", "b"}
    assert {to for _, _, to, _ in moves} == {"c", "d"}


def test_all_sets_are_compared_where_they_are_few():
    """Move by move, the best first move takes the destination that the second needs."""
    found = view([500, 300, 210], [450, 320, 110], [100], [130])
    two = replace(NOW, max_moves=2)

    def worst_after(config):
        load = {"a": 1010, "b": 880, "c": 100, "d": 130}
        for length, source, to, _ in chosen(found, config=config):
            load[source], load[to] = load[source] - length, load[to] + length
        return sorted(load.values())[::-1]

    assert worst_after(two) < worst_after(replace(two, exact_sets=0))


# ---- what forbids a move -------------------------------------------------------------------------

HELPFUL = {"a": [300, 200, 100], "b": [100]}


def helpful(**changes):
    return view(*HELPFUL.values(), **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"movable": np.zeros(4, np.bool_)},
        {"may_send": np.array([False, True])},
        {"may_receive": np.array([True, False])},
        {"link": Link(latency_s=1e3, bytes_per_s=1e12)},
        {"link": Link(latency_s=0.0, bytes_per_s=1.0)},
        {"capacity": np.array([1e9, 150.0])},
        {"capacity": np.array([1e9, 5e3]), "pinned": np.array([0.0, 4.9e3])},
    ],
    ids=["pinned", "no_sender", "no_receiver", "latency", "bandwidth", "full", "held"],
)
def test_nothing_moves_where_it_must_not(changes):
    assert chosen(helpful()) != []
    assert chosen(helpful(**changes)) == []


@pytest.mark.parametrize("exact_sets", [0, 4096])
def test_the_worst_step_time_is_not_raised_even_for_memory(exact_sets):
    """Both of `a`'s rows relieve it, and would make `b` or `d` the worst."""
    capacity = np.array([600.0, 1e9, 1e9, 1e9])
    found = view([500, 400], [950], [1000], [940], capacity=capacity)
    assert chosen(found, config=replace(NOW, max_moves=2, exact_sets=exact_sets)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"th_in": 0.8},
        {"min_gain": 0.97},
        {"payback": 1e6},
        {"watermark": 0.9999999},
        {"max_moves": 0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_the_thresholds_hold_a_move_back(changes):
    slow = {"link": Link(1e-6, 1e12)}
    assert chosen(helpful(**slow)) != []
    assert chosen(helpful(**slow), config=replace(NOW, **changes)) == []


def test_a_worker_near_the_mean_takes_nothing_while_another_is_under_loaded():
    found = view([450, 100], [300], [190], may_receive=np.array([True, True, False]))
    assert chosen(found) == [(100, "a", "b", "worst_step")]
    assert chosen(found, config=replace(NOW, th_under=0.2)) == []


def test_a_row_that_is_about_to_end_does_not_repay():
    found = view([ends_soon(2000), ends_soon(900), 100, 90], [], link=Link(5e-2, 1e12))
    assert chosen(found, config=replace(EAGER, payback=0)) == [(2000, "a", "b", "worst_step")]
    assert chosen(found, config=replace(EAGER, payback=3)) == [(100, "a", "b", "worst_step")]


@pytest.mark.parametrize(
    ("blank", "share", "moves"),
    [(0, 0.99, True), (0, 1.01, False), (500, 1.98, True), (500, 2.02, False), (1000, 1e9, True)],
)
def test_a_move_repays_what_it_evicts_at_its_destination(blank: float, share: float, moves: bool):
    """Rows that run on: 2,590 tokens at `a`, and by 3 a step more, at 32, 128 and 352 steps."""
    remaining_s = (2590 * 512 + 3 * (64 * 128 + 256 * 352)) * 2.0**-20
    found = view(
        [1000, 900, 690],
        [100],
        movable=np.array([True, False, False, False]),
        blank=np.full(2, blank),
        evict_s=np.full(2, share * remaining_s / 3 / 1000),
    )
    assert bool(chosen(found, config=replace(EAGER, payback=3))) == moves


@pytest.mark.parametrize(
    ("targets", "moves"),
    [
        ([2.0, np.nan], True),
        ([2.1, np.nan], False),
        # Those of the destination's rows do not count.
        ([2.0, 9.0], True),
        ([np.nan, 9.0], True),
    ],
)
def test_a_row_moves_only_where_a_target_is_at_stake(targets, moves: bool):
    """Steps of `a` take 2,000 tokens' time at the last point: half of the target, or less."""
    step_s = (1000 + 256 + 488 + 256) * 2.0**-20
    found = view([1000, 488], [], target_s=np.array(targets) * step_s * (1 - 1e-6))
    assert bool(chosen(found, config=EAGER)) == moves


def test_a_worker_short_of_memory_sends_a_row_whatever_it_evicts_and_though_it_is_fast():
    found = view(
        [1000, 900],
        [],
        capacity=np.array([1500.0, 1e9]),
        evict_s=np.full(2, 1e9),
        target_s=np.full(2, 1e9),
    )
    assert [move[3] for move in chosen(found)] == ["memory"]


def test_the_destination_must_bear_the_doubt_as_well_as_the_mean():
    """Half a chance of each row: a mean of 400 and a deviation of about 283 tokens at `b`."""
    doubtful = (400, 1.0, 0.5, 0.5)
    found = view([400, 390, 380], [doubtful], capacity=np.array([1e9, 1.7e3]))
    assert chosen(found, config=replace(EAGER, z=0.0)) != []
    assert chosen(found, config=replace(EAGER, z=4.0)) == []


# ---- hysteresis ----------------------------------------------------------------------------------


def test_a_worker_stays_over_loaded_down_to_the_lower_threshold():
    config = replace(EAGER, th_in=0.5, th_out=0.1)
    assert overloaded(helpful(), replace(config, th_in=0.3)) == {"a"}
    slightly = view([200, 100, 90], [100, 190])
    assert overloaded(slightly, config) == set()
    assert overloaded(replace(slightly, was_over=frozenset("a")), config) == {"a"}


def test_one_hot_worker_among_many_finds_a_destination():
    """It lifts the mean by too little to leave the others under-loaded."""
    config = replace(NOW, th_in=0.15, th_under=0.3)
    assert chosen(view([251, 50], *[[200]] * 7), config=config)[0][:2] == (50, "a")


# ---- memory --------------------------------------------------------------------------------------


def test_a_worker_about_to_run_out_sends_a_row_whatever_the_thresholds():
    shy = replace(EAGER, th_in=10.0, min_gain=0.9)
    found = view([3000, 500], [3000], capacity=np.array([3600.0, 1e9]))
    assert chosen(found, config=shy) == [(500, "a", "b", "memory")]
    assert chosen(view([3000, 500], [3000]), config=shy) == []


def test_memory_comes_before_step_time():
    """`c` is the worst by far, `a` has no room for its growth."""
    found = view([500, 600], [10], [3000, 2000], capacity=np.array([1200.0, 1e9, 1e9]))
    ((_, source, _, reason),) = chosen(found, config=EAGER)
    assert (source, reason) == ("a", "memory")


def test_a_destination_never_runs_short_for_the_sake_of_a_source():
    assert (
        chosen(view([3000, 500], [3000], capacity=np.array([3600.0, 4000.0])), config=EAGER) == []
    )


# ---- the policies --------------------------------------------------------------------------------


def test_none_moves_nothing():
    assert none(helpful(), EAGER) == ()


@pytest.mark.parametrize("name", REBALANCE_POLICIES)
@pytest.mark.parametrize("workers", [(), ([],), ([], []), ([100],)], ids=str)
def test_too_little_to_balance_is_no_move(name, workers):
    assert REBALANCE_POLICIES[name](view(*workers), EAGER) == ()


def test_present_keeps_one_point():
    one = present(helpful())
    assert one.grid.tolist() == [0.0]
    assert one.alive.shape == (4, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"th_in": 0.1, "th_out": 0.2},
        {"th_under": 1.0},
        {"watermark": 1.0},
        {"min_gain": -0.1},
        {"decay": 1.5},
        {"horizon_steps": 0},
        {"payback": -1},
        {"stake": -1},
        {"z": -1},
        {"max_moves": -1},
    ],
    ids=str,
)
def test_a_config_out_of_order_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must|are|is"):
        RebalanceConfig(**wrong)


def test_the_benchmark_measures_every_kind_and_each_does_what_it_says():
    kinds = rebalance_speed.measure(workers=8, rows=1024)["kinds"]
    assert set(kinds) == set(rebalance_speed.KINDS)
    assert kinds["level"]["moves"] == []
    assert kinds["skewed"]["moves"][0] == "worst_step"
    assert kinds["full"]["moves"] == []
    assert set(kinds["short_of_memory"]["moves"]) == {"memory"}
    assert all(kind["cpu_median_ms"] > 0 for kind in kinds.values())
