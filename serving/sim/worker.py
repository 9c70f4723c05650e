"""How does a worker run in virtual time? By the rounds of the engine's worker, without its thread.

One round: take the messages that have come, plan and launch a step, then wait for the step before
it. While it waits for a step it hears nothing, as the engine's thread does, but for a row that is
about to arrive. Steps, copies and slot loads run in the order they were launched.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.core.batcher import Batcher
from serving.core.plan import (
    DropTransfer,
    Launch,
    LoadSlot,
    OffloadPages,
    Output,
    ReceivePages,
    RestorePages,
    SendPages,
    StepPlan,
    StepResult,
)
from serving.costs.costs import Link
from serving.messages import (
    Decision,
    Event,
    PagesReady,
    ToWorker,
    TransferId,
    WorkerId,
    WorkerMessage,
)
from serving.sim.agenda import Agenda
from serving.sim.executor import SimExecutor
from serving.sim.links import Links

Leaving = Event | ToWorker | Decision


class Post(Protocol):
    """Takes what leaves a worker."""

    def __call__(self, leaving: Leaving, at: float) -> None:
        """Deliver it, at time `at`, which may be later than now."""
        ...


@dataclass(frozen=True, slots=True)
class World:
    """What all workers share: the clock, the ways between them, and what a page weighs.

    `max_launched` steps may be on a device at once: the engine launches one while another runs.
    """

    agenda: Agenda
    links: Links
    host_link: Link
    page_bytes: int
    max_launched: int


class SimWorker:
    """One batcher, one simulated device."""

    def __init__(
        self,
        batcher: Batcher,
        executor: SimExecutor,
        world: World,
        post: Post,
        wake: Callable[["SimWorker"], None],
    ) -> None:
        """`wake` is told when there is something to do for the worker: a `round` is to follow."""
        self.id = batcher.worker
        self.batcher = batcher
        self.busy_s = 0.0
        self._executor = executor
        self._agenda = world.agenda
        self._links = world.links
        self._host_link = world.host_link
        self._page_bytes = world.page_bytes
        self._max_launched = world.max_launched
        self._post = post
        self._wake = wake
        self._inbox: deque[WorkerMessage] = deque()
        self._launched: deque[tuple[StepPlan, StepResult]] = deque()
        self._device_free = 0.0
        self._waits_for_step = False
        self._arrivals: dict[TransferId, float] = {}
        self._last_arrival: dict[WorkerId, float] = {}

    def deliver(self, message: WorkerMessage) -> None:
        """Give the worker a message."""
        self._inbox.append(message)
        if not self._waits_for_step:
            self._wake(self)

    def round(self) -> None:
        """Do what can be done now: messages, then steps until it has to wait."""
        while True:
            while self._inbox:
                self._act(self.batcher.on(self._inbox.popleft(), self._agenda.now))
            queued = len(self._launched)
            most = 1 if self.batcher.expects_row else self._max_launched
            if queued < most:
                self._act(self.batcher.step(self._agenda.now))
            has_launched = len(self._launched) > queued
            if most == 1:
                if (until := self.batcher.held_until) is not None:
                    self._agenda.at(until, lambda: self._wake(self))
                return
            if self._launched and (len(self._launched) >= most or not has_launched):
                self._waits_for_step = True
                return
            if not has_launched:
                return

    def _step_ended(self) -> None:
        self._waits_for_step = False
        plan, result = self._launched.popleft()
        self._act(self.batcher.complete(plan, result, self._agenda.now))
        self._wake(self)

    def _act(self, outputs: Sequence[Output]) -> None:
        now = self._agenda.now
        for output in outputs:
            match output:
                case Launch(plan):
                    self._launch(plan)
                case LoadSlot():
                    self._executor.load_slot(output)
                case SendPages(transfer, _, pages, to):
                    # The copy runs behind the steps launched so far: they write what it takes.
                    ready = max(now, self._device_free)
                    num_bytes = len(pages) * self._page_bytes
                    self._arrivals[transfer] = self._links.send(self.id, to, num_bytes, ready)
                case RestorePages(slots, _):
                    self._copy_from_host(len(slots))
                case ReceivePages() | OffloadPages():
                    pass  # a copy within the device's memory, or one that nothing waits for
                case DropTransfer(transfer):
                    self._arrivals.pop(transfer, None)
                case ToWorker(worker, PagesReady() as ready):
                    self._post(output, self._arrival(worker, ready.transfer))
                case _:
                    self._post(output, now)

    def _launch(self, plan: StepPlan) -> None:
        seconds = self._executor.seconds(plan)
        self._launched.append((plan, self._executor.sample(plan)))
        self._device_free = max(self._agenda.now, self._device_free) + seconds
        self.busy_s += seconds
        self._agenda.at(self._device_free, self._step_ended)

    def _copy_from_host(self, pages: int) -> None:
        link = self._host_link
        seconds = link.latency_s + pages * self._page_bytes / link.bytes_per_s
        self._device_free = max(self._agenda.now, self._device_free) + seconds

    def _arrival(self, to: WorkerId, transfer: TransferId) -> float:
        """Return when announced pages are there; batches to one worker come in their order."""
        known = self._arrivals.pop(transfer, self._agenda.now)
        arrival = max(self._agenda.now, known, self._last_arrival.get(to, 0.0))
        self._last_arrival[to] = arrival
        return arrival
