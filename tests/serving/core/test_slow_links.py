"""A deadline bounds silence, not a transfer: links of any speed, and payloads that never come."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.messages import (
    MoveAbort,
    MoveGoesOn,
    MoveOut,
    MoveWanted,
    PagesReady,
    Role,
    TaskId,
    Tick,
    TransferId,
    WorkerId,
)
from serving.request import TurnId
from tests.support.coordinating import Desk
from tests.support.shape import Shape
from tests.support.slow_fleet import SlowFleet
from tests.support.turns import make_turn

P0, D0, D1 = (WorkerId(name) for name in ("p0", "d0", "d1"))
A = TurnId("a")
TIMEOUT_S = 30.0
SLOW_S = 0.9 * TIMEOUT_S
"""What a payload takes: rounds take virtual time too."""
COLOCATED = Shape(
    decode_workers=2,
    max_model_len=160,
    num_pages=120,
    prefill_pages=120,
    chunk_tokens=8,
    move_pages=2,
    transfer_timeout_s=TIMEOUT_S,
)
SPLIT = replace(COLOCATED, prefill_workers=1)
HISTORY = list(range(40))


def told(fleet: SlowFleet, kind: str) -> list[str]:
    return [d.reason for d in fleet.decisions if d.kind == kind]


def all_slow(ready: PagesReady) -> float:
    return SLOW_S


def check_all_went_well(fleet: SlowFleet) -> None:
    """All turns are whole, nothing is held, and no payload was sent in vain."""
    fleet.complete_all()
    assert told(fleet, "retry") == told(fleet, "move_failed") == []


# ---- honest links -------------------------------------------------------------------------------


def test_a_hand_off_may_last_for_many_timeouts():
    fleet = SlowFleet(SPLIT, lasts_s=all_slow)
    fleet.submit(make_turn("a", HISTORY))
    fleet.run_slowly()
    assert len(fleet.arrivals) == 5, "a payload for each chunk"
    assert fleet.now > 4 * TIMEOUT_S
    check_all_went_well(fleet)


def test_the_history_that_the_owner_lacks_goes_in_payloads_as_large_as_a_chunk():
    """The owner's pages are gone, the prefill worker's are not: its first chunk sends all."""
    fleet = SlowFleet(replace(SPLIT, decode_workers=1), lasts_s=all_slow)
    first = fleet.submit(make_turn("first", HISTORY, session="s"))
    fleet.run_slowly()
    fleet.workers[D0].batcher.holdings.pool.clear_cached()
    fleet.arrivals.clear()
    fleet.workers[P0].sent.clear()
    fleet.submit(make_turn("a", [*HISTORY, *first.tokens, 1, 2], session="s"))
    fleet.run_slowly()
    assert [len(send.pages) for send in fleet.workers[P0].sent] == [3, 3, 3, 3, 1]
    assert fleet.replies[A].computed < 15
    check_all_went_well(fleet)


def pulling(fleet: SlowFleet, turns: int = 1) -> None:
    """The owner holds histories that the prefill worker asks for, all at once."""
    asked = []
    for i in range(turns):
        tokens = [i, *HISTORY]
        first = fleet.submit(make_turn(f"first {i}", tokens, session=f"s{i}"))
        asked.append((tokens, first))
    fleet.run_slowly()
    fleet.workers[P0].batcher.holdings.pool.clear_cached()
    fleet.arrivals.clear()
    for i, (tokens, first) in enumerate(asked):
        name = "a" if i == 0 else f"a{i}"
        fleet.submit(make_turn(name, [*tokens, *first.tokens, 1, 2], session=f"s{i}"))


def pulled(fleet: SlowFleet) -> int:
    return sum(transfer.sender == D0 for _, transfer in fleet.arrivals)


def test_a_pull_may_last_for_many_timeouts_and_nothing_is_computed_twice():
    fleet = SlowFleet(replace(SPLIT, decode_workers=1), lasts_s=all_slow)
    pulling(fleet)
    began = fleet.now
    fleet.run_slowly()
    assert pulled(fleet) == 4
    assert fleet.now - began > 3 * TIMEOUT_S
    assert fleet.replies[A].computed < 10
    check_all_went_well(fleet)


def test_pulls_wait_for_those_asked_for_before_on_their_way():
    fleet = SlowFleet(replace(SPLIT, decode_workers=1), lasts_s=all_slow)
    pulling(fleet, turns=3)
    fleet.run_slowly()
    assert pulled(fleet) == 12
    assert all(reply.computed < 10 for name, reply in fleet.replies.items() if name[0] == "a")
    check_all_went_well(fleet)


def moving(fleet: SlowFleet) -> WorkerId:
    """A row of a long reply is to move; returns its source."""
    fleet.submit(make_turn("a", HISTORY, max_tokens=100))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 5)
    (home,) = [d.choice for d in fleet.decisions if d.kind == "place"]
    fleet.move(A, D1 if home == D0 else D0)
    return WorkerId(home)


def test_a_move_may_last_for_many_timeouts():
    fleet = SlowFleet(COLOCATED, lasts_s=all_slow)
    moving(fleet)
    began = fleet.now
    fleet.run_slowly()
    assert len(fleet.arrivals) > 6
    assert fleet.now - began > 6 * TIMEOUT_S, "beyond whatever is six timeouts of patience"
    assert told(fleet, "moved") == ["test"]
    check_all_went_well(fleet)


def test_hand_offs_wait_for_those_sent_before_on_their_way():
    """The last of them is silent for as long as the payloads of five others take."""
    fleet = SlowFleet(replace(SPLIT, decode_workers=1, max_rows=6), lasts_s=all_slow)
    for i in range(6):
        fleet.submit(make_turn(f"t{i}", [i, 1, 2, 3]))
    fleet.run_slowly()
    assert fleet.now > 5 * SLOW_S
    check_all_went_well(fleet)


@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_whatever_payloads_take_that_come_in_time_each_turn_is_done_once(
    data: st.DataObject, seed: int
):
    chunk, pages = st.sampled_from((4, 8, 100)), st.sampled_from((1, 2, 100))
    shape = replace(
        SPLIT if data.draw(st.booleans()) else COLOCATED,
        chunk_tokens=data.draw(chunk),
        move_pages=data.draw(pages),
        peers=data.draw(st.booleans()),
        route=data.draw(st.sampled_from(("pd-delta", "to-a-peer", "local"))),
    )
    lasts_s = st.sampled_from((0.0, 0.1, 0.5 * TIMEOUT_S, SLOW_S))
    fleet = SlowFleet(shape, lasts_s=lambda ready: data.draw(lasts_s), seed=seed)
    lengths = data.draw(st.lists(st.integers(1, 60), min_size=1, max_size=4))
    for i, length in enumerate(lengths):
        turn = make_turn(f"t{i}", range(i, i + length), max_tokens=60, session=f"s{i % 2}")
        fleet.submit(turn)
    for _ in range(data.draw(st.integers(0, 4))):
        for _ in range(data.draw(st.integers(0, 60))):
            fleet.round()
        moved = data.draw(st.sampled_from(sorted(fleet.replies)))
        fleet.move(moved, data.draw(st.sampled_from((D0, D1))))
    fleet.run_slowly()
    check_all_went_well_but_for_moves(fleet)


def check_all_went_well_but_for_moves(fleet: SlowFleet) -> None:
    """Rows that are asked to move may end before, or have to go without room; none is late."""
    fleet.complete_all()
    assert told(fleet, "retry") == []
    assert "timeout" not in told(fleet, "move_failed")


# ---- payloads that never come -------------------------------------------------------------------


class Lossy:
    """Each payload is slow, and the one of this number never comes: nothing behind it either."""

    def __init__(self, lost: int, sender: WorkerId | None = None) -> None:
        self.lost, self.sender = lost, sender
        self.count = 0
        self.is_dead = True

    def __call__(self, ready: PagesReady) -> float | None:
        if self.sender not in (None, ready.transfer.sender):
            return 0.0
        self.count += 1
        return None if self.is_dead and self.count >= self.lost else SLOW_S


def ends_within(fleet: SlowFleet, since: float, kind: str, reason: str) -> None:
    """Nothing is given up until a timeout after `since`, and then it is."""
    assert told(fleet, kind) == []
    fleet.advance(since + 0.95 * TIMEOUT_S - fleet.now)
    fleet.run()
    assert told(fleet, kind) == [], "it was given up too early"
    fleet.advance(since + 1.05 * TIMEOUT_S - fleet.now)
    fleet.run_until(lambda: told(fleet, kind) == [reason])


@pytest.mark.parametrize("lost", [1, 2, 3, 5])
def test_a_hand_off_without_a_payload_fails_within_the_timeout_after_the_last(lost: int):
    link = Lossy(lost)
    fleet = SlowFleet(SPLIT, lasts_s=link)
    fleet.submit(make_turn("a", HISTORY))
    fleet.run()
    announced = fleet.now
    fleet.run_slowly()
    assert len(fleet.arrivals) == lost - 1
    since = fleet.arrivals[-1][0] if fleet.arrivals else announced
    link.is_dead = False
    ends_within(fleet, since, "retry", "transfer_failed")
    fleet.run_slowly()
    fleet.complete_all()


@pytest.mark.parametrize("lost", [1, 2, 4])
def test_a_pull_without_a_payload_is_computed_from_where_it_broke_off(lost: int):
    link = Lossy(lost, sender=D0)
    fleet = SlowFleet(replace(SPLIT, decode_workers=1), lasts_s=link)
    pulling(fleet)
    fleet.run()
    asked = fleet.now
    fleet.run_slowly()
    assert pulled(fleet) == lost - 1
    since = fleet.arrivals[-1][0] if fleet.arrivals else asked
    fleet.advance(since + 0.95 * TIMEOUT_S - fleet.now)
    fleet.run()
    assert not fleet.replies[A].samples
    fleet.advance(since + 1.05 * TIMEOUT_S - fleet.now)
    fleet.run_until(lambda: bool(fleet.replies[A].samples))
    fleet.run_slowly()
    assert fleet.replies[A].computed == fleet.replies[A].turn.prompt_len - 12 * (lost - 1)
    check_all_went_well(fleet)


@pytest.mark.parametrize("lost", [1, 2, 5])
def test_a_move_without_a_payload_begins_anew_within_the_timeout_after_the_last(lost: int):
    link = Lossy(lost)
    fleet = SlowFleet(COLOCATED, lasts_s=link)
    moving(fleet)
    fleet.run()
    gone = fleet.now
    fleet.run_slowly()
    assert len(fleet.arrivals) == lost - 1
    since = fleet.arrivals[-1][0] if fleet.arrivals else gone
    link.is_dead = False
    ends_within(fleet, since, "retry", "transfer_failed")
    fleet.run_slowly()
    fleet.complete_all()


def test_a_payload_that_was_lost_is_not_waited_for_because_others_behind_it_come():
    """One hand-off of many by the same way; the others go on, and are no sign of life of it."""
    lost: list[TransferId] = []

    def lasts_s(ready: PagesReady) -> float | None:
        if ready.task.turn == A and not lost:
            lost.append(ready.transfer)
            return None
        return SLOW_S

    fleet = SlowFleet(replace(SPLIT, decode_workers=1, max_rows=6), lasts_s=lasts_s)
    fleet.submit(make_turn("a", [0, 1, 2, 3]))
    fleet.run()
    for i in range(4):
        fleet.submit(make_turn(f"t{i}", [i + 1, 1, 2, 3]))
    fleet.run_slowly()
    assert told(fleet, "retry") == ["transfer_failed"]
    assert len(fleet.arrivals) == 5
    behind = [transfer.number for _, transfer in fleet.arrivals]
    assert min(behind) > lost[0].number
    fleet.complete_all()


def test_a_destination_keeps_room_while_pages_come_and_frees_it_once():
    """Nobody calls off a move whose source has fallen silent: its room comes back by itself."""
    link = Lossy(4)
    fleet = SlowFleet(COLOCATED, lasts_s=link)
    home = moving(fleet)
    there = D1 if home == D0 else D0
    fleet.run_slowly()
    since = fleet.arrivals[-1][0]
    fleet.held.add(("coordinator", there))
    holdings = fleet.workers[there].batcher.holdings
    for timeouts, held in ((5.9, True), (6.1, False)):
        fleet.advance(since + timeouts * TIMEOUT_S - fleet.now)
        fleet.run()
        assert bool(holdings.tasks) == held
    fleet.held.clear()
    link.is_dead = False
    fleet.run_slowly()
    fleet.complete_all()


# ---- the coordinator's patience ------------------------------------------------------------------


def desk_with_a_move() -> tuple[Desk, TaskId]:
    desk = Desk({"d0": Role.BOTH, "d1": Role.BOTH}, COLOCATED)
    desk.arrive("a", range(8), max_tokens=50)
    (place,) = desk.decided("place")
    desk.prefilled("a", place.choice)
    desk.on(MoveWanted(A, D1 if place.choice == D0 else D0, "test"))
    (out,) = [message for worker in (D0, D1) for message in desk.told(worker, MoveOut)]
    return desk, out.task


def asked_back(desk: Desk) -> int:
    return sum(len(desk.told(worker, MoveAbort)) for worker in (D0, D1))


@pytest.mark.parametrize(("move", "renews"), [(1, True), (2, False)], ids=["this", "another"])
def test_a_source_that_says_its_move_goes_on_is_not_asked_to_keep_the_row(move: int, renews: bool):
    desk, task = desk_with_a_move()
    desk.now = 1.9 * TIMEOUT_S
    desk.on(MoveGoesOn(D0, task, move))
    desk.now = 2.1 * TIMEOUT_S
    desk.on(Tick())
    assert asked_back(desk) == (not renews)
    desk.now = 4.0 * TIMEOUT_S
    desk.on(Tick())
    assert asked_back(desk) == 1


def test_a_source_that_was_asked_to_keep_the_row_and_answers_nothing_else_is_waited_for_no_longer():
    desk, task = desk_with_a_move()
    desk.now = 2.0 * TIMEOUT_S
    desk.on(Tick())
    desk.now = 3.9 * TIMEOUT_S
    desk.on(MoveGoesOn(D0, task, 1))
    desk.now = 4.0 * TIMEOUT_S
    desk.on(Tick())
    assert [decision.reason for decision in desk.decided("retry")] == ["move_lost"]
