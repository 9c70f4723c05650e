"""Live moves: a row changes its worker while it decodes, and the client sees only time."""

import pytest

from serving.core.plan import SendPages
from serving.messages import Completed, Role, WorkerId
from serving.request import TurnId
from tests.support.fake_fleet import FakeFleet, Reply
from tests.support.shape import Shape
from tests.support.turns import make_turn

D0, D1, P0 = WorkerId("d0"), WorkerId("d1"), WorkerId("p0")
A = TurnId("a")
ROOMY = Shape(decode_workers=2, prefill_workers=1, max_model_len=128, num_pages=80, max_rows=4)


def started(
    shape: Shape,
    *,
    seed: int = 0,
    max_tokens: int = 40,
    prompt: int = 9,
    logprobs: int | None = 0,
) -> FakeFleet:
    """A fleet in which turn `a` has just begun to decode, at d0."""
    fleet = FakeFleet(shape, seed=seed)
    fleet.run()
    fleet.submit(make_turn("a", range(prompt), max_tokens=max_tokens, seed=7, logprobs=logprobs))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 1)
    return fleet


def kinds(fleet: FakeFleet, kind: str) -> list[tuple[str, str]]:
    return [(d.choice, d.reason) for d in fleet.decisions if d.kind == kind]


def move(fleet: FakeFleet, to: WorkerId) -> None:
    """Move turn `a`; what it left at `to` earlier was confirmed before."""
    fleet.run_until(lambda: not fleet.workers[to].batcher.holdings.tasks)
    before = len(kinds(fleet, "moved"))
    fleet.move(A, to)
    fleet.run_until(lambda: len(kinds(fleet, "moved")) > before)


def complete(fleet: FakeFleet) -> Reply:
    fleet.run()
    fleet.check_empty()
    reply = fleet.replies[A]
    assert reply.end is not None
    assert isinstance(reply.end.outcome, Completed)
    return reply


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("move_pages", [1, 3, 100])
def test_a_row_moves_while_it_decodes_and_goes_on_where_it_stopped(seed: int, move_pages: int):
    shape = Shape(decode_workers=2, max_model_len=128, num_pages=80, move_pages=move_pages)
    fleet = started(shape, seed=seed, max_tokens=100, prompt=20)
    fleet.move(A, D1)
    complete(fleet)
    assert kinds(fleet, "moved") == [("d1", "test")]
    assert fleet.coordinator.fleet.workers[D1].load == 0


@pytest.mark.parametrize("after", range(2, 30))
def test_a_move_may_begin_at_any_token(after: int):
    fleet = started(ROOMY)
    fleet.run_until(lambda: len(fleet.replies[A].samples) >= after)
    fleet.move(A, D1)
    complete(fleet)
    assert kinds(fleet, "moved") or kinds(fleet, "move_failed")


def test_there_and_back_again():
    fleet = started(ROOMY, max_tokens=100)
    for i, to in enumerate((D1, D0, D1, D0)):
        move(fleet, to)
        assert len(kinds(fleet, "moved")) == i + 1
    complete(fleet)
    assert [choice for choice, _ in kinds(fleet, "moved")] == ["d1", "d0", "d1", "d0"]


def test_the_row_stops_for_its_last_pages_only():
    fleet = started(ROOMY, max_tokens=60, prompt=50)
    source = fleet.workers[D0]
    fleet.move(A, D1)
    fleet.run_until(lambda: bool(kinds(fleet, "moved")))
    *_, last = [send for send in source.sent if send.to == D1]
    assert len(last.pages) <= 2
    assert sum(len(send.pages) for send in source.sent if send.to == D1) >= 12


@pytest.mark.parametrize("logprobs", [None, 0])
@pytest.mark.parametrize("seed", range(12))
def test_the_stop_is_the_gap_that_the_client_sees(seed: int, logprobs: int | None):
    fleet = started(ROOMY, seed=seed, max_tokens=60, prompt=30, logprobs=logprobs)
    fleet.move(A, D1)
    told = [fleet.now] * len(fleet.replies[A].samples)
    while fleet.round():
        told += [fleet.now] * (len(fleet.replies[A].samples) - len(told))
    (resumed,) = [d for d in fleet.decisions if d.kind == "resumed"]
    assert (resumed.choice, resumed.details["from"]) == (D1, D0)
    first = resumed.details["replied"]
    assert isinstance(first, int)
    assert resumed.details["stop_s"] == pytest.approx(told[first] - told[first - 1])
    (asked,) = [d.details["replied"] for d in fleet.decisions if d.kind == "move"]
    assert isinstance(asked, int)
    assert asked <= first < len(told)


def test_every_move_resumes_once():
    fleet = started(ROOMY, max_tokens=100)
    for to in (D1, D0, D1):
        move(fleet, to)
    complete(fleet)
    assert [choice for choice, _ in kinds(fleet, "resumed")] == ["d1", "d0", "d1"]


def test_a_turn_that_begins_anew_has_not_been_resumed():
    fleet = started(ROOMY, max_tokens=60, prompt=30)
    fleet.move(A, D1)
    fleet.run_until(lambda: bool(kinds(fleet, "moved")))
    assert kinds(fleet, "resumed") == []
    fleet.lose(D1)
    complete(fleet)
    assert [reason for _, reason in kinds(fleet, "retry")] == ["worker_lost"]
    assert kinds(fleet, "resumed") == []


def test_pages_that_the_destination_holds_do_not_travel():
    shape = Shape(decode_workers=2, max_model_len=128, num_pages=80)
    fleet = started(shape, max_tokens=80, prompt=40)
    move(fleet, D1)
    move(fleet, D0)
    complete(fleet)
    there = sum(len(send.pages) for send in fleet.workers[D0].sent)
    back = sum(len(send.pages) for send in fleet.workers[D1].sent)
    assert back < there / 2


def test_the_next_turn_continues_at_the_new_owner():
    fleet = started(ROOMY, max_tokens=20)
    fleet.move(A, D1)
    reply = complete(fleet)
    history = [*reply.turn.tokens, *reply.tokens, 3]
    again = fleet.submit(make_turn("b", history, max_tokens=2))
    fleet.run()
    places = [d.choice for d in fleet.decisions if d.kind == "place" and d.turn == again.turn.id]
    assert places == ["d1"]
    assert again.computed <= 2


def test_a_full_destination_refuses_and_the_row_stays():
    shape = Shape(decode_workers=2, max_model_len=128, num_pages=33, max_rows=1)
    fleet = started(shape, max_tokens=60)
    fleet.submit(make_turn("other", [99] * 5, max_tokens=60))
    fleet.run_until(lambda: bool(fleet.replies[TurnId("other")].samples))
    fleet.move(A, D1)
    complete(fleet)
    assert kinds(fleet, "moved") == []
    assert len(kinds(fleet, "move_failed")) == 1


def filling_up(*, seed: int, held_rounds: int, prompt: int) -> FakeFleet:
    """Turn `a` moves to where another row grows until the pages do not do for both.

    Its copies lie about for some rounds on the way.
    """
    shape = Shape(decode_workers=2, max_model_len=64, num_pages=17, move_pages=1, reserve_tokens=0)
    fleet = FakeFleet(shape, seed=seed)
    fleet.run()
    fleet.submit(make_turn("other", [90] * 9, max_tokens=54, seed=3))
    fleet.run_until(lambda: bool(fleet.replies[TurnId("other")].samples))
    fleet.submit(make_turn("a", range(prompt), max_tokens=60 - prompt, seed=7))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 1)
    ((to, _), (home, _)) = kinds(fleet, "place")
    fleet.held.add((home, to))
    fleet.move(A, WorkerId(to))
    for _ in range(held_rounds):
        fleet.round()
    fleet.held.clear()
    complete(fleet)
    return fleet


def test_a_destination_that_fills_up_midway_loses_nothing():
    """Whether there is no page for the next copy, or the row that arrives is preempted there."""
    ways: set[str] = set()
    for seed in range(4):
        for held_rounds in (1, 150):
            for prompt in (9, 20):
                fleet = filling_up(seed=seed, held_rounds=held_rounds, prompt=prompt)
                retries = [d.details for d in fleet.decisions if d.kind == "retry"]
                ways |= {str(details.get("called_back")) for details in retries}
    assert {"no_room", "preempted"} <= ways


@pytest.mark.parametrize("logprobs", [None, 0])
@pytest.mark.parametrize("rounds", range(1, 60, 2))
@pytest.mark.parametrize("victim", [D0, D1])
def test_either_end_may_die_at_any_time(rounds: int, victim: WorkerId, logprobs: int | None):
    fleet = started(ROOMY, max_tokens=60, prompt=30, logprobs=logprobs)
    fleet.move(A, D1)
    for _ in range(rounds):
        fleet.round()
    fleet.lose(victim)
    complete(fleet)


@pytest.mark.parametrize("rounds", range(1, 60, 2))
def test_a_client_may_leave_at_any_time(rounds: int):
    fleet = started(ROOMY, max_tokens=60, prompt=30)
    fleet.move(A, D1)
    for _ in range(rounds):
        fleet.round()
    fleet.cancel(A)
    fleet.run()
    fleet.check_empty()


@pytest.mark.parametrize("max_tokens", range(3, 16))
def test_a_reply_may_end_in_the_middle_of_its_move(max_tokens: int):
    shape = Shape(decode_workers=2, max_model_len=128, num_pages=80, move_pages=1)
    fleet = started(shape, max_tokens=max_tokens, prompt=30)
    fleet.move(A, D1)
    complete(fleet)


@pytest.mark.parametrize("breaks_at", ["sender", "receiver"])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_broken_copy_costs_time_only(breaks_at: str, number: int):
    shape = Shape(decode_workers=2, max_model_len=128, num_pages=80, move_pages=2)
    fleet = started(shape, max_tokens=60, prompt=30)
    sends: list[SendPages] = []

    def breaks(send: SendPages) -> str | None:
        sends.append(send)
        return breaks_at if len(sends) == number else None

    fleet.break_transfer = breaks
    fleet.move(A, D1)
    fleet.run()
    fleet.advance(shape.transfer_timeout_s + 1)
    complete(fleet)


def test_copies_that_nobody_confirms_are_freed_within_the_timeout():
    fleet = started(ROOMY, max_tokens=30)
    fleet.lose_ack = lambda ack: True
    fleet.move(A, D1)
    fleet.run()
    assert fleet.workers[D0].batcher.holdings.pool.num_held > 0
    fleet.advance(ROOMY.transfer_timeout_s + 1)
    complete(fleet)


def test_a_move_whose_grant_never_comes_is_given_up():
    fleet = started(Shape(decode_workers=2, max_model_len=512, num_pages=140), max_tokens=400)
    fleet.move(A, D1)
    fleet.run_until(lambda: fleet.coordinator._turns[A].move is not None)
    fleet.channels.pop(("coordinator", "d1"))
    fleet.run_until(lambda: len(fleet.workers[D0].batcher.departures) == 1)
    fleet.advance(fleet.shape.transfer_timeout_s + 1)
    fleet.run_until(lambda: bool(kinds(fleet, "move_failed")))
    assert kinds(fleet, "move_failed") == [("d1", "timeout")]
    assert fleet.workers[D0].batcher.holdings.by_slot
    fleet.cancel(A)
    fleet.run()
    fleet.check_empty()


@pytest.mark.parametrize("to", ["p0", "d0", "nobody"])
def test_a_senseless_move_is_no_move(to: str):
    fleet = started(ROOMY)
    fleet.move(A, WorkerId(to))
    fleet.move(TurnId("unknown"), D1)
    complete(fleet)
    assert kinds(fleet, "move") == []


def test_a_worker_that_joins_takes_rows():
    fleet = started(Shape(max_model_len=128, num_pages=80), max_tokens=80)
    fleet.join(WorkerId("new"), Role.BOTH)
    fleet.run_until(lambda: WorkerId("new") in fleet.coordinator.fleet.workers)
    fleet.move(A, WorkerId("new"))
    complete(fleet)
    assert kinds(fleet, "moved") == [("new", "test")]
