"""Messages that come late: what is left of an earlier move changes no later one, above all.

Messages are ordered between two parties only, so whatever one of them said of a move that failed
may arrive when the next move of the same row has begun.
"""

from dataclasses import replace

import pytest

from serving.messages import Adopted, Completed, Role, WorkerId
from serving.request import TurnId
from tests.support.fake_fleet import COORDINATOR, FakeFleet, Reply
from tests.support.shape import Shape
from tests.support.turns import make_turn

D0, D1, D2 = (WorkerId(name) for name in ("d0", "d1", "d2"))
A = TurnId("a")
SHAPE = Shape(decode_workers=3, max_model_len=128, num_pages=80, prefill_pages=80)


def start(seed: int = 0, *, shape: Shape = SHAPE, logprobs: int | None = None) -> FakeFleet:
    """A fleet whose turn `a`, with a long reply, decodes at d0."""
    fleet = FakeFleet(shape, seed=seed)
    fleet.run()
    fleet.submit(make_turn("a", range(9), max_tokens=100, seed=7, logprobs=logprobs))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 3)
    return fleet


def said(fleet: FakeFleet, kind: str) -> list[tuple[str, str]]:
    return [(d.choice, d.reason) for d in fleet.decisions if d.kind == kind]


def begin(fleet: FakeFleet, to: WorkerId) -> None:
    """Begin a move; its source and its destination have heard of it."""
    before = len(said(fleet, "move"))
    fleet.move(A, to)
    fleet.run_until(lambda: len(said(fleet, "move")) > before)
    told = {(COORDINATOR, "d0"), (COORDINATOR, to)}
    fleet.run_until(lambda: not told & fleet.channels.keys())


def time_out(fleet: FakeFleet) -> None:
    """Let the move under way fail for lack of time."""
    before = len(said(fleet, "move_failed"))
    fleet.advance(fleet.shape.transfer_timeout_s + 1)
    fleet.run_until(lambda: len(said(fleet, "move_failed")) > before)


def go(fleet: FakeFleet, to: WorkerId) -> None:
    """Move the row; what it left at its source is confirmed."""
    before = len(said(fleet, "moved"))
    fleet.run_until(lambda: not fleet.workers[to].batcher.holdings.tasks)
    fleet.move(A, to)
    fleet.run_until(lambda: len(said(fleet, "moved")) > before)


def forget(fleet: FakeFleet, worker: WorkerId) -> None:
    """A worker evicts all that it knows of the row."""
    fleet.run_until(lambda: not fleet.workers[worker].batcher.holdings.tasks)
    fleet.workers[worker].batcher.holdings.pool.clear_cached()


def complete(fleet: FakeFleet) -> Reply:
    fleet.held.clear()
    fleet.run()
    fleet.check_empty()
    reply = fleet.replies[A]
    assert reply.end is not None
    assert isinstance(reply.end.outcome, Completed)
    return reply


@pytest.mark.parametrize("to", [D1, D2])
def test_a_late_grant_is_not_taken_for_that_of_the_next_move(to: WorkerId):
    """d2 held the beginning of the row when it granted; the next destination holds nothing."""
    fleet = start()
    go(fleet, D2)
    go(fleet, D0)
    fleet.held |= {("d1", "d0"), ("d2", "d0")}
    begin(fleet, D2)
    time_out(fleet)
    forget(fleet, D2)
    begin(fleet, to)
    fleet.held.remove(("d2", "d0"))
    fleet.run_until(lambda: ("d2", "d0") not in fleet.channels)
    complete(fleet)
    assert said(fleet, "moved")[2:] == [(to, "test")]


@pytest.mark.parametrize("seed", range(8))
def test_a_late_request_to_stay_stops_no_later_move(seed: int):
    fleet = start(seed, shape=Shape(decode_workers=3, max_model_len=128, num_pages=80, max_rows=1))
    fleet.submit(make_turn("other", [40] * 5, max_tokens=100))
    fleet.run_until(lambda: len(fleet.replies[TurnId("other")].samples) > 1)
    fleet.move(A, D1)
    fleet.run_until(lambda: len(fleet.workers[D0].batcher.departures) == 1)
    fleet.held.add((COORDINATOR, "d0"))
    fleet.run_until(lambda: (COORDINATOR, "d0") in fleet.channels)  # d1 refused
    fleet.now += fleet.shape.transfer_timeout_s + 1
    fleet.tick(D0)
    fleet.run_until(lambda: bool(said(fleet, "move_failed")))
    fleet.move(A, D2)
    fleet.run_until(lambda: len(said(fleet, "move")) == 2)
    complete(fleet)
    assert said(fleet, "moved") == [("d2", "test")]


@pytest.mark.parametrize("seed", range(8))
def test_pages_of_a_move_that_failed_do_not_count_for_the_next_one(seed: int):
    """The next one needs the pages before them too, which its destination has evicted since."""
    fleet = start(seed, shape=replace(SHAPE, move_pages=1))
    fleet.submit(make_turn("first", range(40, 45), max_tokens=1, session="s"))
    fleet.run_until(lambda: fleet.replies[TurnId("first")].end is not None)
    go(fleet, D1)
    go(fleet, D0)
    fleet.run_until(lambda: len(fleet.replies[A].tokens) > 60)
    fleet.held.add(("d0", "d1"))
    begin(fleet, D1)
    fleet.run_until(lambda: ("d0", "d1") in fleet.channels)
    time_out(fleet)
    forget(fleet, D1)
    begin(fleet, D1)
    fleet.submit(make_turn("reader", fleet.replies[A].turn.tokens, max_tokens=1, session="s"))
    complete(fleet)
    owner = {d.turn: d.choice for d in fleet.decisions if d.kind == "place"}
    assert owner[TurnId("reader")] == "d1"


@pytest.mark.parametrize("logprobs", [None, 0])
def test_tokens_lost_with_the_source_before_the_last_one_are_computed_again(logprobs: int | None):
    """The row has moved twice by the time its first source dies with what it had still to tell."""
    fleet = start(logprobs=logprobs)
    fleet.held.add(("d0", COORDINATOR))
    go(fleet, D1)
    fleet.move(A, D2)
    for _ in range(60):
        fleet.round()
    fleet.lose(D0)
    complete(fleet)


def test_a_row_that_reaches_a_worker_which_leaves_does_not_bring_its_session_there():
    fleet = start(shape=Shape(decode_workers=2, max_model_len=128, num_pages=80))
    fleet.held.add(("d1", COORDINATOR))
    begin(fleet, D1)
    fleet.set_role(D1, Role.PREFILL)
    fleet.run_until(lambda: bool(said(fleet, "drain")))
    reply = complete(fleet)
    assert said(fleet, "moved") == [("d1", "test")]
    again = fleet.submit(make_turn("b", [*reply.turn.tokens, *reply.tokens, 1], max_tokens=1))
    fleet.run()
    assert again.end is not None
    assert isinstance(again.end.outcome, Completed)


def test_a_task_that_comes_when_its_grant_is_forgotten_begins_anew():
    """Else it would expect that grant for ever, and its owner its pages."""
    fleet = FakeFleet(replace(SHAPE, prefill_workers=1))
    fleet.run()
    fleet.held.add((COORDINATOR, "p0"))
    fleet.submit(make_turn("a", range(9), max_tokens=5))
    fleet.run()
    fleet.advance(SHAPE.transfer_timeout_s + 1)
    fleet.run()
    complete(fleet)
    assert said(fleet, "retry") == [("attempt 1", "timeout")]


def test_a_row_is_not_taken_to_be_at_a_worker_that_was_lost():
    """Its destination had it, and said so; the news of its loss overtook that."""
    fleet = start()
    begin(fleet, D1)
    fleet.held.add(("d1", COORDINATOR))
    fleet.run_until(lambda: len(fleet.workers[D1].batcher.holdings.rows.active()) == 1)
    fleet.lose(D1, silently=False)
    fleet.run_until(lambda: ("fleet", COORDINATOR) not in fleet.channels)
    assert any(isinstance(m, Adopted) for m in fleet.channels["d1", COORDINATOR])
    complete(fleet)
    assert said(fleet, "moved") == []


def handed_over(*, seed: int = 0) -> tuple[FakeFleet, WorkerId, WorkerId]:
    """Turn `a` has its first token, and its pages are on their way; another fills a worker.

    Returns the owner of `a`, which waits for them, and the worker without room as well.
    """
    shape = replace(SHAPE, prefill_workers=1, decode_workers=2, max_rows=1, tick_rounds=20)
    fleet = FakeFleet(shape, seed=seed)
    fleet.run()
    fleet.submit(make_turn("other", [40] * 5, max_tokens=100))
    fleet.run_until(lambda: len(fleet.replies[TurnId("other")].samples) > 1)
    ((full, _),) = said(fleet, "place")
    home = D1 if full == D0 else D0
    fleet.held.add(("p0", home))
    fleet.submit(make_turn("a", range(9), max_tokens=20, seed=7))
    fleet.run_until(lambda: bool(fleet.replies[A].samples))
    return fleet, home, WorkerId(full)


@pytest.mark.parametrize("seed", range(8))
def test_a_row_that_its_owner_has_yet_to_take_is_not_asked_to_leave(seed: int):
    """The destination refuses, and the owner, asked to keep the row, has not heard of it yet."""
    fleet, _, full = handed_over(seed=seed)
    fleet.move(A, full)
    for _ in range(60):
        fleet.round()
    complete(fleet)
    assert said(fleet, "retry") == []
    assert said(fleet, "move") == []


def test_a_row_leaves_a_worker_that_drains_once_it_is_there():
    fleet, home, full = handed_over()
    fleet.cancel(TurnId("other"))
    fleet.set_role(home, Role.PREFILL)
    for _ in range(60):
        fleet.round()
    complete(fleet)
    assert said(fleet, "move_failed") == said(fleet, "retry") == []
    assert said(fleet, "moved") == [(full, "drain")]
