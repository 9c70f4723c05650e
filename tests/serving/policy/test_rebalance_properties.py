"""Rebalancing against the oracle, and what holds for every view."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.policy import rebalance_search
from serving.policy.rebalance import REBALANCE_POLICIES, current, overloaded, predicted
from serving.policy.rebalance_bounds import pair_bounds, row_bounds
from serving.policy.rebalance_effects import effects, score, start
from serving.policy.rebalance_load import predict
from serving.policy.rebalance_sets import after
from tests.serving.policy.rebalance_oracle import Oracle
from tests.serving.policy.rebalance_views import CONFIGS, EAGER, crowded, views

FEW = settings(max_examples=60, deadline=None)


def pairs_of(view, moves):
    return [(move.row, view.workers.index(move.to)) for move in moves]


def about(score):
    return pytest.approx(score, rel=1e-6, abs=1e-12)


@FEW
@given(views(), CONFIGS)
def test_the_moves_are_the_best_set_of_all(view, config):
    oracle = Oracle(view, config)
    best = min(oracle.scores_of_sets())
    assert oracle.score(oracle.moved(pairs_of(view, predicted(view, config)))) == about(best)


@FEW
@given(views(), CONFIGS, st.sampled_from((1, 3)))
def test_move_by_move_starts_with_the_best_move_of_all(view, config, at_once):
    """However few candidates are looked at together, hence however much is ruled out unseen."""
    with (
        patch.object(rebalance_search, "PAIRS_AT_ONCE", at_once),
        patch.object(rebalance_search, "BOUNDS_AT_ONCE", at_once),
    ):
        moves = predicted(view, replace(config, exact_sets=0))
    oracle = Oracle(view, replace(config, max_moves=1))
    first = pairs_of(view, moves[:1])
    assert oracle.score(oracle.moved(first)) == about(min(oracle.scores_of_sets()))


@pytest.mark.parametrize("at_once", [1, 8])
@pytest.mark.parametrize("max_moves", [1, 4])
def test_what_is_ruled_out_unseen_is_never_the_best(at_once, max_moves):
    config = replace(EAGER, watermark=0.05, payback=2, max_moves=max_moves, exact_sets=0)
    reasons = set()
    for seed in range(12):
        view = crowded(seed)
        loads = predict(view, config)
        balance = start(loads, view.may_send, view.may_receive)
        rows, workers = np.arange(60), np.arange(8)
        with (
            patch.object(rebalance_search, "PAIRS_AT_ONCE", at_once),
            patch.object(rebalance_search, "BOUNDS_AT_ONCE", 8 * at_once),
        ):
            moves = predicted(view, config)
        for move in (*moves, None)[:max_moves]:
            found = effects(loads, balance, np.repeat(rows, 8), np.tile(workers, 60))
            best = rebalance_search.best_of(score(loads, balance), found)
            if move is None or best is None:
                assert move is best, "stopped too early or too late"
                break
            assert (best.row, view.workers[best.to]) == (move.row, move.to)
            balance = after(loads, balance, best)
            reasons.add(move.reason)
        oracle, pairs = Oracle(view, config), pairs_of(view, moves)
        assert score(loads, balance) == about(oracle.score(oracle.moved(pairs)))
        assert len(set(oracle.touched(pairs))) == 2 * len(moves)
    assert len(reasons) > 1


@FEW
@given(views(), CONFIGS)
def test_effects_are_exact_and_bounds_bound_them(view, config):
    oracle, loads = Oracle(view, config), predict(view, config)
    balance = start(loads, view.may_send, view.may_receive)
    all_workers = np.arange(len(view.workers))
    per_row = row_bounds(loads, balance, np.arange(len(view.owner)), all_workers)
    pairs = np.repeat(per_row.rows, len(all_workers)), np.tile(all_workers, len(per_row.rows))
    found = effects(loads, balance, *pairs)
    bounds = pair_bounds(loads, balance, per_row, all_workers)
    now = oracle.score(oracle.moved([]))
    assert score(loads, balance) == about(now)
    exact = {}
    for c, (row, to) in enumerate(zip(*pairs, strict=True)):
        if view.owner[row] == to:
            continue
        exact[row, to] = then = oracle.score(oracle.moved([(row, to)]))
        assert (found.worst_s[c], found.variance[c]) == about(then[1:])
        assert found.allowed[c] == oracle.allowed(row, to)
        place = c // len(all_workers)
        assert per_row.worst_s[place] <= then[1] * (1 + 1e-9)
        assert per_row.drop[place] >= (now[2] - then[2]) - 1e-9 * now[2]
    for place, to, worst_s, drop in zip(
        bounds.row, bounds.to, bounds.worst_s, bounds.drop, strict=True
    ):
        then = exact[per_row.rows[place], to]
        assert worst_s <= then[1] * (1 + 1e-9)
        assert drop == pytest.approx(now[2] - then[2], rel=1e-6, abs=1e-9 * now[2])
    seen = set(zip(per_row.rows[bounds.row], bounds.to, strict=True))
    assert seen >= set(oracle.candidates()), "an allowed pair was ruled out"


@FEW
@given(views(), CONFIGS, st.sampled_from((0, 4096)), st.sampled_from(sorted(REBALANCE_POLICIES)))
def test_moves_keep_their_promises(view, config, exact_sets, name):
    config = replace(config, exact_sets=exact_sets)
    moves = REBALANCE_POLICIES[name](view, config)
    assert len(moves) <= config.max_moves
    oracle = Oracle(view, config)
    if name == "current":
        oracle = Oracle(replace(view, grid=view.grid[:1], alive=view.alive[:, :1]), config)
    pairs = pairs_of(view, moves)
    workers = oracle.touched(pairs)
    assert len(set(workers)) == len(workers), "a worker takes part in two moves"
    before, after = oracle.score(oracle.moved([])), oracle.score(oracle.moved(pairs))
    assert after[0] <= before[0] + 1e-8
    assert after[1] <= before[1] * (1 + 1e-8), "the worst step time was raised"
    assert after <= before
    for move in moves:
        source, to = view.workers.index(move.source), view.workers.index(move.to)
        assert view.owner[move.row] == source
        assert view.movable[move.row]
        assert view.may_send[source]
        assert view.may_receive[to]
        evicted_s = 0.0 if move.reason == "memory" else oracle.evicted_s(move.row, to)
        assert oracle.repays(move.row, evicted_s)
        assert oracle.excess(oracle.moved([(move.row, to)]), to) == 0
        assert move.gain_s > 0 or move.reason == "memory"


@FEW
@given(views(), CONFIGS, st.randoms(use_true_random=False))
def test_the_order_of_rows_and_workers_changes_nothing(view, config, random):
    rows, workers = list(range(len(view.owner))), list(range(len(view.workers)))
    random.shuffle(rows)
    random.shuffle(workers)
    place_of = np.argsort(workers)
    shuffled = replace(
        view,
        workers=tuple(view.workers[d] for d in workers),
        step_models=tuple(view.step_models[d] for d in workers),
        capacity=view.capacity[workers],
        pinned=view.pinned[workers],
        blank=view.blank[workers],
        evict_s=view.evict_s[workers],
        target_s=view.target_s[workers],
        may_send=view.may_send[workers],
        may_receive=view.may_receive[workers],
        owner=place_of[view.owner[rows]],
        kv_len=view.kv_len[rows],
        alive=view.alive[rows],
        movable=view.movable[rows],
    )
    expected = {(m.row, m.source, m.to, m.reason) for m in predicted(view, config)}
    found = predicted(shuffled, config)
    assert {(rows[m.row], m.source, m.to, m.reason) for m in found} == expected


@FEW
@given(views(), CONFIGS, st.floats(0, 1))
def test_current_does_not_read_the_future(view, config, alive):
    future = view.alive.copy()
    future[:, 1:] = alive
    assert current(replace(view, alive=future), config) == current(view, config)


@FEW
@given(views(), CONFIGS)
def test_over_loaded_is_what_the_definition_says(view, config):
    names = {
        name for name, over in zip(view.workers, Oracle(view, config).over, strict=True) if over
    }
    assert overloaded(view, config) == names
