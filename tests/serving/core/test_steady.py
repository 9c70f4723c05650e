"""Tokens of several steps reach a coordinator at once, or step by step where one matters."""

import pytest

from serving.core.steady import SteadySteps
from serving.messages import Emit, Finished, MoveWanted, Role, TaskId, WorkerId, WorkerJoined
from serving.request import FinishReason, TurnId
from tests.support.coordinating import Desk

D0 = WorkerId("d0")
ENDS = [1.0, 1.5, 2.5]


def steady(*names: str, replied: int = 1, attempt: int = 0) -> SteadySteps:
    tasks = [TaskId(TurnId(name), attempt) for name in names]
    return SteadySteps(D0, tasks, [replied] * len(names), [(7, 8, 9)] * len(names), ENDS)


def decoding(*names: str) -> Desk:
    """Turns of one worker that have their first token each."""
    desk = Desk({"d0": Role.BOTH})
    for i, name in enumerate(names):
        desk.arrive(name, range(100 * i, 100 * i + 5), max_tokens=40)
        desk.prefilled(name, "d0")
    desk.on(WorkerJoined(WorkerId("d1"), Role.BOTH, 400))
    return desk


def books(desk: Desk, now: float) -> object:
    """What the coordinator knows of its turns and its workers."""
    coordinator = desk.coordinator
    turns = {
        name: (live.tokens, live.last_at, live.gaps_s, live.expected_left)
        for name, live in coordinator._turns.items()
    }
    records = [
        (w.kv_tokens, w.stepped_at, w.itl.mean(now)) for w in coordinator.fleet.workers.values()
    ]
    return turns, records


def one_by_one(desk: Desk, steps: SteadySteps) -> None:
    for end, tokens in zip(steps.ends, steps.each(), strict=True):
        (emit,) = desk.coordinator.on(tokens, end)
        assert isinstance(emit, Emit)


def test_steps_taken_at_once_are_as_many_single_ones():
    one, other = decoding("a", "b"), decoding("a", "b")
    for desk in (one, other):
        desk.now = 0.5
        desk.token("a", "d0", 1)
        desk.token("b", "d0", 1)
    steps = steady("a", "b", replied=2)
    one_by_one(one, steps)
    assert other.coordinator.go_on(steps)
    assert books(one, 2.5) == books(other, 2.5)
    assert one.coordinator._turns[TurnId("a")].tokens[5:] == [1, 1, 7, 8, 9]


def unknown(desk: Desk) -> SteadySteps:
    return steady("a", "nobody")


def former_attempt(desk: Desk) -> SteadySteps:
    return steady("a", attempt=1)


def too_early(desk: Desk) -> SteadySteps:
    return steady("a", replied=2)


def waits_for_one(desk: Desk) -> SteadySteps:
    desk.token("a", "d0", 5)
    return steady("a")


def ends(desk: Desk) -> SteadySteps:
    desk.on(Finished(D0, TaskId(TurnId("a"), 0), FinishReason.LENGTH, 4))
    return steady("a")


def elsewhere(desk: Desk) -> SteadySteps:
    return steady("a")._replace(worker=WorkerId("d1"))


def has_just_moved(desk: Desk) -> SteadySteps:
    desk.coordinator._turns[TurnId("a")].resumes_at = 2
    return steady("a")


def does_not_decode(desk: Desk) -> SteadySteps:
    desk.coordinator._turns[TurnId("a")].decoding = False
    return steady("a")


CASES = [
    unknown,
    former_attempt,
    too_early,
    waits_for_one,
    ends,
    elsewhere,
    has_just_moved,
    does_not_decode,
]


@pytest.mark.parametrize("case", CASES)
def test_where_a_single_step_matters_nothing_is_taken(case):
    desk = decoding("a")
    steps = case(desk)
    before = books(desk, 2.5)
    assert not desk.coordinator.go_on(steps)
    assert books(desk, 2.5) == before


def test_a_row_that_is_about_to_move_goes_on_until_it_does():
    desk = decoding("a")
    desk.on(MoveWanted(TurnId("a"), WorkerId("d1"), "asked"))
    assert desk.coordinator.go_on(steady("a"))
