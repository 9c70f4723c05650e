"""What does placement get to see of the workers? (The policy: tests/serving/policy/test_place.)"""

from serving.messages import Role, SetRole, WorkerId
from tests.support.coordinating import Desk

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


def test_a_session_returns_to_its_owner_whatever_the_load():
    desk = Desk(DECODERS)
    desk.arrive("a", [1] * 9, session="s")
    desk.arrive("b", [1] * 90, session="s")
    assert placed(desk) == [("d0", "least_load"), ("d0", "session_owner")]
