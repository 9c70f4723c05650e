"""A row that is about to arrive waits behind no step but the one that runs."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from serving.core.batcher import Batcher
from serving.core.plan import LoadSlot, StepPlan, StepResult
from serving.engine.connectors.connector import Payload
from serving.engine.worker import Worker
from serving.messages import (
    Cancel,
    LastStep,
    PagesReady,
    TaskId,
    TransferId,
    WorkerId,
    WorkerMessage,
)
from serving.request import TurnId
from tests.support.one_worker import D0, LIMITS, P0, decode, prefill, task
from tests.support.rules import batcher_rules

PAGE, ROUNDS = LIMITS.page_size, 6
GUEST_LEN = 3 * LIMITS.move_pages * PAGE
"""Three copies long: it is about to arrive when one of them is left."""


class Device:
    """Samples zeros, and notes how many steps were launched when one was read.

    `while_running` happens once, while a step runs that the worker waits for.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.depths: list[int] = []
        self.rows: list[int] = []
        self.while_running: Callable[[], None] | None = None

    def load_slot(self, load: LoadSlot) -> None:
        pass

    def launch(self, plan: StepPlan) -> StepPlan:
        self.in_flight += 1
        self.rows.append(plan.num_decode)
        return plan

    def has_run(self, pending: StepPlan) -> bool:
        event, self.while_running = self.while_running, None
        if event is None:
            return True
        event()
        return False

    def collect(self, pending: StepPlan) -> StepResult:
        self.depths.append(self.in_flight)
        self.in_flight -= 1
        return StepResult([0] * pending.num_decode, [0] * len(pending.chunks), None, None, {})

    def scatter(self, payload: Any, pages: Sequence[int]) -> None:
        pass

    def gather(self, pages: Sequence[int]) -> None:
        raise AssertionError("no page leaves")

    def read_trace(self, slot: int) -> None:
        raise AssertionError("no row leaves")

    def write_trace(self, slot: int, trace: Any) -> None:
        raise AssertionError("there is no head")

    def offload(self, pages: Sequence[int], host_slots: Sequence[int]) -> None:
        raise AssertionError("no page leaves")

    def fetch(self, host_slots: Sequence[int]) -> Any:
        raise AssertionError("no page leaves")

    def write(self, fetched: Any, pages: Sequence[int]) -> None:
        raise AssertionError("no page leaves")


class Payloads:
    """A connector to which everything has come."""

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        then()

    def take(self, transfer: TransferId) -> Any:
        return Payload("kv", None)  # type: ignore[arg-type]

    def send(self, transfer: TransferId, payload: Any, to: WorkerId) -> int:
        raise AssertionError("no page leaves")

    def drop(self, transfer: TransferId) -> None:
        pass

    def lose(self, worker: WorkerId) -> None:
        pass


class Bench:
    """One worker without its thread, on which a row decodes."""

    def __init__(self) -> None:
        self.device = Device()
        batcher = Batcher(D0, LIMITS, batcher_rules())
        self.clock: Callable[[], float] = lambda: 0.0
        self.worker = Worker(
            batcher, self.device, Payloads(), lambda leaving: None, lambda: self.clock()
        )
        self.worker.deliver(prefill(task("mine", range(4), max_tokens=50)))
        self.rounds()

    def tell(self, message: WorkerMessage) -> None:
        self.worker.deliver(message)
        self.rounds()

    def rounds(self) -> None:
        for _ in range(ROUNDS):
            self.worker.round()
        self.worker.batcher.check()

    @property
    def depth(self) -> int:
        """Steps in flight, the one being read among them, as of late."""
        return max(self.device.depths[-2:])


def test_steps_are_queued_ahead_until_one_copy_is_left_and_again_after_the_row_came():
    bench = Bench()
    guest = task("guest", range(100, 100 + GUEST_LEN), max_tokens=20)
    pages = LIMITS.move_pages
    bench.tell(decode(guest, P0, move=1))
    assert bench.depth == 2  # nothing has come of it: its stop is far away
    for number in (1, 2):
        first = (number - 1) * pages
        transfer, stop = TransferId(P0, number), number * pages * PAGE
        bench.tell(PagesReady(guest.id, transfer, first, pages, stop, None, None, 1))
        assert bench.depth == (2 if number == 1 else 1)
    last = PagesReady(guest.id, TransferId(P0, 3), 2 * pages, pages, GUEST_LEN, (7,), None, 1)
    bench.tell(last)
    assert bench.depth == 2


def test_a_row_that_will_not_come_holds_nothing_up():
    bench = Bench()
    guest = task("guest", range(100, 104), max_tokens=20)
    bench.tell(decode(guest, P0, move=1))
    assert bench.depth == 1
    bench.tell(Cancel(guest.id))
    assert bench.depth == 2


def test_a_row_that_comes_while_a_step_runs_is_queued_behind_it_at_once():
    bench = Bench()
    guest = task("guest", range(100, 104), max_tokens=20)
    bench.tell(decode(guest, P0, move=1))
    last = PagesReady(guest.id, TransferId(P0, 1), 0, 1, 4, (7,), None, 1)
    bench.device.while_running = lambda: bench.worker.deliver(last)
    bench.worker.round()
    read, launched = len(bench.device.depths), len(bench.device.rows)
    bench.worker.round()
    assert bench.device.rows[launched:] == [2]  # the row that was here, and the guest
    assert bench.device.depths[read:] == [2]  # launched before the step that ran was read


def held_back(bench: Bench) -> None:
    """A guest's last step has been launched, and no step runs here: the next one waits for it."""
    guest = task("guest", range(100, 104), max_tokens=20)
    bench.tell(decode(guest, P0, move=1))
    bench.worker.deliver(LastStep(guest.id, 1, 0.0))
    while bench.worker.round():
        pass
    assert bench.device.in_flight == 0
    assert bench.worker.batcher.held_until is not None


def test_the_thread_sleeps_until_the_step_waits_no_longer():
    bench = Bench()
    held_back(bench)
    launched = len(bench.device.rows)
    began = time.monotonic()
    bench.clock = lambda: time.monotonic() - began
    bench.worker.start()
    while len(bench.device.rows) == launched:
        assert time.monotonic() < began + 60, "the thread sleeps on"
        time.sleep(0.001)
    assert bench.worker.stop(30.0)
    bench.worker.batcher.check()


def test_what_a_held_step_waits_for_wakes_the_thread():
    bench = Bench()
    held_back(bench)  # for ever: no time passes
    launched = len(bench.device.rows)
    bench.worker.start()
    last = PagesReady(TaskId(TurnId("guest"), 0), TransferId(P0, 1), 0, 1, 4, (7,), None, 1)
    bench.worker.deliver(last)
    began = time.monotonic()
    while len(bench.device.rows) == launched:
        assert time.monotonic() < began + 60, "the thread sleeps on"
        time.sleep(0.001)
    assert bench.worker.stop(30.0)
    assert bench.device.rows[launched] == 2
