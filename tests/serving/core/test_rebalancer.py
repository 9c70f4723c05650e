"""What does the rebalancing policy get to see, and when is it asked?"""

from dataclasses import replace

import numpy as np
import pytest

from serving.forecast.forecast import Forecast, Prediction
from serving.messages import (
    Adopted,
    Arrived,
    Finished,
    LoadReport,
    MoveOut,
    MoveWanted,
    Role,
    SampledToken,
    SetRole,
    TaskId,
    Tick,
    Tokens,
    WorkerId,
    WorkerJoined,
    WorkerLost,
)
from serving.policy.rebalance import current
from serving.policy.rebalance_config import Move
from serving.policy.route import History, Local, Remote, RoutePolicy, RouteReason
from serving.policy.views import RebalanceView
from serving.request import FinishReason, Slo, TurnId
from tests.support.coordinating import Desk
from tests.support.sharp_lengths import sharp
from tests.support.turns import make_turn

D0, D1, D2 = (WorkerId(name) for name in ("d0", "d1", "d2"))
ROLES = {"p0": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE, "d2": Role.DECODE}
EVERY_S = 10.0


class Spy:
    """A rebalancing policy that moves nothing unless told, and remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[RebalanceView] = []
        self.answer: tuple[Move, ...] = ()

    def __call__(self, view, config):
        self.shown.append(view)
        return self.answer


def stay(turn, owner, prefills, context):
    return Local(RouteReason.COLOCATED, ())


def away(turn, owner, prefills, context):
    return Remote(prefills[0].worker, History.PULL, True, RouteReason.COLOCATED, ())


def desk(**roles: Role) -> tuple[Desk, Spy]:
    return routing(stay, roles or ROLES)


def routing(route: RoutePolicy, roles: dict[str, Role]) -> tuple[Desk, Spy]:
    spy = Spy()
    rules = {"rebalance": spy, "rebalance_every_s": EVERY_S, "cool_down_s": 25.0}
    return Desk(roles, route=route, **rules), spy


def decoding(
    desk: Desk, name: str, length: int, *, max_tokens: int = 100, tpot_s: float | None = None
) -> None:
    """A row with this prompt decodes at the worker that its session was placed at."""
    turn = make_turn(name, [ord(name[0])] * length, max_tokens=max_tokens)
    desk.on(Arrived(replace(turn, slo=Slo(None, tpot_s))))
    place = desk.decided("place")[-1].choice
    desk.prefilled(name, place)


def look(desk: Desk, spy: Spy) -> RebalanceView:
    desk.now += EVERY_S
    desk.on(Tick())
    return spy.shown[-1]


def test_rows_stand_with_their_workers_and_lengths():
    one, spy = desk()
    for name, length in (("a", 30), ("b", 9), ("c", 9), ("d", 9)):
        decoding(one, name, length)
    view = look(one, spy)
    assert view.workers == ("d0", "d1", "d2"), "a prefill worker is none of them"
    assert view.owner.tolist() == [0, 1, 1, 2]
    assert view.kv_len.tolist() == [31, 10, 10, 10]
    assert view.alive.shape == (4, len(view.grid))
    assert (view.alive[:, 0] == 1).all()
    assert (np.diff(view.alive, axis=1) <= 0).all()
    assert view.capacity.tolist() == [400, 400, 400]
    assert view.movable.all()
    assert view.may_send.all()
    assert view.may_receive.all()


def test_queued_prefills_and_rows_on_their_way_are_pinned():
    one, spy = desk()
    decoding(one, "a", 30)  # at d0
    one.arrive("b", [1] * 12)  # at d1, not prefilled yet
    one.on(MoveWanted(TurnId("a"), D2, "test"))
    view = look(one, spy)
    assert view.pinned.tolist() == [0, 12, 31]


def test_a_prompt_that_is_prefilled_elsewhere_is_pinned_where_it_will_decode():
    """Its pages are reserved there before the prefill begins."""
    spy = Spy()
    one = Desk(ROLES, rebalance=spy, rebalance_every_s=EVERY_S)  # remotely, by the plain rules
    one.arrive("a", [1] * 9)
    one.prefilled("a", "p0")
    one.arrive("b", [2] * 12)
    assert [d.choice for d in one.decided("place")] == ["d0", "d1"]
    assert look(one, spy).pinned.tolist() == [0, 12, 0]
    one.prefilled("b", "p0")
    assert look(one, spy).pinned.tolist() == [0, 0, 0]


def test_a_move_under_way_keeps_both_its_ends_out_of_others():
    one, spy = desk()
    decoding(one, "a", 30)
    decoding(one, "b", 9)
    one.on(MoveWanted(TurnId("a"), D2, "test"))
    view = look(one, spy)
    assert view.may_send.tolist() == [False, True, True]
    assert view.may_receive.tolist() == [True, True, False]
    assert view.movable.tolist() == [False, True]


def test_a_worker_that_leaves_may_send_and_not_receive():
    one, spy = desk()
    decoding(one, "a", 30)
    one.on(SetRole(D0, None))
    view = look(one, spy)
    assert view.may_receive.tolist() == [False, True, True]
    assert view.may_send.tolist()[1:] == [True, True]


def test_a_worker_at_rest_takes_no_part():
    """It would lower the mean and be the only one that is under-loaded, so that nobody moves."""
    one, spy = desk()
    one.on(SetRole(D2, None))
    decoding(one, "a", 30)
    assert look(one, spy).workers == ("d0", "d1")
    one.on(SetRole(D2, Role.DECODE))
    assert look(one, spy).workers == ("d0", "d1", "d2")


def test_rows_move_though_a_worker_rests():
    one = Desk(ROLES, route=stay, rebalance=current, rebalance_every_s=EVERY_S)
    one.on(SetRole(D2, None))
    for name in "abcdefgh":  # by turns at d0 and d1
        decoding(one, name, 50)
    for name in "bd":  # 3.4 ms a step at d0, 2.2 at d1: the mean of those and the 1.0 at d2
        one.on(Finished(D1, TaskId(TurnId(name), 0), FinishReason.STOP, 1))
    one.now += EVERY_S
    one.on(Tick())
    assert [(d.turn, d.choice) for d in one.decided("move")] == [(TurnId("a"), "d1")]


def test_a_row_that_has_moved_rests_for_a_while():
    one, spy = desk()
    decoding(one, "a", 30)
    one.now = 100.0
    one.on(MoveWanted(TurnId("a"), D2, "test"))
    one.on(Adopted(D2, TaskId(TurnId("a"), 0), (1,), 1))
    assert [look(one, spy).movable.tolist() for _ in range(3)] == [[False], [False], [True]]
    assert spy.shown[-1].owner.tolist() == [2]


def test_a_row_whose_pages_are_on_their_way_to_its_owner_is_not_movable():
    one, spy = routing(away, ROLES)
    decoding(one, "a", 30)
    assert look(one, spy).movable.tolist() == [False]
    one.on(Adopted(D0, TaskId(TurnId("a"), 0), (1,), None))
    assert look(one, spy).movable.tolist() == [True]


def test_a_row_about_to_end_is_not_movable():
    one, spy = desk()
    decoding(one, "a", 30, max_tokens=3)
    assert look(one, spy).movable.tolist() == [False]


@pytest.mark.parametrize("read", [True, False])
def test_no_row_is_seen_beyond_what_its_client_asked_for(read: bool):
    """Neither by a reading of the length head, which knows no limit, nor once it has outlived."""
    one, spy = desk()
    decoding(one, "a", 30, max_tokens=90)
    for index in range(1, 70):
        forecast = Forecast(index, sharp(1000), (), Prediction(index, 20.0, 20, 20))
        forecasts = [(TaskId(TurnId("a"), 0), forecast)] if read and index == 60 else []
        task, sample = TaskId(TurnId("a"), 0), SampledToken(index, 1, None)
        one.on(Tokens(D0, [task], [sample], forecasts))
    view = look(one, spy)
    assert view.alive[0, 0] == 1
    assert (view.alive[0, view.grid < 20] > 0).all()
    assert (view.alive[0, view.grid >= 20] == 0).all()


def test_what_workers_say_of_their_pages_is_put_in_tokens():
    one, spy = desk()
    decoding(one, "a", 30)
    one.on(LoadReport(D1, 0, 0, 30, 63, 7, 0, 0, 0, page_loss_s=0.8))
    view = look(one, spy)
    assert view.blank.tolist() == [0, 7 * one.shape.page_size, 0]
    assert view.evict_s.tolist() == [0, 0.8 / one.shape.page_size, 0]


def test_the_tightest_target_of_a_workers_rows_is_what_is_at_stake():
    one, spy = desk(d0=Role.BOTH, d1=Role.BOTH)
    for name, tpot_s in (("a", None), ("b", 0.04), ("c", None), ("d", 0.02)):
        decoding(one, name, 30, tpot_s=tpot_s)
    found = look(one, spy)
    assert found.owner.tolist() == [0, 0, 1, 1]
    assert np.isnan(found.target_s).tolist() == [True, False]
    assert found.target_s[1] == 0.02


def test_it_looks_at_an_interval():
    one, spy = desk()
    decoding(one, "a", 30)
    for now in (EVERY_S - 1, EVERY_S, EVERY_S + 1, 2 * EVERY_S - 1, 2 * EVERY_S):
        one.now = now
        one.on(Tick())
    assert len(spy.shown) == 2


def test_it_looks_at_once_where_pages_are_short():
    one, spy = desk()
    decoding(one, "a", 30)
    one.on(LoadReport(D0, 0, 1, 95, 2, 3, 0, 0, 0))
    one.on(Tick())
    assert spy.shown == []
    one.on(LoadReport(D0, 0, 1, 96, 1, 3, 0, 0, 0))
    one.on(Tick())
    assert len(spy.shown) == 1


def test_pages_are_short_only_while_a_worker_that_has_rows_says_so():
    one, spy = desk()
    decoding(one, "a", 30)
    short = LoadReport(D0, 0, 1, 96, 1, 3, 0, 0, 0)
    for report in (replace(short, worker=WorkerId("p0")), short, replace(short, pages_free=9)):
        one.on(report)
    one.on(Tick())
    assert spy.shown == []
    one.on(replace(short, worker=D2))
    one.on(WorkerLost(D2))
    one.on(WorkerJoined(D2, Role.DECODE, 400))  # and it has told nothing yet
    one.on(Tick())
    assert spy.shown == []
    one.on(replace(short, worker=D2))
    one.on(Tick())
    assert len(spy.shown) == 1


@pytest.mark.parametrize("roles", [{"d0": Role.BOTH}, {"d0": Role.DECODE, "p0": Role.PREFILL}])
def test_one_worker_that_decodes_has_nothing_to_balance(roles: dict[str, Role]):
    one, spy = desk(**roles)
    decoding(one, "a", 30)
    one.now += EVERY_S
    one.on(Tick())
    assert spy.shown == []


def test_without_rows_nobody_is_asked():
    one, spy = desk()
    one.now += EVERY_S
    one.on(Tick())
    assert spy.shown == []


def test_what_the_policy_wants_is_begun():
    one, spy = desk()
    decoding(one, "a", 30)
    decoding(one, "b", 9)
    spy.answer = (Move(1, D1, D2, 0.5, "worst_step"),)
    look(one, spy)
    assert one.told("d1", MoveOut) == [MoveOut(TaskId(TurnId("b"), 0), D2, 1)]
    (decision,) = one.decided("move")
    assert (decision.choice, decision.reason) == ("d2", "worst_step")
    assert decision.details["gain_s"] == 0.5


def test_a_lost_worker_is_no_more_in_the_view():
    one, spy = desk()
    decoding(one, "a", 30)
    decoding(one, "b", 9)
    one.on(WorkerLost(D2))
    view = look(one, spy)
    assert view.workers == ("d0", "d1")
    assert view.owner.tolist() == [0, 1]


def test_who_was_over_loaded_is_told_at_the_next_look():
    one, spy = desk()
    decoding(one, "a", 200, max_tokens=50)
    decoding(one, "b", 9)
    assert look(one, spy).was_over == frozenset()
    assert look(one, spy).was_over == {"d0"}
    for name, worker in (("a", D0), ("b", D1)):
        one.on(Finished(worker, TaskId(TurnId(name), 0), FinishReason.STOP, 1))
    look(one, spy)  # at nobody
    decoding(one, "c", 9)
    assert look(one, spy).was_over == frozenset()
