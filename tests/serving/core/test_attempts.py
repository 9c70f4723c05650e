"""What becomes of a turn whose attempts come to nothing, and what an operator hears of it."""

from typing import Any

import pytest

from serving.costs.correction import LEAST, WINDOW
from serving.messages import (
    Decision,
    End,
    Failed,
    Prefill,
    PrefillDone,
    Refused,
    Role,
    SampledToken,
    StepsTimed,
    StepTime,
    TaskId,
    WorkerId,
    WorkerJoined,
    WorkerLost,
)
from serving.request import FinishReason, TurnId
from tests.support.coordinating import Desk
from tests.support.shape import Shape

D0 = WorkerId("d0")


def test_a_turn_that_loses_worker_after_worker_is_given_up_before_all_are_lost():
    one = Desk({f"d{i}": Role.BOTH for i in range(5)}, Shape(max_model_len=256, max_attempts=3))
    one.arrive("a", [1])
    one.arrive("b", [2])
    for lost in range(1, 4):
        assert not [action for action in one.said if isinstance(action, End)]
        one.on(WorkerLost(WorkerId(place_of(one, "a"))))
        assert len(one.coordinator.fleet.owners()) == 5 - lost
    (end,) = [action for action in one.said if isinstance(action, End)]
    assert end.turn == "a"
    assert end.outcome == Failed(
        "engine_dead", "The turn was given up after 3 failures (worker_lost)."
    )
    assert one.coordinator.live_turns == 1


def place_of(one: Desk, turn: str) -> str:
    return [d.choice for d in one.decided("place") if d.turn == turn][-1]


def test_what_a_turn_computed_in_vain_counts_as_computed_not_as_cached():
    one = Desk({"d0": Role.BOTH})
    one.arrive("a", range(10), max_tokens=1)
    one.on(Refused(D0, TaskId(TurnId("a"), 0), "preempted", computed=6))
    first, again = SampledToken(0, 7, None), TaskId(TurnId("a"), 1)
    done = PrefillDone(D0, again, first, 2, None, FinishReason.LENGTH, 0.0)
    (end,) = [action for action in one.on(done) if isinstance(action, End)]
    assert end.cached_len == 2


def test_who_goes_on_with_a_reply_is_told_when_its_client_got_the_first_token():
    one = Desk({"d0": Role.BOTH})
    one.arrive("a", range(10), max_tokens=9)
    one.now = 2.5
    one.prefilled("a", "d0")
    one.now = 4.0
    one.on(Refused(D0, TaskId(TurnId("a"), 0), "stood_aside"))
    first, again = one.told("d0", Prefill)
    assert (first.task.first_at, again.task.first_at) == (None, 2.5)
    assert again.task.replied == 1


def test_step_times_that_no_correction_reaches_are_told_of_once():
    one = Desk({"d0": Role.BOTH})
    steps = tuple(StepTime(4, 0, 0, 0.001, 0.009) for _ in range(WINDOW))
    (told,) = one.on(StepsTimed(D0, steps, 0.002, 0.1))
    assert isinstance(told, Decision)
    assert (told.kind, told.choice, told.reason) == ("costs", "decode", "beyond_bounds")
    assert told.details == {"worker": D0, "role": "both", "ratio": pytest.approx(9.0)}
    assert one.on(StepsTimed(D0, steps, 0.002, 0.1)) == []


def test_what_steps_took_as_a_worker_warmed_up_is_what_its_first_turn_is_predicted_by():
    predicted: list[Any] = []
    for factor in (1.0, 3.0):
        one = Desk({}, Shape(route="foretoken"))
        timed = [StepTime(0, 8, 0, 0.001, 0.001 * factor)] * LEAST
        one.on(WorkerJoined(D0, Role.BOTH, 400, timed))
        one.arrive("a", range(8))
        (route,) = one.decided("route")
        details: Any = route.details
        predicted.append(details["options"][0]["ttft_s"])
    assert predicted[1] == pytest.approx(3 * predicted[0])
