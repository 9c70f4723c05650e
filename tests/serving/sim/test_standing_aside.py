"""Rows with time to spare stand aside for turns that wait for memory, and come back in time."""

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serving.policy.aside import AsideConfig
from serving.request import Slo
from serving.workload.session import Workload
from tests.support.fake_costs import LinearCosts
from tests.support.simulated import COLOCATED, LIMITS, SPLIT, Lab, lab, sessions, turn

SLOW = LinearCosts(base_s=0.5, new_s=0.001, row_s=0.001, kv_s=0.0001, kv_bytes_per_token=4)
"""A step takes half a second."""
SLO = Slo(ttft_s=10.0, tpot_s=1.0)
FULL = replace(LIMITS, num_pages=66, page_size=4)
"""260 tokens in all."""


def run(workload: Workload, *, stand_aside: bool, slo: Slo = SLO, **how: Any) -> Lab:
    one = lab(
        how.pop("workers", COLOCATED),
        route=how.pop("route", "replicas"),
        limits=FULL,
        costs=SLOW,
        slo=slo,
        stand_aside=AsideConfig() if stand_aside else None,
        **how,
    )
    one.run(workload)
    for batcher in one.batchers:
        batcher.check()
        report = batcher.report()
        assert (report.running, report.waiting, report.pages_used) == (0, 0, 0)
    return one


def in_time(one: Lab) -> list[bool]:
    return [r.meets(SLO.ttft_s, SLO.tpot_s) for r in one.simulation.measurements.turns.values()]


CROWDED = sessions(
    (0.0, [turn(8, 90)]),  # the first of all: it never stands aside
    (0.1, [turn(120, 80)]),
    (30.0, [turn(120, 4)]),
)


def test_a_turn_that_would_be_late_gets_the_memory_of_a_row_that_can_wait():
    assert in_time(run(CROWDED, stand_aside=False)) == [True, True, False]
    one = run(CROWDED, stand_aside=True)
    assert in_time(one) == [True, True, True]
    assert one.simulation.decisions["aside", "spare"] == 1
    assert one.simulation.decisions["retry", "stood_aside"] == 1


def test_nobody_stands_aside_without_a_target_that_would_be_missed():
    for slo in (Slo(None, 1.0), Slo(10.0, None), Slo(1000.0, 1.0)):
        one = run(CROWDED, stand_aside=True, slo=slo)
        assert not one.simulation.decisions["retry", "stood_aside"]


TURNS = st.builds(turn, new=st.integers(1, 60), reply=st.integers(1, 150))
WORKLOADS = st.lists(
    st.tuples(st.integers(0, 60), st.lists(TURNS, min_size=1, max_size=1)),
    min_size=4,
    max_size=14,
).map(lambda made: sessions(*sorted(made, key=lambda one: one[0])))


@settings(max_examples=80, deadline=None)
@given(
    workload=WORKLOADS,
    deployment=st.sampled_from([(COLOCATED, "replicas"), (SPLIT, "foretoken"), (SPLIT, "pd-full")]),
    tpot_s=st.sampled_from([0.52, 0.7, 1.0, 3.0]),
    rebalance=st.sampled_from(["none", "predicted"]),
    read_every=st.sampled_from([None, 3]),
)
def test_nothing_is_lost_and_everybody_ends(
    workload: Workload, deployment, tpot_s: float, rebalance: str, read_every: int | None
):
    workers, route = deployment
    how = {"workers": workers, "route": route, "rebalance": rebalance, "read_every": read_every}
    one = run(workload, stand_aside=True, slo=Slo(10.0, tpot_s), **how)
    records = one.simulation.measurements.turns
    assert {record.outcome for record in records.values()} == {"completed"}
    wanted = [shape.reply for session in workload.sessions for shape in session.turns]
    assert sorted(record.tokens for record in records.values()) == sorted(wanted)
