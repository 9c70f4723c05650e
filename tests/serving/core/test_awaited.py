"""For whose word a task waits, what counts as a word, and until when it waits."""

import pytest

from serving.core.awaited import Awaited
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.messages import Ack, PagesReady, TaskId, TransferId, WorkerId
from serving.request import TurnId
from tests.support.one_worker import D0, decode, prefill, task

HERE, D1 = WorkerId("here"), WorkerId("d1")
TIMEOUT_S = 10.0


class Waiting:
    """Tasks that wait at a worker for `D0`, unless a test says for whom."""

    def __init__(self) -> None:
        self.sent = 0
        self.awaited = Awaited(TIMEOUT_S, lambda: self.sent)

    def sends(self, name: str, *numbers: int, now: float = 0.0, to: WorkerId = D0) -> WorkerTask:
        """All of it is announced; these are not confirmed."""
        entry = open_task(prefill(task(name, range(5)), to), 4)
        entry.stage = Stage.SENDING
        entry.unacked = {TransferId(HERE, number) for number in numbers}
        self.sent = max(self.sent, *numbers)
        self.awaited.begin(entry, to, now)
        return entry

    def pulls(self, name: str, *, now: float = 0.0, of: WorkerId = D0) -> WorkerTask:
        entry = open_task(prefill(task(name, range(5)), of), 4)
        entry.stage = Stage.PULLING
        self.awaited.begin(entry, of, now)
        return entry

    def moves_here(self, name: str, *, now: float = 0.0, of: WorkerId = D0) -> WorkerTask:
        entry = open_task(decode(task(name, range(5)), of, move=1), 4)
        entry.stage = Stage.GRANTED
        self.awaited.begin(entry, of, now, timeouts=3)
        return entry

    def ack(self, number: int, now: float, by: WorkerId = D0) -> list[WorkerTask]:
        return self.awaited.acknowledged(Ack(by, OTHER, TransferId(HERE, number)), now)

    def arrival(self, now: float, of: TaskId, sender: WorkerId = D0) -> None:
        transfer = TransferId(sender, 1)
        self.awaited.arrived(PagesReady(of, transfer, 0, 1, 4, None, None, None), now)


OTHER = TaskId(TurnId("other"), 0)


def test_a_task_waits_for_the_timeout_and_no_longer():
    one = Waiting()
    entry = one.sends("a", 1)
    assert one.awaited.overdue(TIMEOUT_S - 0.01) == []
    assert one.awaited.overdue(TIMEOUT_S) == [entry]
    one.awaited.end(entry)
    assert one.awaited.overdue(TIMEOUT_S) == []
    assert len(one.awaited) == 0


def test_what_does_not_wait_cannot_end_waiting():
    one = Waiting()
    one.awaited.end(open_task(prefill(task("a", range(5))), 4))
    assert len(one.awaited) == 0


@pytest.mark.parametrize(
    ("number", "renews"),
    [(1, True), (4, True), (5, True), (6, True), (7, False)],
    ids=["long before it", "before it", "its own", "its last", "behind it"],
)
def test_what_a_peer_takes_is_a_word_for_whatever_it_could_not_take_before(
    number: int, renews: bool
):
    one = Waiting()
    entry = one.sends("a", 5, 6)
    one.sent = 7
    assert one.ack(number, now=4.0) == [entry] * renews
    assert one.awaited.overdue(TIMEOUT_S) == [entry] * (not renews)
    assert one.awaited.overdue(TIMEOUT_S + 4.0) == [entry]


def test_a_row_that_leaves_sends_more_while_it_waits_and_each_of_it_counts():
    one = Waiting()
    entry = one.sends("a", 1)
    entry.unacked = {TransferId(HERE, 5)}
    assert one.ack(5, now=4.0) == [entry]
    assert one.ack(6, now=5.0) == []


def test_what_another_peer_says_is_no_word():
    one = Waiting()
    sending, pulling, moving = one.sends("a", 1), one.pulls("b"), one.moves_here("c")
    one.ack(1, now=4.0, by=D1)
    for entry in (pulling, moving):
        one.arrival(4.0, entry.task.id, sender=D1)
    assert one.awaited.overdue(TIMEOUT_S) == [sending, pulling]
    assert one.awaited.overdue(3 * TIMEOUT_S) == [sending, pulling, moving]


def test_a_pull_waits_for_its_own_pages_and_for_those_asked_for_before():
    one = Waiting()
    first, second, third = (one.pulls(name) for name in "abc")
    one.arrival(4.0, second.task.id)
    assert one.awaited.overdue(TIMEOUT_S) == [first]
    assert one.awaited.overdue(TIMEOUT_S + 4.0) == [first, second, third]


def test_pages_of_something_else_are_no_word_for_a_pull():
    one = Waiting()
    pulling = one.pulls("a")
    one.arrival(4.0, OTHER)
    assert one.awaited.overdue(TIMEOUT_S) == [pulling]


def test_whatever_comes_from_its_source_is_a_word_for_a_row_that_moves_here():
    one = Waiting()
    moving = one.moves_here("a")
    one.arrival(4.0, OTHER)
    assert one.awaited.overdue(3 * TIMEOUT_S + 3.9) == []
    assert one.awaited.overdue(3 * TIMEOUT_S + 4.0) == [moving]


def test_what_a_peer_takes_says_nothing_of_what_is_to_come_from_it():
    one = Waiting()
    one.sent = 5
    pulling, moving = one.pulls("a"), one.moves_here("b")
    assert one.ack(5, now=4.0) == []
    assert one.awaited.overdue(TIMEOUT_S) == [pulling]
    assert one.awaited.overdue(3 * TIMEOUT_S) == [pulling, moving]


def test_what_comes_here_says_nothing_of_what_is_sent():
    one = Waiting()
    sending = one.sends("a", 1)
    one.arrival(4.0, sending.task.id, sender=D0)
    assert one.awaited.overdue(TIMEOUT_S) == [sending]
    assert one.awaited.overdue(TIMEOUT_S - 0.1) == []
