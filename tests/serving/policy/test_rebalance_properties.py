"""Rebalancing against the oracle, and what holds for every view."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.policy.rebalance import REBALANCE_POLICIES, current, overloaded, predicted
from tests.serving.policy.rebalance_oracle import Oracle
from tests.serving.policy.rebalance_views import CONFIGS, views

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
@given(views(), CONFIGS)
def test_move_by_move_starts_with_the_best_move_of_all(view, config):
    moves = predicted(view, replace(config, exact_sets=0))
    oracle = Oracle(view, replace(config, max_moves=1))
    first = pairs_of(view, moves[:1])
    assert oracle.score(oracle.moved(first)) == about(min(oracle.scores_of_sets()))


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
        assert oracle.repays(move.row)
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
