"""Capacities on a latency model of straight lines."""

from dataclasses import replace
from math import sqrt
from statistics import NormalDist

import pytest

from serving.costs.costs import Link
from serving.messages import Role
from serving.plan.cache import Rests
from serving.plan.capacity import (
    Targets,
    WorkerKind,
    chunk_size,
    colocated_options,
    decode_options,
    forgotten,
    prefill_options,
    prefill_seconds,
    row_limit,
    rows_within,
)
from serving.plan.demand import Demand, TurnWork
from serving.plan.queue import fullest, in_time
from tests.support.fake_costs import LinearCosts

COSTS = LinearCosts(base_s=0.01, new_s=1e-4, row_s=1e-4)
TARGETS = Targets(ttft_s=1.0, tpot_s=0.02, attainment=0.9)
FAST = Link(0.0, 1e12)
TURN = TurnWork(new=1000, cached=500, reply=200)
DEMAND = Demand(
    turns=(TURN,) * 4,
    turns_per_s=2.0,
    context=1600.0,
    footprint=1700.0,
    rests=Rests((), 0.0),
    longest=1700,
)
PLENTY = 10_000_000


def kind(role: Role, *, degree: int = 1, costs: LinearCosts = COSTS, kv: int = PLENTY):
    return WorkerKind(role, degree, costs, kv)


def test_a_prompt_takes_its_chunks():
    assert prefill_seconds(COSTS, TURN, 256) == pytest.approx(4 * 0.01 + 1000 * 1e-4)
    past = replace(COSTS, past_s=1e-6)
    # 600 on top of 500, then 400 on top of 1,100.
    attended = 600 * 500 + 400 * 1100
    assert prefill_seconds(past, TURN, 600) == pytest.approx(0.12 + attended * 1e-6)


def test_chunks_are_as_small_as_is_cheap():
    # Per token 1e-4 + 0.01 / chunk: within 5 % of that of 8,192 from 2,048 on.
    assert chunk_size(COSTS) == 2048
    assert chunk_size(replace(COSTS, base_s=0.0)) == 256


def test_rows_within_a_step():
    assert rows_within(COSTS, 1600, 0.02) == 100
    assert rows_within(COSTS, 1600, 0.0101) == 1
    assert rows_within(COSTS, 1600, 0.01) == 0
    assert rows_within(COSTS, 1600, 10.0) == 512


def test_row_limits_are_round_and_within_memory():
    assert row_limit(kind(Role.DECODE), DEMAND, TARGETS) == 104
    assert row_limit(kind(Role.DECODE, kv=17_000), DEMAND, TARGETS) == 16


def test_prefill_is_what_its_queue_allows():
    one, two = prefill_options(kind(Role.PREFILL, degree=2), DEMAND, TARGETS, FAST, 5)
    service = fullest_of(1), fullest_of(2)
    assert (one.count, one.gpus, two.count, two.gpus) == (1, 2, 2, 4)
    # A prompt takes 0.01 + 0.1 s; the workload has two turns a second.
    assert one.rate == pytest.approx(service[0] / 0.11 / 2)
    assert two.rate == pytest.approx(2 * service[1] / 0.11 / 2)
    assert one.limited_by == "compute of prefill"
    # With nothing cached, a prompt of 1,500 tokens takes 0.16 s, and may wait for less.
    lost = fullest_of(1, 0.16)
    assert one.recompute == pytest.approx(one.rate * 2 / (lost / 0.16) - 1)


def fullest_of(workers: int, seconds: float = 0.11) -> float:
    import numpy as np

    busy = fullest(np.full(4, seconds), workers, 1.0, 0.9)
    assert in_time(np.full(4, seconds), workers, busy, 1.0) >= 0.9 - 1e-6
    return busy


def test_prefill_may_be_limited_by_the_link():
    slow = Link(0.0, 3000.0)  # 3,000 tokens of a byte each a second: 3 turns
    option = prefill_options(kind(Role.PREFILL), DEMAND, TARGETS, slow, 1)[0]
    assert (option.rate, option.limited_by) == (pytest.approx(1.5), "link")


def test_decode_runs_below_its_most_rows():
    one, two = decode_options(kind(Role.DECODE), DEMAND, TARGETS, FAST, 2)
    z = NormalDist().inv_cdf(0.9)
    rows = [int(100 / (1 + z / sqrt(100 * count))) for count in (1, 2)]
    assert rows == [88, 91]
    assert one.rate == pytest.approx(88 / 0.0188 / 200 / 2)
    assert two.rate == pytest.approx(2 * 91 / 0.0191 / 200 / 2)
    assert one.limited_by == "compute of decode"
    assert (one.room, one.token_s) == (PLENTY, pytest.approx(0.0188))
    # Little's law: 2 turns/s, each there for 200 steps, with 1,700 tokens.
    assert one.row_tokens == pytest.approx(2 * 200 * 0.0188 * 1700)


def test_decode_may_be_limited_by_memory():
    option = decode_options(kind(Role.DECODE, kv=17_500), DEMAND, TARGETS, FAST, 1)[0]
    assert option.limited_by == "memory"
    assert option.rate == pytest.approx(7 / 0.0107 / 200 / 2)  # of 10 rows


def test_no_step_within_the_target_is_no_option():
    tight = replace(TARGETS, tpot_s=0.01)
    assert decode_options(kind(Role.DECODE), DEMAND, tight, FAST, 4) == []
    assert colocated_options(kind(Role.BOTH), DEMAND, tight, 4) == []


def test_colocated_steps_hold_the_prompts_of_the_rows_that_end():
    option = colocated_options(kind(Role.BOTH), DEMAND, TARGETS, 1)[0]
    rows = round(option.rate * 2 * 200 * option.token_s)
    # For each row that decodes, 5 prompt tokens ride.
    assert option.token_s == pytest.approx(0.01 + rows * 1e-4 + 5 * rows * 1e-4)
    assert option.token_s <= 0.02
    alone = decode_options(kind(Role.DECODE), DEMAND, TARGETS, FAST, 1)[0]
    assert 0 < option.rate < alone.rate
    assert option.recompute > 0


def test_colocated_prompts_must_be_in_time():
    hurried = replace(TARGETS, ttft_s=0.3)
    loose = colocated_options(kind(Role.BOTH), DEMAND, TARGETS, 1)[0]
    tight = colocated_options(kind(Role.BOTH), DEMAND, hurried, 1)[0]
    assert tight.rate < loose.rate


def test_forgotten_turns_compute_everything():
    assert forgotten(DEMAND).turns[0] == TurnWork(1500, 0, 200)
