"""What one worker does while pages come back from its host memory, message by message."""

from dataclasses import replace

import pytest

from serving.core.plan import DropTransfer, FetchPages, Output, ReceivePages
from serving.messages import (
    Cancel,
    Granted,
    PagesReady,
    Refused,
    Tick,
    ToWorker,
    TransferFailed,
    WorkerLost,
)
from tests.support.one_worker import D0, LIMITS, P0, Worker, decode, kinds, launched, prefill, task

HISTORY = 32  # eight pages, three of which go in a payload


def run(worker: Worker, name: str, tokens: range) -> None:
    worker.on(prefill(task(name, tokens, max_tokens=1), None))
    while outputs := worker.step():
        worker.complete(launched(outputs), 1)


def crowded(host_pages: int = 40) -> Worker:
    """A worker whose host memory holds a history, and a row that decodes."""
    worker = Worker(num_pages=25, host_pages=host_pages)
    run(worker, "first", range(HISTORY))
    for i in range(12):
        run(worker, str(i), range(100 * i + 100, 100 * i + 108))
    worker.on(prefill(task("row", range(5000, 5005), max_tokens=20), None))
    worker.complete(worker.launch(), 1)
    return worker


def asked(outputs: list[Output]) -> list[PagesReady]:
    """What was announced, each behind the command that fetches it."""
    ready = [o.message for o in outputs if isinstance(o, ToWorker)]
    fetches = [o for o in outputs if isinstance(o, FetchPages)]
    announced = [one for one in ready if isinstance(one, PagesReady)]
    assert [f.transfer for f in fetches] == [one.transfer for one in announced]
    assert [len(f.host_slots) for f in fetches] == [one.num_pages for one in announced]
    assert all(o.worker == P0 for o in outputs if isinstance(o, ToWorker))
    return announced


def again(worker: Worker) -> list[Output]:
    worker.on(prefill(task("again", range(HISTORY + 2), max_tokens=3), None))
    return worker.step()


def test_pages_come_a_payload_at_a_time_beside_the_steps_of_others_and_the_rest_is_computed():
    worker = crowded()
    outputs = again(worker)
    first, second = asked(outputs)
    assert [(p.first_page, p.num_pages, p.stop) for p in (first, second)] == [
        (0, 3, 12),
        (3, 3, 24),
    ]
    plan = launched(outputs)
    assert (plan.num_decode, len(plan.chunks)) == (1, 0), "the row goes on meanwhile"
    outputs = worker.on(first)
    assert kinds(outputs) == ["ReceivePages", "FetchPages", "PagesReady"]
    (third,) = asked(outputs)
    assert (third.first_page, third.num_pages, third.stop) == (6, 2, 32)
    assert kinds(worker.on(second)) == ["ReceivePages"]
    assert kinds(worker.on(third)) == ["ReceivePages", "LoadSlot"]
    (chunk,) = worker.launch().chunks
    assert (chunk.start, chunk.tokens.tolist()) == (HISTORY, [32, 33])


def test_what_is_written_are_the_task_s_own_pages_in_their_order():
    worker = crowded()
    ready = asked(again(worker))
    entry = next(t for t in worker.batcher.holdings.tasks.values() if t.task.turn.id == "again")
    written: list[int] = []
    while ready:
        outputs = worker.on(ready.pop(0))
        written += [page for o in outputs if isinstance(o, ReceivePages) for page in o.pages]
        ready += asked([o for o in outputs if kinds([o]) != ["LoadSlot"]])
    assert written == entry.pages[:8]
    names = worker.batcher.holdings.pool._page_of
    assert [names[name] for name in entry.names[1:9]] == written, "and they can be found"


def test_an_owner_grants_once_it_has_what_it_fetches():
    worker = crowded()
    worker.on(decode(task("again", range(HISTORY + 2)), D0))
    outputs = worker.step()
    told: list[Output] = []
    ready = asked([o for o in outputs if kinds([o]) != ["LoadSlot"]])
    while ready:
        assert not any(isinstance(getattr(o, "message", None), Granted) for o in told)
        told = worker.on(ready.pop(0))
        own = [o for o in told if not (isinstance(o, ToWorker) and o.worker == D0)]
        ready += asked(own)
    (granted,) = [o.message for o in told if isinstance(o, ToWorker)]
    assert isinstance(granted, Granted)
    assert granted.held_len == HISTORY


def test_what_does_not_come_in_time_is_computed_and_what_comes_later_let_go():
    worker = crowded()
    first, second = asked(again(worker))
    (third,) = asked(worker.on(first))
    worker.now += 0.9 * LIMITS.transfer_timeout_s
    worker.on(second)
    worker.now += 0.9 * LIMITS.transfer_timeout_s
    assert kinds(worker.on(Tick())) == [], "a payload renews the deadline"
    worker.now += 0.2 * LIMITS.transfer_timeout_s
    assert kinds(worker.on(Tick())) == ["LoadSlot"]
    (chunk,) = worker.launch().chunks
    assert chunk.start == 24
    assert kinds(worker.on(third)) == ["DropTransfer"]


def test_a_turn_that_ends_leaves_what_it_has_not_asked_for_where_it_is():
    worker = crowded()
    first, second = asked(again(worker))
    holdings = worker.batcher.holdings
    entry = next(t for t in holdings.tasks.values() if t.task.turn.id == "again")
    assert holdings.host.find(entry.names[7:9]) == 0
    worker.on(Cancel(entry.task.id))
    assert holdings.host.find(entry.names[7:9]) == 2
    for ready in (first, second):
        assert kinds(worker.on(ready)) == ["DropTransfer"]
    assert holdings.host.find(entry.names[1:9]) == 0, "what was on its way is gone"


def test_tasks_fetch_one_behind_the_other_and_in_time_if_the_one_before_is_slow():
    worker = Worker(num_pages=33, host_pages=60)
    for name, start in (("one", 0), ("other", 1000)):
        run(worker, name, range(start, start + HISTORY))
    for i in range(16):
        run(worker, str(i), range(100 * i + 2000, 100 * i + 2008))
    for name, start in (("one", 0), ("other", 1000)):
        worker.on(prefill(task(f"{name} again", range(start, start + 33), max_tokens=3), None))
    ready = asked(worker.step())
    order: list[str] = []
    while ready:
        assert len(ready) <= 2
        worker.now += 0.6 * LIMITS.transfer_timeout_s
        assert not any(kinds([o]) == ["Refused"] for o in worker.on(Tick()))
        order.append(ready[0].task.turn)
        outputs = worker.on(ready.pop(0))
        ready += asked([o for o in outputs if kinds([o]) != ["LoadSlot"]])
    assert order == ["one again"] * 3 + ["other again"] * 3


def test_whoever_is_behind_one_that_ends_goes_on():
    worker = crowded()
    worker.on(prefill(task("again", range(HISTORY + 2), max_tokens=3), None))
    worker.on(prefill(task("behind", [*range(500, 508), 1], max_tokens=3), None))
    ready = asked(worker.step())
    assert {one.task.turn for one in ready} == {"again"}
    worker.on(Cancel(ready[0].task))
    (behind,) = asked(worker.on(Tick()))
    assert behind.task.turn == "behind"


def test_a_payload_that_cannot_be_read_ends_the_attempt():
    worker = crowded()
    first, _ = asked(again(worker))
    (refused,) = worker.on(TransferFailed(first.task, first.transfer, "broken"))
    assert isinstance(refused, Refused)
    assert refused.reason == "transfer_failed"


def test_a_task_whose_source_is_lost_while_it_fetches_is_given_up():
    worker = crowded()
    worker.on(decode(task("again", range(HISTORY + 2)), D0))
    worker.step()
    (refused,) = worker.on(WorkerLost(D0))
    assert isinstance(refused, Refused)
    assert refused.reason == "worker_lost"


@pytest.mark.parametrize("host_pages", [3, 8])
def test_slots_are_used_again_behind_the_fetch(host_pages: int):
    """Where host memory is as large as a history, what that displaces follows it there."""
    worker = crowded(host_pages)
    ready = asked(again(worker))
    while ready:
        outputs = worker.on(ready.pop(0))
        ready += asked([o for o in outputs if kinds([o]) != ["LoadSlot"]])
    worker.batcher.check()
    assert len(worker.batcher.holdings.host) <= host_pages


def test_a_row_that_moves_here_brings_all_it_has():
    worker = crowded()
    row = replace(task("again", range(HISTORY + 2), reply=(5,)), first_at=0.0)
    outputs = worker.on(decode(row, D0, move=1))
    assert not [o for o in outputs if isinstance(o, FetchPages | DropTransfer)]
    (granted,) = [o.message for o in outputs if isinstance(o, ToWorker)]
    assert isinstance(granted, Granted)
    assert granted.held_len == 0
