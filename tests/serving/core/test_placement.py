"""What does placement get to see of the workers? (The policy: tests/serving/policy/test_place.)"""

import pytest

from serving.messages import Cancelled, Role, SetRole, WorkerId, WorkerJoined, WorkerLost
from serving.policy.route import History, Local, Remote, RouteReason
from serving.request import Slo, TurnId
from tests.support.coordinating import Desk


def away(turn, owner, prefills, context):
    if not prefills:
        return Local(RouteReason.COLOCATED, ())
    return Remote(prefills[0].worker, History.PULL, True, RouteReason.COLOCATED, ())


DECODERS = {"p0": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE}


def placed(desk: Desk) -> list[tuple[str, str]]:
    return [(one.choice, one.reason) for one in desk.decided("place")]


def test_turns_go_to_the_least_loaded_of_those_that_decode():
    desk = Desk(DECODERS)
    for name in ("a", "b", "c"):
        desk.arrive(name, [ord(name)] * 9)
    assert placed(desk) == [("d0", "least_load"), ("d1", "least_load"), ("d0", "least_load")]


def test_a_longer_conversation_weighs_more():
    desk = Desk(DECODERS)
    desk.arrive("large", [1] * 200)
    desk.arrive("small", [2] * 9)
    desk.arrive("third", [3] * 9)
    assert [worker for worker, _ in placed(desk)] == ["d0", "d1", "d1"]


def test_a_worker_that_holds_the_prompt_is_preferred():
    desk = Desk(DECODERS)
    desk.holds("d1", range(40))
    desk.arrive("a", range(41))
    assert placed(desk) == [("d1", "prefix")]


def test_a_worker_that_leaves_gets_no_session():
    desk = Desk(DECODERS)
    desk.on(SetRole(WorkerId("d0"), None))
    for name in ("a", "b"):
        desk.arrive(name, [ord(name)] * 9)
    assert [worker for worker, _ in placed(desk)] == ["d1", "d1"]


def test_who_comes_goes_or_changes_its_role_between_two_sessions_is_seen():
    desk = Desk(DECODERS)
    desk.arrive("a", [1] * 9)
    desk.on(WorkerLost(WorkerId("d1")))
    desk.arrive("b", [2] * 9)
    desk.on(WorkerJoined(WorkerId("d2"), Role.DECODE, 400))
    desk.arrive("c", [3] * 9)
    desk.on(SetRole(WorkerId("d0"), None))
    desk.arrive("d", [4] * 9)
    desk.on(SetRole(WorkerId("d0"), Role.DECODE))
    desk.arrive("e", [5] * 100)
    assert [worker for worker, _ in placed(desk)] == ["d0", "d0", "d2", "d2", "d0"]


def test_what_was_booked_and_ended_between_two_sessions_is_seen():
    desk = Desk(DECODERS)
    desk.arrive("a", [1] * 100)
    desk.arrive("b", [2] * 9)
    desk.on(Cancelled(TurnId("a"), "gone", 0))
    desk.arrive("c", [3] * 9)
    assert [worker for worker, _ in placed(desk)] == ["d0", "d1", "d0"]


def test_workers_are_kept_clear_though_another_rests():
    desk = Desk(BOTH, slo=TIGHT, peers=True)
    desk.on(SetRole(WorkerId("d3"), None))
    desk.arrive("a", range(9))
    assert clear(desk) == [["d0"]]


def test_workers_are_kept_clear_once_another_has_come_to_rest():
    desk = Desk(BOTH, slo=TIGHT, peers=True)
    desk.arrive("a", range(9))
    (placed_at, _), *_ = placed(desk)
    desk.on(SetRole(WorkerId(placed_at), None))
    desk.arrive("b", range(20, 29))
    desk.on(Cancelled(TurnId("a"), "gone", 0))
    desk.arrive("c", range(40, 49))
    assert clear(desk) == [["d0"], None, ["d2"]]


def test_a_worker_that_comes_back_or_changes_once_its_work_is_done_gets_sessions():
    desk = Desk({"p0": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE}, route=away)
    desk.on(SetRole(WorkerId("d0"), None))
    desk.arrive("a", [1] * 9)
    desk.on(SetRole(WorkerId("d0"), Role.DECODE))
    desk.arrive("b", [2] * 9)
    desk.on(SetRole(WorkerId("p0"), Role.DECODE))  # it still prefills
    desk.arrive("c", [3] * 9)
    for name in ("a", "b"):
        desk.on(Cancelled(TurnId(name), "gone", 0))
    desk.arrive("d", [4] * 9)
    desk.arrive("e", [5] * 9)
    assert [worker for worker, _ in placed(desk)] == ["d1", "d0", "d0", "p0", "d1"]


def test_a_session_returns_to_its_owner_whatever_the_load():
    desk = Desk(DECODERS)
    desk.arrive("a", [1] * 9, session="s")
    desk.arrive("b", [1] * 90, session="s")
    assert placed(desk) == [("d0", "least_load"), ("d0", "session_owner")]


BOTH = {f"d{i}": Role.BOTH for i in range(4)}
TIGHT = Slo(None, 0.0012)  # of which a step without rows takes 1.0 ms


def clear(desk: Desk) -> list[object]:
    return [one.details.get("clear") for one in desk.decided("place")]


def test_of_workers_that_prefill_for_each_other_one_stays_clear_of_rows():
    desk = Desk(BOTH, slo=TIGHT, peers=True)
    desk.arrive("a", [1] * 9, session="s")
    desk.arrive("b", [1] * 20, session="s")
    assert placed(desk) == [("d1", "least_load"), ("d1", "session_owner")]
    assert clear(desk) == [["d0"], None]


def test_what_rows_attend_to_now_decides_whether_there_is_time_to_spare():
    desk = Desk(BOTH, slo=TIGHT, peers=True)
    desk.arrive("a", [1] * 9)
    desk.prefilled("a", "d1")
    # 1.0 ms + 0.2 for two rows and 10 us for each of ten tokens, a third of both: 1.1 ms of 1.14.
    desk.arrive("b", [2] * 30)
    desk.prefilled("b", "d2")
    # 0.3 and 41 tokens, a third of both: 1.24 ms.
    desk.arrive("c", [3] * 9)
    assert clear(desk) == [["d0"], ["d0"], None]


@pytest.mark.parametrize(
    ("roles", "peers"), [(BOTH, False), ({**BOTH, "d3": Role.DECODE}, True), (DECODERS, True)]
)
def test_nobody_stays_clear_unless_all_prefill_for_each_other(roles: dict[str, Role], peers: bool):
    desk = Desk(roles, slo=TIGHT, peers=peers)
    desk.arrive("a", [1] * 9)
    assert clear(desk) == [None]
