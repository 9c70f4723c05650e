"""What a worker does with tasks that another one prefills or decodes, message by message."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.plan import (
    DropTransfer,
    LoadSlot,
    ReceivePages,
    SendPages,
)
from serving.messages import (
    Ack,
    Cancel,
    Granted,
    PagesReady,
    PullRequested,
    Refused,
    Task,
    TaskId,
    Tick,
    ToWorker,
    TransferFailed,
    TransferId,
    WorkerId,
    WorkerLost,
)
from serving.request import FinishReason, TurnId
from tests.support.one_worker import (
    D0,
    LIMITS,
    P0,
    Worker,
    at,
    decode,
    kinds,
    launched,
    prefill,
    task,
)


def ready(task: Task, number: int, page: int, pages: int, stop: int, **end: Any) -> PagesReady:
    fields: dict[str, Any] = {"reply": None, "finish": None, "move": None, **end}
    return PagesReady(task.id, TransferId(P0, number), page, pages, stop, **fields)


# ---- prefilled here, decoded elsewhere ----------------------------------------------------------


def granted(worker: Worker, work: Task, *, held_len: int = 0) -> None:
    worker.on(prefill(work, D0))
    worker.on(Granted(work.id, D0, held_len, None))


def test_nothing_is_prefilled_before_the_owner_has_room():
    worker = Worker()
    work = task("a", range(5))
    worker.on(prefill(work, D0))
    assert worker.step() == []
    worker.on(Granted(work.id, D0, 0, None))
    assert kinds(worker.step()) == ["LoadSlot", "Launch", "SendPages"]


def test_a_grant_may_overtake_its_task():
    worker = Worker()
    work = task("a", range(5))
    worker.on(Granted(work.id, D0, 0, None))
    assert worker.step() == []
    worker.on(prefill(work, D0))
    assert "Launch" in kinds(worker.step())


def test_a_grant_for_a_task_that_never_comes_is_forgotten():
    worker = Worker()
    work = task("a", range(5))
    worker.on(Granted(work.id, D0, 0, None))
    worker.now = LIMITS.transfer_timeout_s
    worker.on(Tick())
    worker.on(prefill(work, D0))
    assert worker.step() == []


def test_filled_pages_travel_while_the_next_chunk_is_computed_and_the_last_with_the_first_token():
    worker = Worker(max_chunk_tokens=6)
    work = task("a", range(10))
    granted(worker, work)
    first = worker.step()
    assert kinds(first) == ["LoadSlot", "Launch", "SendPages", "PagesReady"]
    pages = at(first, 3, PagesReady)
    assert (pages.first_page, pages.num_pages, pages.stop, pages.reply) == (0, 1, 4, None)
    second = worker.step()
    assert kinds(second) == ["Launch", "SendPages"]
    assert len(at(second, 1, SendPages).pages) == 2
    worker.complete(launched(first), -1)
    outputs = worker.complete(launched(second), 33)
    assert kinds(outputs) == ["PrefillDone", "PagesReady"], "the coordinator hears of it first"
    pages = at(outputs, 1, PagesReady)
    assert (pages.first_page, pages.num_pages, pages.stop) == (1, 2, 10)
    assert (pages.reply, pages.finish) == ((33,), None)


def test_pages_are_kept_until_every_transfer_is_acknowledged():
    worker = Worker(max_chunk_tokens=6)
    work = task("a", range(10))
    granted(worker, work)
    first, second = worker.step(), worker.step()
    worker.complete(launched(first), -1)
    worker.complete(launched(second), 33)
    assert worker.batcher.holdings.rows.num_free == LIMITS.max_rows, "its slot is free already"
    worker.on(Ack(D0, work.id, at(second, 1, SendPages).transfer))
    assert worker.num_held == 3
    worker.on(Ack(D0, work.id, at(second, 1, SendPages).transfer))
    assert worker.num_held == 3, "a repeated confirmation counts once"
    worker.on(Ack(D0, work.id, at(first, 2, SendPages).transfer))
    assert worker.is_empty()


def test_pages_nobody_confirmed_come_back_after_the_timeout():
    worker = Worker()
    granted(worker, task("a", range(6)))
    worker.now = 5.0
    worker.complete(worker.launch(), 33)
    worker.now = 5.0 + LIMITS.transfer_timeout_s - 0.1
    worker.on(Tick())
    assert worker.num_held == 2
    worker.now += 0.1
    worker.on(Tick())
    assert worker.is_empty()


def test_a_step_slower_than_the_transfer_timeout_loses_nothing():
    worker = Worker()
    granted(worker, task("a", range(6)))
    plan = worker.launch()
    worker.now = 10 * LIMITS.transfer_timeout_s
    worker.on(Tick())
    assert kinds(worker.complete(plan, 33)) == ["PrefillDone", "PagesReady"]


def test_a_hand_off_cancelled_before_its_announcement_drops_the_payload():
    worker = Worker()
    work = task("a", range(6))
    granted(worker, work)
    outputs = worker.step()
    assert worker.on(Cancel(work.id)) == [DropTransfer(at(outputs, 2, SendPages).transfer)]
    assert worker.is_empty()
    assert worker.complete(launched(outputs), 33) == []


def test_a_prompt_that_is_scored_is_run_whole_and_nothing_is_pulled_for_it():
    worker = Worker()
    granted(worker, task("a", range(8), prompt_logprobs=0), held_len=6)
    outputs = worker.step()
    assert kinds(outputs) == ["LoadSlot", "Launch", "SendPages"]
    chunk = launched(outputs).chunks[0]
    assert chunk.targets is not None
    assert (chunk.start, chunk.targets.tolist()) == (0, [1, 2, 3, 4, 5, 6, 7, 0])
    assert len(at(outputs, 2, SendPages).pages) == 1, "the owner has the first page"


def test_history_that_does_not_come_in_time_is_computed():
    worker = Worker()
    work = task("a", range(8))
    granted(worker, work, held_len=6)
    outputs = worker.step()
    assert outputs[1] == ToWorker(D0, PullRequested(work.id, P0, 0, 6))
    assert worker.step() == []
    worker.now = LIMITS.transfer_timeout_s
    worker.on(Tick())
    plan = worker.launch()
    assert plan.chunks[0].tokens.tolist() == list(range(8))
    late = PagesReady(work.id, TransferId(D0, 1), 0, 2, 6, None, None, None)
    outputs = worker.on(late)
    assert kinds(outputs) == ["DropTransfer", "Ack"]


def test_the_loss_of_the_owner_frees_what_is_kept_for_it():
    worker = Worker()
    granted(worker, task("a", range(6)))
    worker.complete(worker.launch(), 33)
    worker.on(prefill(task("b", range(6)), D0))
    worker.on(WorkerLost(WorkerId("d1")))
    assert worker.num_held == 2
    assert worker.on(WorkerLost(D0)) == []
    assert worker.is_empty()


# ---- prefilled elsewhere, decoded here ----------------------------------------------------------


def owner(**limits: int) -> Worker:
    return Worker(D0, **limits)


def test_an_owner_reserves_grants_and_decodes_from_the_first_token():
    worker = owner()
    work = task("a", range(6), max_tokens=3)
    worker.on(decode(work, P0))
    granted = worker.step()
    assert kinds(granted) == ["Granted", "LoadSlot"]
    assert granted[0] == ToWorker(P0, Granted(work.id, D0, 0, None))
    assert worker.num_held == 2
    outputs = worker.on(ready(work, 1, 0, 1, 4))
    assert kinds(outputs) == ["ReceivePages", "Ack"]
    assert worker.step() == []
    outputs = worker.on(ready(work, 2, 1, 1, 6, reply=(33,)))
    assert kinds(outputs) == ["ReceivePages", "Ack", "Adopted", "LoadSlot"]
    assert at(outputs, 3, LoadSlot).reply == (33,)
    plan = worker.launch()
    assert plan.decode.token.tolist() == [33]
    assert plan.decode.from_host.tolist() == [True]
    assert (plan.decode.position.tolist(), plan.decode.reply_index.tolist()) == ([6], [1])


def test_an_owner_lends_the_history_asked_for_and_keeps_it():
    worker = owner()
    old = task("a", range(10), max_tokens=1)
    worker.on(prefill(old, None))
    plans = [worker.launch(), worker.launch()]
    worker.complete(plans[0], -1)
    worker.complete(plans[1], 33)
    work = task("b", [*range(10), 33, 1, 2])
    worker.on(decode(work, P0))
    assert worker.step()[0] == ToWorker(P0, Granted(work.id, D0, 10, None))
    held = worker.num_held
    send, message = worker.on(PullRequested(work.id, P0, 5, 10))
    assert isinstance(send, SendPages)
    assert len(send.pages) == 2
    assert message == ToWorker(P0, PagesReady(work.id, send.transfer, 1, 2, 10, None, None, None))
    assert worker.num_held == held


def test_a_reply_that_is_over_already_is_only_kept():
    worker = owner()
    work = task("a", range(6))
    worker.on(decode(work, P0))
    worker.step()
    end: dict[str, Any] = {"reply": (33,), "finish": FinishReason.STOP}
    outputs = worker.on(ready(work, 1, 0, 2, 6, **end))
    assert kinds(outputs) == ["ReceivePages", "Ack"]
    assert worker.is_empty()
    again = task("b", [*range(6), 33, 7])
    worker.on(decode(again, P0))
    assert worker.step()[0] == ToWorker(P0, Granted(again.id, D0, 6, None))


def test_pages_for_a_cancelled_task_are_dropped_and_confirmed():
    worker = owner()
    work = task("a", range(6))
    worker.on(decode(work, P0))
    worker.step()
    worker.on(Cancel(work.id))
    transfer = TransferId(P0, 1)
    assert worker.on(ready(work, 1, 0, 2, 6)) == [
        DropTransfer(transfer),
        ToWorker(P0, Ack(D0, work.id, transfer)),
    ]


def test_a_broken_transfer_refuses_the_task_and_leaves_nothing_to_find():
    worker = owner()
    work = task("a", range(9))
    worker.on(decode(work, P0))
    worker.step()
    outputs = worker.on(ready(work, 1, 0, 2, 8))
    assert isinstance(outputs[0], ReceivePages)
    failed = TransferFailed(work.id, TransferId(P0, 2), "no payload")
    assert worker.on(failed) == [Refused(D0, work.id, "transfer_failed")]
    assert worker.is_empty()
    again = task("b", range(9))
    worker.on(decode(again, P0))
    assert worker.step()[0] == ToWorker(P0, Granted(again.id, D0, 0, None))


def test_a_sender_keeps_its_own_pages_when_a_transfer_breaks():
    worker = Worker()
    work = task("a", range(9))
    granted(worker, work)
    worker.complete(worker.launch(), 0)  # what a step computed counts once it is over
    send = at(worker.step(), 1, SendPages)
    failed = TransferFailed(work.id, send.transfer, "link_down")
    dropped = DropTransfer(send.transfer)
    assert worker.on(failed) == [dropped, Refused(P0, work.id, "transfer_failed", 9)]
    assert worker.is_empty()
    granted(worker, replace(work, id=TaskId(TurnId("a"), 1)))
    assert worker.launch().chunks[0].start == 8


def test_a_broken_transfer_leaves_what_was_there_before():
    worker = owner()
    worker.on(prefill(task("a", range(6), max_tokens=1), None))
    worker.complete(worker.launch(), 33)
    work = task("b", [*range(6), 33, 1, 2])
    worker.on(decode(work, P0))
    worker.step()
    worker.on(TransferFailed(work.id, TransferId(P0, 1), "link_down"))
    worker.on(decode(replace(work, id=TaskId(TurnId("b"), 1)), P0))
    assert at(worker.step(), 0, Granted) == Granted(TaskId(TurnId("b"), 1), D0, 6, None)


def test_the_loss_of_the_prefill_worker_frees_what_waits_for_it():
    worker = owner()
    work, running = task("a", range(6)), task("b", range(20, 26))
    for each in (work, running):
        worker.on(decode(each, P0))
    worker.step()
    worker.on(ready(running, 1, 0, 2, 6, reply=(33,)))
    assert worker.on(WorkerLost(P0)) == [Refused(D0, work.id, "worker_lost")]
    assert worker.launch().decode_tasks == (running.id,)


@pytest.mark.parametrize(("coming", "late"), [(2, 1), (2, None), (None, 1)])
def test_late_pages_of_another_move_are_let_go_and_the_row_waits_on(
    coming: int | None, late: int | None
):
    """What an earlier move, a hand-off or a pull has sent says nothing of the pages before it."""
    worker = Worker(D0)
    work = task("a", range(9))
    worker.on(decode(work, P0, move=coming))
    worker.step()
    told = worker.on(ready(work, 7, 1, 2, 9, reply=(5,), move=late))
    assert kinds(told) == ["DropTransfer", "Ack"]
    told = worker.on(ready(work, 8, 0, 3, 9, reply=(5,), move=coming))
    assert "Adopted" in kinds(told)
