"""What a worker does when pages do not arrive or a peer is gone.

Its device and connector are fakes that only remember; the batcher is real.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Event as Signal
from typing import Any

import pytest

from serving.core.batcher import Batcher
from serving.core.plan import LoadSlot, StepPlan, StepResult
from serving.engine.connectors.connector import Payload
from serving.engine.worker import Leaving, Moved, Worker
from serving.messages import (
    Ack,
    Adopted,
    Cancel,
    Finished,
    Granted,
    PagesReady,
    Refused,
    ToWorker,
    TransferId,
    WorkerId,
    WorkerLost,
)
from serving.request import FinishReason
from tests.support.fake_model import GRAMMAR
from tests.support.one_worker import D0, LIMITS, P0, decode, prefill, task
from tests.support.rules import batcher_rules

REASON = FinishReason.STOP
SECOND = TransferId(P0, 2)
CAME: Any = Payload("kv", "trace")  # type: ignore[arg-type]


class Device:
    """Samples zeros; breaks at its `last_step`."""

    def __init__(self, last_step: int | None = None) -> None:
        self.last_step = last_step
        self.steps = 0
        self.written: list[Any] = []
        self.traces: dict[int, Any] = {}
        self.when_launched: Callable[[], None] = lambda: None

    def load_slot(self, load: LoadSlot) -> None:
        pass

    def launch(self, plan: StepPlan) -> StepPlan:
        self.steps += 1
        self.when_launched()
        if self.steps == self.last_step:
            raise RuntimeError("the device is gone")
        return plan

    def has_run(self, pending: StepPlan) -> bool:
        return True

    def collect(self, pending: StepPlan) -> StepResult:
        ids = [0] * pending.num_decode, [0] * len(pending.chunks)
        return StepResult(*ids, None, None, {})

    def offload(self, pages: Sequence[int], host_slots: Sequence[int]) -> None:
        raise AssertionError("nothing is kept on the host")

    def fetch(self, host_slots: Sequence[int]) -> Any:
        raise AssertionError("nothing is kept on the host")

    def write(self, fetched: Any, pages: Sequence[int]) -> None:
        raise AssertionError("nothing is kept on the host")

    def gather(self, pages: Sequence[int]) -> tuple[int, ...]:
        return tuple(pages)

    def scatter(self, payload: Any, pages: Sequence[int]) -> None:
        self.written.append(payload)

    def read_trace(self, slot: int) -> str:
        return f"trace of {slot}"

    def write_trace(self, slot: int, trace: Any) -> None:
        self.traces[slot] = trace


class Payloads:
    """A connector that keeps what is sent; `lost` are the workers that it has given up.

    What comes is here at once, but for what is `under_way`: until `arrive`.
    """

    def __init__(self) -> None:
        self.kept: dict[TransferId, Payload] = {}
        self.lost: list[WorkerId] = []
        self.under_way: set[TransferId] = set()
        self.told_early: list[TransferId] = []
        self._asked: dict[TransferId, Callable[[], None]] = {}

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        if computed:
            self.told_early.append(transfer)
        if transfer in self.under_way:
            self._asked[transfer] = then
        else:
            then()

    def arrive(self, transfer: TransferId) -> None:
        self.under_way.remove(transfer)
        self._asked.pop(transfer)()

    def send(self, transfer: TransferId, payload: Payload, to: WorkerId) -> int:
        if to in self.lost:
            raise KeyError(to)
        self.kept[transfer] = payload
        return len(payload)

    def take(self, transfer: TransferId) -> Payload:
        return self.kept.pop(transfer)

    def drop(self, transfer: TransferId) -> None:
        self.kept.pop(transfer, None)

    def lose(self, worker: WorkerId) -> None:
        self.lost.append(worker)


class Bench:
    """One worker without its thread, and what has left it."""

    def __init__(self, name: WorkerId, device: Device | None = None, **limits: int) -> None:
        self.left: list[Leaving] = []
        self.gone = Signal()
        self.device = device or Device()
        self.payloads = Payloads()
        self.worker = Worker(
            Batcher(name, replace(LIMITS, **limits), batcher_rules()),
            self.device,
            self.payloads,
            self._post,
            lambda: 0.0,
        )
        self.over = Signal()

    def _post(self, leaving: Sequence[Leaving]) -> None:
        self.left += leaving
        if any(isinstance(item, WorkerLost) for item in leaving):
            self.gone.set()
        if any(isinstance(item, Finished) for item in leaving):
            self.over.set()

    def tell(self, message: Any) -> None:
        self.worker.deliver(message)
        self.worker.round()
        self.worker.batcher.check()

    def messages(self, kind: type) -> list[Any]:
        found = [item.message if isinstance(item, ToWorker) else item for item in self.left]
        return [item for item in found if isinstance(item, kind)]


def announced(work: Any, number: int, finish: FinishReason | None) -> PagesReady:
    return PagesReady(work.id, TransferId(P0, number), 0, 3, 9, (5,), finish, None)


@pytest.fixture
def owner() -> Bench:
    """A decode worker that has made room for a turn of nine tokens."""
    bench = Bench(D0)
    bench.tell(decode(task("a", range(9)), P0))
    assert bench.messages(Granted)
    return bench


@pytest.mark.parametrize("finish", [None, REASON], ids=["goes on", "is over"])
def test_nothing_is_cached_of_pages_that_never_came(owner, finish):
    owner.tell(announced(task("a", range(9)), 1, finish))
    assert [refused.reason for refused in owner.messages(Refused)] == ["transfer_failed"]
    assert owner.device.written == []
    report = owner.worker.batcher.report()
    assert (report.pages_used, report.pages_cached) == (0, 0)


def test_rows_go_on_while_pages_are_under_way_and_the_turn_joins_them_when_they_are_here(owner):
    transfer = TransferId(P0, 1)
    owner.payloads.kept[transfer] = CAME
    owner.payloads.under_way = {transfer}
    owner.tell(prefill(task("b", range(100, 104), max_tokens=8)))
    owner.tell(announced(task("a", range(9)), 1, None))
    for _ in range(4):
        owner.worker.round()
    assert owner.device.steps > 3
    assert owner.device.written == [], "its device would wait for the sender's step"
    assert not owner.messages(Adopted)
    owner.payloads.arrive(transfer)
    owner.worker.round()
    assert owner.device.written == ["kv"]
    assert len(owner.messages(Adopted)) == 1


def test_pages_that_break_on_their_way_end_the_attempt_and_not_the_worker(owner):
    def breaks(transfer: TransferId) -> Payload:
        raise RuntimeError("the copy has failed")

    owner.payloads.take = breaks
    owner.tell(announced(task("a", range(9)), 1, None))
    assert [refused.reason for refused in owner.messages(Refused)] == ["transfer_failed"]
    assert not owner.messages(WorkerLost)


def test_pages_of_a_reply_that_is_over_are_written_and_kept_when_they_came(owner):
    owner.payloads.kept[TransferId(P0, 1)] = CAME
    owner.tell(announced(task("a", range(9)), 1, REASON))
    assert owner.device.written == ["kv"]
    assert owner.device.traces == {}, "no row is to go on"
    assert owner.messages(Ack)
    report = owner.worker.batcher.report()
    assert (report.pages_used, report.pages_cached) == (0, 3)


def test_what_the_head_remembers_of_a_row_is_written_to_its_slot(owner):
    owner.payloads.kept[TransferId(P0, 1)] = CAME
    owner.tell(announced(task("a", range(9)), 1, None))
    (slot,) = owner.worker.batcher.holdings.by_slot
    assert owner.device.traces == {slot: "trace"}


@pytest.mark.parametrize("length", [4, 40], ids=["one copy", "several"])
def test_what_the_head_remembers_of_a_row_is_sent_with_its_last_pages(length: int):
    sender = Bench(P0)
    work = task("a", range(length))
    sender.tell(prefill(work, D0))
    sender.tell(Granted(work.id, D0, 0, None))
    while sender.worker.round():
        pass
    *before, last = sender.payloads.kept.values()
    assert bool(before) == (length > 4)
    assert {payload.trace for payload in before} <= {None}
    assert last.trace == "trace of 0"


def test_pages_for_a_turn_that_is_gone_are_let_go(owner):
    owner.payloads.kept[TransferId(P0, 1)] = CAME
    owner.tell(announced(task("b", range(9)), 1, REASON))
    assert owner.payloads.kept == {}
    assert owner.messages(Ack)
    assert owner.device.written == []


def test_a_send_to_a_lost_worker_ends_the_attempt_and_not_the_sender():
    sender = Bench(P0)
    sender.payloads.lose(D0)
    work = task("a", range(5))
    sender.tell(prefill(work, D0))
    sender.tell(Granted(work.id, D0, 0, None))
    assert [refused.reason for refused in sender.messages(Refused)] == ["transfer_failed"]
    assert not sender.messages(PagesReady)


def test_a_worker_that_breaks_leaves_only_what_it_has_announced():
    # The first step ends one prompt, whose announcement waits for its token, and fills pages of
    # another, which are announced at once. The second launch breaks.
    sender = Bench(P0, Device(last_step=2))
    for work in (task("a", range(4)), task("b", range(100, 120))):
        sender.worker.deliver(prefill(work, D0))
        sender.worker.deliver(Granted(work.id, D0, 0, None))
    sender.worker.start()
    assert sender.gone.wait(30)
    assert sender.worker.stop(30.0)
    assert len(sender.messages(Moved)) == 2
    assert [ready.transfer for ready in sender.messages(PagesReady)] == [SECOND]
    assert list(sender.payloads.kept) == [SECOND]
    assert sender.payloads.lost == [P0]
    assert sender.left[-1] == WorkerLost(P0)


WITHOUT_A_STEP_AHEAD = {
    "a token that must be read first": [
        task("a", range(4), max_tokens=9, grammar=GRAMMAR, stop_ids=(50,))
    ],
    "a slot that the last step of another frees": [
        task("a", range(4), max_tokens=1),
        task("b", range(20, 24), max_tokens=3),
    ],
}


@pytest.mark.parametrize("why", WITHOUT_A_STEP_AHEAD)
def test_what_a_step_makes_possible_is_done_without_another_message(why: str):
    bench = Bench(P0, max_rows=1)
    works = WITHOUT_A_STEP_AHEAD[why]
    for work in works:
        bench.worker.deliver(prefill(work))
    bench.worker.start()
    last = works[-1].id
    while last not in [finished.task for finished in bench.messages(Finished)]:
        assert bench.over.wait(30), "the worker sleeps, though there is work"
        bench.over.clear()
    assert bench.worker.stop(30.0)


# ---- a row that moves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("early", "fields"),
    [
        (True, {"move": 1, "reply": (5,), "computed": True}),
        (False, {"move": 1, "reply": (5,), "computed": False}),
        (False, {"move": 1, "reply": None, "computed": True}),
        (False, {"move": None, "reply": (5,), "computed": True}),
    ],
    ids=["its last pages", "behind a step", "more to come", "a hand-off"],
)
def test_only_the_last_pages_of_a_row_that_moves_may_be_told_before_they_have_come(
    owner, early: bool, fields: dict[str, Any]
):
    ready = PagesReady(
        task("a", range(9)).id,
        SECOND,
        0,
        3,
        9,
        **{"finish": None, **fields},  # type: ignore[arg-type]
    )
    owner.payloads.under_way = {SECOND}
    owner.tell(ready)
    assert owner.payloads.told_early == [SECOND] * early


def test_a_row_that_has_come_is_in_a_step_before_anybody_hears_of_it(owner):
    """Whom a message wakes takes the interpreter from the thread that has a step to launch."""
    told_before: list[int] = []
    owner.device.when_launched = lambda: told_before.append(len(owner.messages(Adopted)))
    owner.payloads.kept[TransferId(P0, 1)] = CAME
    owner.tell(announced(task("a", range(9)), 1, None))
    assert told_before == [0]
    assert [type(item) for item in owner.messages(Ack | Adopted)] == [Ack, Adopted]


def test_what_was_sent_and_never_announced_is_dropped_with_its_turn():
    """The last pages of a prompt are announced with its first token: it is cancelled before."""
    bench = Bench(P0)
    bench.tell(prefill(task("a", range(9)), D0))
    bench.tell(Granted(task("a", range(9)).id, D0, 0, None))
    (entry,) = bench.worker.batcher.holdings.tasks.values()
    while entry.unannounced is None:
        bench.worker.round()
    unannounced = entry.unannounced.transfer
    assert unannounced in bench.payloads.kept
    bench.tell(Cancel(entry.task.id))
    assert unannounced not in bench.payloads.kept
