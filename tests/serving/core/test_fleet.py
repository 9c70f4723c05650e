"""The ledger of workers: what is booked is unbooked, and roles decide who may do what."""

from math import inf

import pytest

from serving.core.booked import NOTHING, Work
from serving.core.fleet import Fleet
from serving.messages import LoadReport, Role, WorkerId
from serving.request import TurnId

P0, D0, B0 = WorkerId("p0"), WorkerId("d0"), WorkerId("b0")
A, B = TurnId("a"), TurnId("b")


def fleet() -> Fleet:
    made = Fleet(page_size=4, window_s=10.0)
    made.join(P0, Role.PREFILL, 100, 0.0)
    made.join(D0, Role.DECODE, 100, 0.0)
    made.join(B0, Role.BOTH, 100, 0.0)
    return made


def ids(records: list) -> list[WorkerId]:
    return [record.id for record in records]


def test_roles_say_who_owns_sessions_and_who_prefills_for_others():
    made = fleet()
    assert ids(made.owners()) == [D0, B0]
    assert ids(made.prefillers()) == [P0]


def test_a_worker_that_leaves_gets_no_work():
    made = fleet()
    made.workers[P0].leaving = made.workers[D0].leaving = True
    assert ids(made.owners()) == [B0]
    assert made.prefillers() == []


def test_an_id_is_taken_once():
    with pytest.raises(ValueError, match="joined already"):
        fleet().join(P0, Role.BOTH, 1, 0.0)


def test_what_is_booked_and_unbooked_leaves_nothing():
    made = fleet()
    record = made.workers[D0]
    made.add_load(D0, 30, 1)
    made.book(D0, A, Work(7, 0.1), inf)
    made.book(D0, B, Work(7, 0.2), 5.0)
    assert (record.load, record.turns, record.booked.total.tokens) == (30, 1, 14)
    assert not record.idle
    made.unbook(D0, A)
    made.unbook(D0, B)
    made.add_load(D0, -30, -1)
    assert (record.load, record.booked.total) == (0, NOTHING)
    assert record.idle


def test_a_row_is_counted_once_and_taken_off_once():
    made = fleet()
    record = made.workers[D0]
    made.begin_decode(D0, A, 10)
    made.begin_decode(D0, A, 10)
    assert (record.kv_tokens, list(record.decoding)) == (10, [A])
    record.stepped_at = 5.0
    made.end_decode(D0, A, 10)
    made.end_decode(D0, A, 10)
    assert (record.kv_tokens, record.decoding, record.stepped_at) == (0, {}, None)


@pytest.mark.parametrize("stepped_at", [None, 1.0])
def test_steps_told_at_once_are_as_many_single_ones(stepped_at: float | None):
    one, other = fleet(), fleet()
    for made in (one, other):
        made.begin_decode(D0, A, 10)
        made.begin_decode(D0, B, 20)
        made.workers[D0].stepped_at = stepped_at
    for end in (2.0, 2.5, 4.0):
        one.stepped(D0, 2, end)
    other.stepped_on(D0, 2, (2.0, 2.5, 4.0))
    records = [made.workers[D0] for made in (one, other)]
    seen = [(r.kv_tokens, r.stepped_at, r.itl.mean(4.0), r.itl.rate(4.0)) for r in records]
    assert seen[0] == seen[1]


def test_a_lost_worker_takes_no_bookings():
    made = fleet()
    made.leave(D0)
    made.add_load(D0, 3, 1)
    made.book(D0, A, Work(3, 1.0), inf)
    made.unbook(D0, A)
    made.begin_decode(D0, A, 3)
    made.end_decode(D0, A, 3)
    assert D0 not in made.workers


def test_pages_that_are_promised_are_not_available():
    record = fleet().workers[D0]
    assert record.available_pages is None
    record.report = LoadReport(
        worker=D0,
        waiting=0,
        running=1,
        pages_used=5,
        pages_cached=4,
        pages_free=3,
        pages_promised=2,
        pages_on_host=0,
        waiting_tokens=0,
    )
    assert record.available_pages == 5
