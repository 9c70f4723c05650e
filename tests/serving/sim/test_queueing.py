"""Simulations against queueing theory, where it has an answer."""

import random
from dataclasses import replace
from itertools import accumulate, pairwise
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.plan import StepPlan
from serving.sim.executor import SimExecutor
from serving.sim.measure import TurnRecord
from serving.workload.session import Workload
from tests.support.simulated import COLOCATED, COSTS, LIMITS, SPLIT, Lab, lab, sessions, turn

ONE_AT_A_TIME = replace(LIMITS, max_chunk_rows=1)
"""A step takes one prompt of up to 16 tokens: a server of one queue, if no other is launched before
it is known that the reply has ended."""


def served(arrivals: list[float], lengths: list[int]) -> Lab:
    """Prompts of so many tokens, each of whose replies ends with its first token."""
    one = lab(route="replicas", limits=ONE_AT_A_TIME, max_launched=1)
    pairs = zip(arrivals, lengths, strict=True)
    one.run(sessions(*((at, [turn(new, 1)]) for at, new in pairs)))
    return one


def records(one: Lab) -> list[TurnRecord]:
    return list(one.simulation.measurements.turns.values())


def poisson(rate: float, count: int, seed: int) -> list[float]:
    drawn = random.Random(seed)
    return list(accumulate(drawn.expovariate(rate) for _ in range(count)))


def service_s(new: int) -> float:
    return COSTS.prefill(new, 0).seconds


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1e-6, 0.0005, 0.002, 0.004]), st.integers(1, 16)),
        min_size=1,
        max_size=30,
    )
)
def test_prompts_wait_as_lindley_says(asked: list[tuple[float, int]]):
    """Whoever comes waits for what was left of all work when the last one came, less the gap."""
    arrivals = list(accumulate(gap for gap, _ in asked))
    lengths = [new for _, new in asked]
    waits = [0.0]
    for (before, at), new in zip(pairwise(arrivals), lengths, strict=False):
        waits.append(max(0.0, waits[-1] + service_s(new) - (at - before)))
    one = served(arrivals, lengths)
    expected = [wait + service_s(new) for wait, new in zip(waits, lengths, strict=True)]
    assert [record.ttft_s for record in records(one)] == pytest.approx(expected)
    (worker,) = one.simulation.workers.values()
    assert worker.busy_s == pytest.approx(sum(map(service_s, lengths)))


@pytest.mark.parametrize("busy", [0.4, 0.8])
def test_the_mean_wait_of_equal_prompts_is_that_of_m_d_1(busy: float):
    takes_s = service_s(16)
    one = served(poisson(busy / takes_s, 2500, seed=1), [16] * 2500)
    waits = [record.ttft_s - takes_s for record in records(one) if record.ttft_s is not None]
    assert fmean(waits) == pytest.approx(busy * takes_s / (2 * (1 - busy)), rel=0.1)


def test_rows_are_as_many_as_come_in_the_time_that_one_stays():
    """Little's law, of what is seen every quarter of a second, for rows that share steps."""
    one = lab(route="replicas", limits=replace(LIMITS, max_rows=64, num_pages=4000))
    one.run(sessions(*((at, [turn(8, 200)]) for at in poisson(6.0, 300, seed=2))))
    stays = [r.last - r.first for r in records(one) if r.first is not None and r.last is not None]
    seen = [sample.rows[0] for sample in one.simulation.samples]
    came_per_s = len(stays) / one.simulation.samples[-1].at
    assert fmean(seen) > 3, "rows hardly overlap: the test shows little"
    assert fmean(seen) == pytest.approx(came_per_s * fmean(stays), rel=0.05)


class Counting(SimExecutor):
    """Counts the prompt tokens that steps run."""

    tokens = 0

    def seconds(self, plan: StepPlan) -> float:
        Counting.tokens += sum(len(chunk.tokens) for chunk in plan.chunks)
        return super().seconds(plan)


TURNS = st.builds(
    turn, new=st.integers(1, 30), reply=st.integers(1, 20), think_s=st.sampled_from([0.0, 0.01])
)
WORKLOADS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.001, 0.02]), st.lists(TURNS, min_size=1, max_size=3)),
    min_size=1,
    max_size=6,
).map(lambda made: sessions(*sorted(made, key=lambda one: one[0])))


@settings(max_examples=40, deadline=None)
@given(WORKLOADS, st.sampled_from(["replicas", "local", "pd-delta", "foretoken"]))
def test_every_prompt_is_run_once_but_for_what_was_cached(workload: Workload, route: str):
    Counting.tokens = 0
    workers = COLOCATED if route == "replicas" else SPLIT
    one = lab(workers, route=route, executors=Counting)
    one.run(workload)
    assert not one.simulation.decisions["retry", "preempted"]
    computed = sum(record.prompt_len - (record.cached_len or 0) for record in records(one))
    assert Counting.tokens == computed
