"""Steps that merely go on are done together, and nobody can tell."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.plan import DecodeRows, LoadSlot, StepPlan
from serving.core.steady import SteadySteps
from serving.messages import (
    Decision,
    Finished,
    Granted,
    Role,
    StepsTimed,
    TaskId,
    Tick,
    Tokens,
    WorkerId,
)
from serving.policy.rebalance import REBALANCE_POLICIES
from serving.request import GREEDY, FinishReason, Slo, TurnId
from serving.sim.agenda import Moment
from serving.sim.executor import SimExecutor, StepNoise
from serving.sim.readings import Oracle
from serving.sim.replies import Replies
from serving.sim.stretch import Stretch
from serving.workload.session import Workload
from tests.support.simulated import COLOCATED, COSTS, LIMITS, SPLIT, Lab, lab, sessions, turn


def taken(stretch: Stretch, reached: Moment) -> tuple[list[Moment], list[float]]:
    over, seconds = stretch.take(reached)
    return list(over), list(seconds)


def test_a_stretch_knows_its_ends_and_takes_those_that_are_over():
    running, queued = Moment(1.0, 0.0, 5), Moment(2.0, 0.5, 6)
    stretch = Stretch((running, queued), [1.0, 2.0, 4.0])
    # Each step but the two launched is launched at the end of the one before the one before it.
    third, fourth, fifth = Moment(3.0, 1.0, 6), Moment(5.0, 2.0, 6), Moment(9.0, 3.0, 6)
    assert stretch.ends == fourth
    assert taken(stretch, running) == ([], [])
    assert taken(stretch, Moment(2.0, 0.5, 7)) == ([running, queued], [1.0, 2.0])
    assert stretch.launched == (third, fourth)
    assert stretch.next_end == third
    assert taken(stretch, fourth) == ([third], [4.0])
    assert stretch.launched == (fourth, fifth)
    assert taken(stretch, Moment(99.0, 0.0, 0)) == ([], [])


def test_steps_may_be_timed_before_they_are_taken_and_once():
    running, queued = Moment(1.0, 0.0, 5), Moment(2.0, 0.5, 6)
    stretch = Stretch((running, queued), [1.0, 2.0, 4.0])
    third, now = Moment(3.0, 1.0, 6), Moment(2.5, 2.5, 9)
    assert stretch.end_of(1) == 1.0
    assert list(stretch.time(now)) == [running, queued]
    assert stretch.end_of(1) == 3.0  # of the first that was not timed
    assert stretch.end_of(2) == float("inf")  # it is not taken with the others
    assert list(stretch.time(now)) == []
    assert stretch.next_end == running
    assert taken(stretch, now) == ([running, queued], [1.0, 2.0])
    assert taken(stretch, Moment(4.0, 0.0, 0)) == ([third], [4.0])
    assert list(stretch.time(Moment(4.0, 0.0, 0))) == []  # what was taken was timed


def test_noise_that_was_looked_at_is_what_is_drawn():
    ahead, plain = StepNoise(0.3, "a"), StepNoise(0.3, "a")
    expected = [plain.factor() for _ in range(6)]
    assert ahead.look_ahead(3) == expected[:3]
    ahead.skip(2)
    assert ahead.look_ahead(2) == expected[2:4]
    assert [ahead.factor() for _ in range(4)] == expected[2:]


def test_heads_of_steps_to_come_are_read_at_their_places():
    replies = Replies()
    number, oracle = replies.add(9), Oracle(replies)
    executor = SimExecutor(COSTS, replies, oracle, StepNoise(0.0, "a"), 2)
    executor.load_slot(LoadSlot(1, replace(GREEDY, seed=number), (), (), 0))
    one, no = np.ones(1, np.int32), np.zeros(1, np.bool_)
    rows = DecodeRows(one, one, one, no, 2 * one, one[None], 2)  # samples token 2 of the reply
    executor.sample(StepPlan(rows, (), False, (TaskId(TurnId("a"), 0),), (), False))
    read = [result.decode_readings for result in executor.sample_more((True, False, True))]
    expected = [oracle.read([number], [place]).tolist() for place in (3, 5)]
    assert read[1] is None
    assert [curves.tolist() for curves in read if curves is not None] == expected


class ShortSighted(SimExecutor):
    """Never knows what comes, so that each step is a round of its own."""

    @property
    def goes_on(self) -> int:
        return 0


class Nobody:
    """Sends nothing."""

    def on_end(self, end) -> None:
        raise AssertionError("no turn was sent")


class Counting(SimExecutor):
    """Counts the steps that were done together with others."""

    together = 0

    def go_on(self, steps: int) -> None:
        Counting.together += steps
        super().go_on(steps)


TURNS = st.builds(
    turn,
    new=st.integers(1, 30),
    reply=st.integers(1, 70),
    think_s=st.sampled_from([0.0, 0.01, 1.0]),
    keep=st.one_of(st.none(), st.integers(0, 40)),
)
WORKLOADS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.001, 0.02, 0.25]), st.lists(TURNS, min_size=1, max_size=2)),
    min_size=1,
    max_size=6,
).map(lambda made: sessions(*sorted(made, key=lambda one: one[0])))
DEPLOYMENTS = st.sampled_from([COLOCATED, SPLIT, (*SPLIT, (WorkerId("b0"), Role.BOTH))])


def seen(one: Lab, workload: Workload) -> object:
    """All that a simulation shows."""
    one.run(workload)
    for batcher in one.batchers:
        batcher.check()
    simulation = one.simulation
    noted = [json.loads(entry)["t"] for entry in one.log]
    assert noted == sorted(noted)
    busy = [worker.busy_s for worker in simulation.workers.values()]
    # The gaps of one worker's rows come row by row where steps are taken together.
    gaps, samples = sorted(simulation.measurements.gaps), simulation.samples
    return one.log, simulation.steps, busy, gaps, samples, one.agenda.now


@settings(max_examples=60)
@given(
    workload=WORKLOADS,
    workers=DEPLOYMENTS,
    route=st.sampled_from(["foretoken", "pd-full", "threshold", "local"]),
    rebalance=st.sampled_from(sorted(REBALANCE_POLICIES)),
    pages=st.sampled_from([17, 25, 60]),
    noise=st.sampled_from([0.0, 0.3]),
    read_every=st.sampled_from([None, 1, 7]),
)
def test_looking_ahead_changes_nothing(
    workload: Workload, workers, route: str, rebalance: str, pages: int, noise: float, read_every
):
    limits = replace(LIMITS, page_size=16, num_pages=pages)
    how = {"route": route, "rebalance": rebalance, "noise": noise, "read_every": read_every}

    def run(executors: type[SimExecutor]) -> object:
        made = lab(workers, limits=limits, slo=Slo(0.05, 0.005), executors=executors, **how)
        return seen(made, workload)

    assert run(SimExecutor) == run(ShortSighted)


SHORT = st.builds(
    turn, new=st.integers(1, 60), reply=st.integers(20, 70), think_s=st.sampled_from([0.0, 0.01])
)
CROWDS = st.lists(
    st.tuples(st.integers(0, 60), st.lists(SHORT, min_size=1, max_size=2)), min_size=6, max_size=14
).map(lambda made: sessions(*sorted(((at / 500, turns) for at, turns in made), key=lambda s: s[0])))
MANY_PEERS = tuple((WorkerId(f"b{i}"), Role.BOTH) for i in range(7))
MANY_SPLIT = (*SPLIT, *((WorkerId(f"d{i}"), Role.DECODE) for i in range(2, 5)))


@settings(max_examples=60)
@given(
    workload=CROWDS,
    workers=st.sampled_from([MANY_PEERS, MANY_SPLIT]),
    route=st.sampled_from(["foretoken", "to-a-peer"]),
    tpot_s=st.sampled_from([0.005, 0.0014]),
    noise=st.sampled_from([0.0, 0.3]),
)
def test_rows_of_which_the_coordinator_hears_late_count_for_nothing(
    workload: Workload, workers, route: str, tpot_s: float, noise: float
):
    """Others place, route and order by what is told: in a fleet of which few are concerned."""
    limits = replace(LIMITS, page_size=16, num_pages=60)

    def run(executors: type[SimExecutor]) -> object:
        slo, how = Slo(0.004, tpot_s), {"route": route, "rebalance": "predicted", "noise": noise}
        made = lab(workers, limits=limits, slo=slo, executors=executors, peers=True, **how)
        return seen(made, workload)

    assert run(SimExecutor) == run(ShortSighted)


def test_most_steps_of_a_long_reply_are_done_together():
    Counting.together = 0
    one = lab(limits=replace(LIMITS, page_size=64, num_pages=20), executors=Counting)
    one.run(sessions((0.0, [turn(8, 200)])))
    assert Counting.together > 150


def test_what_calls_for_a_decision_cannot_be_told_late():
    one = lab()
    one.run(sessions((1.0, [turn(8, 50)])))
    one.simulation.coordinator.on = lambda event, now: [object()]  # type: ignore[method-assign]
    one.simulation.tell(StepsTimed(WorkerId("d0"), (), 0.0, 0.0), (Moment(0.5, 0.5, 1),))
    with pytest.raises(RuntimeError, match="too late"):
        one.run(sessions((2.0, [turn(8, 50)])))


def test_steps_of_which_one_matters_are_told_each_at_its_time():
    one, heard = lab(), []
    steps = SteadySteps(WorkerId("d0"), [TaskId(TurnId("a"), 0)], [1], [(7, 8)], [0.1, 0.3])
    one.simulation.coordinator.go_on = lambda steps: False  # type: ignore[method-assign]
    one.simulation.coordinator.on = (  # type: ignore[method-assign]
        lambda event, now: heard.append((now, event)) or []
    )
    timed = StepsTimed(WorkerId("b0"), (), 0.0, 0.0)
    moments = [Moment(0.1, 0.0, 1), Moment(0.3, 0.1, 1)]
    one.simulation.tell(timed, (Moment(0.2, 0.2, 1),))
    one.simulation.tell(steps, moments)
    one.simulation.run(Nobody(), lambda: None)
    first, second = steps.each()
    assert heard == [(0.1, first), (0.2, timed), (0.3, second)]


def test_of_a_reply_that_ended_only_its_own_worker_s_tokens_are_told_first():
    one, heard = lab(SPLIT), []
    one.simulation.coordinator.on = (  # type: ignore[method-assign]
        lambda event, now: heard.append(event) or []
    )
    d0, d1 = WorkerId("d0"), WorkerId("d1")
    own, others = Tokens(d0, [], [], ()), Tokens(d1, [], [], ())
    timed = StepsTimed(d0, (), 0.0, 0.0)
    ended = Finished(d0, TaskId(TurnId("a"), 0), FinishReason.STOP, 1)

    def later() -> None:
        for event, at in ((others, 0.4), (timed, 0.5), (own, 0.6)):
            one.simulation.tell(event, (Moment(at, at, 1),))
        one.simulation.post(ended, 1.0)

    one.agenda.at(1.0, later)
    one.simulation.run(Nobody(), lambda: None)
    assert heard == [own, ended, others, timed]


def test_what_was_decided_before_is_noted_before_what_a_worker_decides():
    one = lab()
    early = Decision("early", None, None, "", "", {})
    one.simulation.coordinator.on = lambda event, now: [early]  # type: ignore[method-assign]

    def later() -> None:
        one.simulation.tell(StepsTimed(WorkerId("d0"), (), 0.0, 0.0), (Moment(0.5, 0.5, 1),))
        one.simulation.post(Decision("late", None, None, "", "", {}), 1.0)

    one.agenda.at(1.0, later)
    one.simulation.run(Nobody(), lambda: None)
    assert [(r["kind"], r["t"]) for r in map(json.loads, one.log)] == [
        ("early", 0.5),
        ("late", 1.0),
    ]


def test_a_tick_cuts_a_stretch_short_only_where_it_is_awaited():
    one = lab(limits=replace(LIMITS, page_size=64, num_pages=20))
    heard: list[bool] = []

    def tick() -> None:
        (worker,) = one.simulation.workers.values()
        before = len(one.agenda)
        worker.deliver(Tick())
        heard.append(len(one.agenda) > before)
        worker.batcher.on(Granted(TaskId(TurnId("early"), 0), WorkerId("p0"), 0, None), 0.1)
        worker.deliver(Tick())
        heard.append(len(one.agenda) > before)

    one.agenda.at(0.1, tick)
    one.run(sessions((0.0, [turn(8, 100)])))
    assert heard == [False, True]
