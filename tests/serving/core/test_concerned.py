"""Whose rows may count for where a turn goes? Of those the coordinator has to hear before it."""

from dataclasses import replace

import pytest

from serving.messages import Role, WorkerId
from serving.policy.place import Placement, PlacePolicy, place, place_by_hash
from serving.policy.routes import ROUTE_POLICIES
from serving.request import TurnId
from tests.support.coordinating import Desk
from tests.support.turns import make_turn

SPLIT = {"p0": Role.PREFILL, "d0": Role.DECODE, "d1": Role.DECODE}
PEERS = {f"d{i}": Role.BOTH for i in range(7)}


def concerned(one: Desk, name: str, *, session: str | None = None) -> set[WorkerId] | None:
    turn = make_turn(name, tuple(range(9)), session=session)
    return one.coordinator.concerned_by(turn)


def at(worker: str, *, by_rows: bool = False):
    """A policy that places everything at one worker."""
    return lambda session, homes: Placement(WorkerId(worker), "told", by_rows=by_rows)


def test_the_owner_of_a_known_session_is():
    one = Desk(SPLIT, place=at("d1"))
    one.arrive("a", range(9), session="s")
    session = one.coordinator.sessions.find(make_turn("b", (1,), session="s"))
    assert session is not None
    one.coordinator.sessions.own(session, WorkerId("d0"))
    assert concerned(one, "b", session="s") == {"d0"}


def test_the_owner_that_a_new_session_would_get_is():
    assert concerned(Desk(SPLIT, place=at("d1")), "a") == {"d1"}


@pytest.mark.parametrize("policy", [place, place_by_hash])
def test_whoever_gets_it_was_named_before(policy: PlacePolicy):
    one = Desk({**SPLIT, **{f"d{i}": Role.DECODE for i in range(2, 9)}}, place=policy)
    for i in range(20):
        name, tokens = f"t{i}", tuple(range(10 * i, 10 * i + 9))
        named = one.coordinator.concerned_by(make_turn(name, tokens))
        one.arrive(name, tokens)
        assert named == {WorkerId(one.decided("place")[-1].choice)}


def test_everybody_is_where_rows_decide_about_the_owner():
    one = Desk(SPLIT, place=at("d1", by_rows=True))
    assert concerned(one, "a", session="s") is None
    one.arrive("a", range(9), session="s")
    assert concerned(one, "b", session="s") == {"d1"}


def test_nobody_is_where_nobody_decodes():
    assert concerned(Desk({"p0": Role.PREFILL}), "a") == set()


def test_peers_that_would_be_asked_are():
    one = Desk(PEERS, place=at("d0"), route=ROUTE_POLICIES["replicas"], peers=True)
    one.arrive("r", range(50, 59))
    for i in range(1, 7):
        one.coordinator.fleet.begin_decode(WorkerId(f"d{i}"), TurnId("r"), 8)
    one.coordinator.fleet.begin_decode(WorkerId("d2"), TurnId("q"), 8)
    assert concerned(one, "a") == {"d0", "d1", "d3", "d4", "d5"}


def test_asking_changes_nothing():
    asked, plain = (Desk(SPLIT) for _ in range(2))
    for one in (asked, plain):
        one.arrive("r", range(50, 59))
    turn = make_turn("a", tuple(range(9)))
    asked.coordinator.concerned_by(make_turn("never", tuple(range(20, 40))))
    asked.coordinator.concerned_by(turn)
    other = replace(turn, tokens=tuple(range(30, 41)))  # comes instead, under the same name
    assert asked.arrive("a", other.tokens) == plain.arrive("a", other.tokens)
