"""What a move in progress can lose: its row is preempted at the source, or nobody calls it off."""

from itertools import product

import pytest

from serving.core.departures import Departures
from serving.messages import Role, TaskId, WorkerId
from serving.request import TurnId
from tests.support.fake_fleet import COORDINATOR, FakeFleet
from tests.support.shape import Shape
from tests.support.turns import make_turn

D0, D1 = WorkerId("d0"), WorkerId("d1")
A = TurnId("a")
ROOMY = Shape(decode_workers=2, max_model_len=128, num_pages=80, prefill_pages=80)
HISTORY = list(range(20))


def owner(fleet: FakeFleet, turn: TurnId) -> str:
    (home,) = [d.choice for d in fleet.decisions if d.kind == "place" and d.turn == turn]
    return home


def retries(fleet: FakeFleet) -> list[str]:
    return [d.reason for d in fleet.decisions if d.kind == "retry"]


@pytest.mark.parametrize("seed", range(6))
def test_a_row_that_is_preempted_while_it_moves_begins_anew(seed: int):
    shape = Shape(decode_workers=2, max_model_len=64, num_pages=24, reserve_tokens=0)
    fleet = FakeFleet.started(shape, seed=seed)
    fleet.submit(make_turn("old", [90] * 20, max_tokens=40, session="s"))
    fleet.run_until(lambda: bool(fleet.replies[TurnId("old")].samples))
    home = owner(fleet, TurnId("old"))
    to = D1 if home == "d0" else D0
    talk_less = make_turn("a", HISTORY, max_tokens=40, session="s")
    fleet.submit(talk_less)
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 2)
    fleet.held.add((to, home))  # the grant does not come: the row stays asked
    fleet.move(A, to)
    fleet.run_until(lambda: "preempted" in retries(fleet))
    fleet.held.clear()
    fleet.complete_all()


def preempted_while_moving(*, seed: int, after: int, move_pages: int, prompt: int) -> list[str]:
    """Turn `a` leaves a worker where an older row takes the last pages meanwhile; its retries."""
    shape = Shape(
        decode_workers=2,
        max_model_len=64,
        num_pages=24,
        reserve_tokens=0,
        move_pages=move_pages,
        depth=3,  # a stop lasts for some steps
    )
    fleet = FakeFleet.started(shape, seed=seed)
    fleet.submit(make_turn("old", [90] * 20, max_tokens=44, session="s"))
    fleet.run_until(lambda: bool(fleet.replies[TurnId("old")].samples))
    fleet.submit(make_turn("a", [*range(prompt)], max_tokens=60 - prompt, session="s", seed=7))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > after)
    home = owner(fleet, A)
    fleet.move(A, D1 if home == "d0" else D0)
    fleet.complete_all()
    return [d.reason for d in fleet.decisions if d.kind == "retry" and d.turn == A]


@pytest.mark.parametrize("stage", ["copying", "stopped"])
def test_a_row_that_is_preempted_at_a_later_stage_of_its_move_begins_anew(stage, monkeypatch):
    """At which stage it happens depends on the interleaving: it is met among a few."""
    forgotten: list[str] = []
    forget = Departures.forget

    def spy(departures: Departures, task: TaskId) -> None:
        departure = departures._leaving.get(task)
        if departure is not None and departure.granted:
            forgotten.append("copying" if departure.stop_len is None else "stopped")
        forget(departures, task)

    monkeypatch.setattr(Departures, "forget", spy)
    met: set[str] = set()
    for seed, after, move_pages, prompt in product(range(8), (1, 4, 8), (1, 3), (20, 24)):
        forgotten.clear()
        how = {"seed": seed, "after": after, "move_pages": move_pages, "prompt": prompt}
        if preempted_while_moving(**how) == ["preempted"]:
            met.update(forgotten)
        if stage in met:
            return
    pytest.fail("it was not met: the test shows nothing")


def test_room_for_a_row_that_nobody_calls_off_is_free_again_after_a_while():
    """Neither its copies nor the word that it stays where it is ever reach the destination."""
    fleet = FakeFleet.started(ROOMY)
    fleet.submit(make_turn("a", HISTORY, max_tokens=100))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 5)
    fleet.held.add(("d0", "d1"))
    fleet.move(A, D1)
    there = fleet.workers[D1].batcher.holdings
    fleet.run_until(lambda: bool(there.tasks))
    fleet.held.add(("coordinator", "d1"))
    for _ in range(4):
        fleet.advance(ROOMY.transfer_timeout_s + 1)
        for _ in range(60):
            fleet.round()
    fleet.drop("coordinator", "d1")
    fleet.drop("d0", "d1")
    fleet.held.clear()
    fleet.run()
    assert there.tasks, "it was called off: the test shows nothing"
    fleet.advance(3 * ROOMY.transfer_timeout_s)
    fleet.complete_all()


def test_a_move_to_a_lost_worker_is_not_booked_at_another_of_its_name():
    """The source has yet to say that it keeps the row."""
    fleet = FakeFleet.started(ROOMY)
    fleet.submit(make_turn("a", HISTORY, max_tokens=60))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 2)
    fleet.held.add(("d0", COORDINATOR))
    fleet.move(A, D1)
    fleet.run_until(lambda: fleet.coordinator.fleet.workers[D1].turns == 1)
    fleet.lose(D1)
    fleet.join(D1, Role.BOTH)
    fleet.run()
    assert fleet.coordinator._turns[A].move is not None
    fleet.held.clear()
    fleet.complete_all()
