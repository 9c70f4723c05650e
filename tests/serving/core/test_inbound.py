"""A step waits for a row that is about to arrive, if it need not wait for long."""

import pytest

from serving.core.inbound import HELD_SHARE
from serving.core.plan import StepPlan
from serving.messages import Cancel, LastStep, PagesReady, TransferId
from tests.support.one_worker import D0, P0, Worker, decode, prefill, task
from tests.support.rules import COSTS

MOVE, ROW = 3, 6
GUEST_LEN = 4
STEP_S = COSTS.decode(2, ROW + 1 + GUEST_LEN).seconds
HALF_S = HELD_SHARE * STEP_S
BEHIND_S = 1e-6


class Destination(Worker):
    """A worker with one row, to which another has been let in. No step runs, none was timed."""

    def __init__(self) -> None:
        super().__init__(D0)
        self.on(prefill(task("mine", range(ROW), max_tokens=50)))
        prompt = self.launch()
        self.now = COSTS.prefill(ROW, 0).seconds  # as long as it was to take
        self.complete(prompt, 33)
        self.guest = task("guest", range(100, 100 + GUEST_LEN), max_tokens=20)
        self.on(decode(self.guest, P0, move=MOVE))

    def tell(self, in_s: float, *, move: int = MOVE) -> None:
        assert self.on(LastStep(self.guest.id, move, in_s)) == []

    def arrive(self) -> list:
        number = TransferId(P0, 1)
        return self.on(PagesReady(self.guest.id, number, 0, 1, GUEST_LEN, (7,), None, MOVE))

    @property
    def waits(self) -> bool:
        """Whether its next step waits; it is then planned no further."""
        outputs = self.step()
        held = self.batcher.held_until is not None
        assert held == (outputs == [])
        return held


def rows(plan: StepPlan) -> int:
    return plan.num_decode


def test_the_step_waits_and_the_row_rides_in_it():
    there = Destination()
    there.tell(HALF_S)
    assert there.waits
    assert there.batcher.held_until == pytest.approx(there.now + 2 * HALF_S)
    there.now += HALF_S
    there.arrive()
    assert rows(there.launch()) == 2
    assert there.batcher.held_until is None


@pytest.mark.parametrize("in_s", [HALF_S + BEHIND_S, 100 * STEP_S])
def test_no_step_waits_for_what_comes_later(in_s: float):
    there = Destination()
    there.tell(in_s)
    assert not there.waits


def test_the_step_waits_no_longer_than_half_a_step_behind_the_time_told():
    there = Destination()
    there.tell(0.0)
    there.now += HALF_S - BEHIND_S
    assert there.waits
    there.now += 2 * BEHIND_S
    assert rows(there.launch()) == 1


def test_no_step_waits_for_a_row_of_which_nothing_was_told():
    assert not Destination().waits


def test_what_is_told_of_another_move_holds_nothing_up():
    there = Destination()
    there.tell(0.0, move=MOVE - 1)
    assert not there.waits


def test_no_step_waits_for_a_row_that_will_not_come():
    there = Destination()
    there.tell(0.0)
    assert there.waits
    there.on(Cancel(there.guest.id))
    assert not there.waits


def test_nothing_waits_behind_a_step_that_runs():
    """It is not known when that one ends; the row can be queued behind it at once."""
    there = Destination()
    running = there.launch()
    there.tell(0.0)
    assert not there.waits
    there.complete(running, 33)


def test_a_row_that_has_come_and_gone_is_forgotten():
    there = Destination()
    there.tell(0.0)
    there.arrive()
    plan = there.launch()
    assert rows(plan) == 2
    there.complete(plan, 33, 0)
    there.on(Cancel(there.guest.id))
    assert not there.batcher.expects_row
    assert not there.waits
