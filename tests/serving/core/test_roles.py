"""How a worker changes its role. That no turn is lost over it: test_bad_cases, test_invariants."""

import random

import pytest

from serving.messages import (
    Adopted,
    Completed,
    Finished,
    MoveFailed,
    MoveOut,
    MoveWanted,
    Refused,
    Role,
    SetRole,
    TaskId,
    Tick,
    WorkerId,
    WorkerLost,
)
from serving.policy.roles import RoleChange, RolesConfig, RolesView
from serving.policy.route import Local, RouteReason
from serving.request import FinishReason, TurnId
from tests.support.coordinating import Desk
from tests.support.fake_fleet import FakeFleet
from tests.support.shape import Shape
from tests.support.turns import make_turn

P0, D0, D1 = (WorkerId(name) for name in ("p0", "d0", "d1"))
ROLES = {"p0": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE}


def stay(turn, owner, prefills, context):
    return Local(RouteReason.COLOCATED, ())


def desk(roles: dict[str, Role] = ROLES) -> Desk:
    return Desk(roles, route=stay)


def role(one: Desk, worker: str) -> tuple[Role, bool]:
    record = one.coordinator.fleet.workers[WorkerId(worker)]
    return record.role, record.takes_work


def decoding(one: Desk, name: str, length: int = 9) -> None:
    one.arrive(name, [ord(name[0])] * length, max_tokens=50)
    one.prefilled(name, one.decided("place")[-1].choice)


def finish(one: Desk, name: str, worker: str) -> None:
    one.on(Finished(WorkerId(worker), TaskId(TurnId(name), 0), FinishReason.STOP, 1))


def decided(one: Desk) -> list[tuple[str, str, str]]:
    kinds = ("drain", "role", "role_refused")
    found = [d for kind in kinds for d in one.decided(kind)]
    return [(d.kind, str(d.details["worker"]), d.choice) for d in found]


def test_an_idle_worker_changes_at_once():
    one = desk()
    one.on(SetRole(D0, Role.PREFILL))
    assert role(one, "d0") == (Role.PREFILL, True)
    assert decided(one) == [("drain", "d0", "prefill"), ("role", "d0", "prefill")]


def test_a_role_change_waits_for_the_last_row():
    one = desk()
    decoding(one, "a")
    one.on(SetRole(D0, Role.PREFILL))
    assert role(one, "d0") == (Role.DECODE, False)
    finish(one, "a", "d0")
    assert role(one, "d0") == (Role.PREFILL, True)


def test_a_prefill_worker_waits_for_its_last_prompt():
    one = Desk(ROLES)  # remotely, by the plain rules
    one.arrive("a", range(9))
    one.on(SetRole(P0, Role.DECODE))
    assert role(one, "p0") == (Role.PREFILL, False)
    one.prefilled("a", "p0")
    finish(one, "a", "d0")
    assert role(one, "p0") == (Role.DECODE, True)


@pytest.mark.parametrize("wanted", [Role.PREFILL, None])
def test_the_last_worker_that_decodes_never_leaves(wanted: Role | None):
    one = desk({"p0": Role.PREFILL, "d0": Role.BOTH})
    problem = one.coordinator.role_problem(SetRole(D0, wanted))
    assert problem is not None
    assert "last that decodes" in problem
    one.on(SetRole(D0, wanted))
    assert role(one, "d0") == (Role.BOTH, True)
    assert [d.kind for d in one.decided("role_refused")] == ["role_refused"]


def test_the_last_one_that_does_not_leave_already_stays_too():
    one = desk()
    decoding(one, "a")
    one.on(SetRole(D0, None))
    one.on(SetRole(D1, Role.PREFILL))
    assert role(one, "d1") == (Role.DECODE, True)


@pytest.mark.parametrize("wanted", [Role.PREFILL, None])
def test_one_that_leaves_serves_on_if_the_others_are_lost(wanted: Role | None):
    one = desk()
    decoding(one, "a")
    one.on(SetRole(D0, wanted))
    one.on(WorkerLost(P0))
    assert role(one, "d0") == (Role.DECODE, False), "another decodes"
    one.on(WorkerLost(D1))
    assert role(one, "d0") == (Role.DECODE, True)
    assert one.decided("role")[-1].reason == "last_that_decodes"
    finish(one, "a", "d0")
    assert role(one, "d0") == (Role.DECODE, True)
    decoding(one, "b")
    assert one.decided("place")[-1].choice == "d0"


def test_a_turn_of_a_lost_worker_goes_on_at_the_one_that_was_leaving():
    one = desk()
    decoding(one, "a")
    decoding(one, "b")
    one.on(SetRole(D0, Role.PREFILL))
    one.on(WorkerLost(D1))
    assert [d.choice for d in one.decided("place")] == ["d0", "d1", "d0"]
    assert one.coordinator.live_turns == 2


def test_an_unknown_worker_is_named_with_those_there_are():
    problem = desk().coordinator.role_problem(SetRole(WorkerId("x"), None))
    assert problem == "There is no worker x; workers: p0, d0, d1."


@pytest.mark.parametrize(
    ("old", "new"), [(Role.BOTH, Role.DECODE), (Role.DECODE, Role.BOTH), (Role.BOTH, Role.BOTH)]
)
def test_who_decodes_before_and_after_goes_on_with_its_rows(old: Role, new: Role):
    """Also where nobody else decodes: there is nobody to wait for."""
    one = desk({"d0": old})
    decoding(one, "a")
    one.on(SetRole(D0, new))
    assert role(one, "d0") == (new, True)
    assert one.decided("drain") == []


def test_a_worker_that_leaves_may_be_asked_to_stay():
    one = desk()
    decoding(one, "a")
    one.on(SetRole(D0, None))
    one.on(SetRole(D0, Role.DECODE))
    assert role(one, "d0") == (Role.DECODE, True)
    finish(one, "a", "d0")
    assert role(one, "d0") == (Role.DECODE, True)


def test_a_worker_at_rest_comes_back_in_any_role():
    one = desk()
    one.on(SetRole(D0, None))
    assert role(one, "d0") == (Role.DECODE, False)
    one.on(SetRole(D0, Role.PREFILL))
    assert role(one, "d0") == (Role.PREFILL, True)


def test_sessions_of_a_worker_that_leaves_have_no_owner():
    one = desk()
    decoding(one, "a")
    assert one.coordinator.sessions.owned_by(D0) == 1
    one.on(SetRole(D0, Role.PREFILL))
    assert one.coordinator.sessions.owned_by(D0) == 0


def test_its_rows_move_to_the_least_loaded_others_one_after_the_other():
    one = desk({"d0": Role.BOTH, "d1": Role.BOTH, "d2": Role.BOTH})
    for name in ("a", "b", "c", "x", "y"):  # d0 has a and x, d1 b and y, d2 c
        decoding(one, name)
    one.on(SetRole(D0, None))
    one.on(Tick())
    one.on(Tick())
    assert one.told("d0", MoveOut) == [MoveOut(TaskId(TurnId("a"), 0), WorkerId("d2"), 1)]
    one.on(Adopted(WorkerId("d2"), TaskId(TurnId("a"), 0), (1,), 1))
    one.on(Tick())
    assert one.told("d0", MoveOut)[1:] == [MoveOut(TaskId(TurnId("x"), 0), D1, 1)]
    one.on(Adopted(D1, TaskId(TurnId("x"), 0), (1,), 1))
    one.on(SetRole(D0, Role.PREFILL))
    assert role(one, "d0") == (Role.PREFILL, True)


def test_a_row_for_which_there_is_no_room_does_not_keep_the_others():
    one = desk()
    for name in "abcd":  # d0 has a and c
        decoding(one, name)
    one.on(SetRole(D0, None))
    for number, name in enumerate("aca"):
        one.on(Tick())
        asked = one.told("d0", MoveOut)
        assert [move.task.turn for move in asked][number:] == [name]
        one.on(Refused(D1, asked[-1].task, "no_room"))
        one.on(MoveFailed(D0, asked[-1].task, asked[-1].move, "no_room"))


def test_a_row_that_arrives_at_a_worker_which_leaves_does_not_bring_its_session():
    one = desk()
    decoding(one, "a")
    from_d0 = TaskId(TurnId("a"), 0)
    one.on(move_to(D1))
    one.on(SetRole(D1, Role.PREFILL))
    one.on(Adopted(D1, from_d0, (1,), 1))
    assert one.coordinator.sessions.owned_by(D1) == 0
    assert role(one, "d1") == (Role.DECODE, False)
    finish(one, "a", "d1")
    assert role(one, "d1") == (Role.PREFILL, True)


def move_to(worker: WorkerId):
    return MoveWanted(TurnId("a"), worker, "test")


# ---- by a policy --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_a_policy_that_changes_roles_all_the_time_loses_no_turn(seed: int):
    drawn = random.Random(seed)

    def restless(view: RolesView, config: RolesConfig) -> tuple[RoleChange, ...]:
        del config
        if not view.workers or drawn.random() > 0.5:
            return ()
        return (RoleChange(drawn.choice(view.workers).worker, drawn.choice(list(Role)), "test"),)

    shape = Shape(prefill_workers=2, decode_workers=2, tick_rounds=4, rebalance_every_s=0.005)
    fleet = FakeFleet(shape, seed=seed, roles=restless)
    fleet.run()
    for i in range(24):
        fleet.submit(make_turn(f"t{i}", [i] * (3 + i % 7), max_tokens=30, seed=i))
    fleet.run()
    fleet.check_empty()
    outcomes = [reply.end.outcome for reply in fleet.replies.values() if reply.end is not None]
    assert len(outcomes) == 24
    assert all(isinstance(outcome, Completed) for outcome in outcomes)
    changed = [d for d in fleet.decisions if d.kind == "role"]
    assert len(changed) > 3, "hardly a role changed: the test shows little"
    assert {d.reason for d in changed} <= {"policy", "drained"}


def test_a_worker_at_rest_keeps_no_other_from_a_change():
    seen: list[RolesView] = []

    def watching(view: RolesView, config: RolesConfig) -> tuple[RoleChange, ...]:
        del config
        seen.append(view)
        return ()

    fleet = FakeFleet(Shape(prefill_workers=1, decode_workers=3, tick_rounds=1), roles=watching)
    fleet.run()
    fleet.set_role(D0, None)
    fleet.submit(make_turn("a", [1] * 9, max_tokens=9))
    fleet.run()
    assert [(w.worker, w.draining) for w in seen[-1].workers] == [
        ("p0", False),
        ("d1", False),
        ("d2", False),
    ]


def test_prefill_that_waits_gets_a_decode_worker_until_decode_is_full():
    """The rule `queue` in a whole deployment: the role goes over, and turns are served by it."""
    shape = Shape(prefill_workers=1, decode_workers=3, roles="queue", tick_rounds=5, ttft_s=0.05)
    fleet = FakeFleet(shape)
    fleet.run()
    for i in range(8):
        fleet.submit(make_turn(f"t{i}", [i] * 40, max_tokens=3, seed=i))
    fleet.run()
    fleet.check_empty()
    wanted = [d for d in fleet.decisions if d.kind == "role_wanted"]
    assert wanted[0].reason == "prefill_waits"
    worker = wanted[0].details["worker"]
    assert any(d.kind == "role" and d.details["worker"] == worker for d in fleet.decisions)
    assert all(isinstance(r.end.outcome, Completed) for r in fleet.replies.values() if r.end)
