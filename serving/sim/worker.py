"""How does a worker run in virtual time? By the rounds of the engine's worker, without its thread.

One round: take the messages that have come, plan and launch a step, then wait for the step before
it. While it waits for a step it hears nothing, as the engine's thread does, but for a row that is
about to arrive. Steps, copies and slot loads run in the order they were launched. Rounds in which
rows merely go on are done together (`stretch`).
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from serving.core.batcher import Batcher
from serving.core.plan import (
    DropTransfer,
    FetchPages,
    Launch,
    LoadSlot,
    OffloadPages,
    Output,
    ReceivePages,
    SendPages,
    StepPlan,
    StepResult,
)
from serving.core.steady import SteadySteps
from serving.core.stepper import Told
from serving.costs.costs import Link
from serving.messages import (
    Decision,
    Event,
    PagesReady,
    Tick,
    ToWorker,
    TransferId,
    WorkerId,
    WorkerMessage,
)
from serving.sim.agenda import Agenda, Moment
from serving.sim.executor import SimExecutor
from serving.sim.links import Links
from serving.sim.stretch import LEAST_STEPS, Stretch

Leaving = Event | ToWorker | Decision


class Hall(Protocol):
    """Where workers meet the others."""

    def post(self, leaving: Leaving, at: float) -> None:
        """Deliver what leaves a worker, at time `at`, which may be later than now."""
        ...

    def tell(self, event: Told, moments: Sequence[Moment]) -> None:
        """Take what has left a worker at a moment that may be over; several steps at theirs."""
        ...

    def wake(self, worker: "SimWorker") -> None:
        """Give a worker a round before time goes on: there is something to do for it."""
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


class _Step(NamedTuple):
    """A step on the device."""

    plan: StepPlan
    result: StepResult
    ends: Moment


class SimWorker:
    """One batcher, one simulated device."""

    def __init__(
        self,
        batcher: Batcher,
        executor: SimExecutor,
        world: World,
        hall: Hall,
    ) -> None:
        """Start with nothing to do."""
        self.id = batcher.worker
        self.batcher = batcher
        self.busy_s = 0.0
        self._executor = executor
        self._agenda = world.agenda
        self._links = world.links
        self._host_link = world.host_link
        self._page_bytes = world.page_bytes
        self._max_launched = world.max_launched
        self._hall = hall
        self._inbox: deque[WorkerMessage] = deque()
        self._launched: deque[_Step] = deque()
        self._awaited: Moment | None = None  # the end of a step that is on the agenda
        self._stretch: Stretch | None = None
        self.reports_at = inf
        self._device_free = self._host_free = 0.0
        self._waits_for_step = False
        self._arrivals: dict[TransferId, float] = {}
        self._last_arrival: dict[WorkerId, float] = {}

    def deliver(self, message: WorkerMessage) -> None:
        """Give the worker a message. It hears of it when the step that runs has ended."""
        if self._stretch is not None:
            if isinstance(message, Tick) and not self.batcher.awaits_tick:
                return  # it would cut short what goes on, and change nothing
            self.catch_up()
            self._stretch = None
            self.reports_at = inf
            self._await(self._launched[0].ends)
        self._inbox.append(message)
        if not self._waits_for_step:
            self._hall.wake(self)

    def round(self) -> None:
        """Do what can be done now: messages, then steps until it has to wait."""
        self._go_through()
        if self._launched and self._awaited is None:
            self._stretch = self._look_ahead()
            ends = self._launched[0].ends if self._stretch is None else self._stretch.ends
            self._look_out()
            self._await(ends)

    def tell_times(self) -> None:
        """Tell what the steps of a stretch took that are over by now, before their rounds are done.

        What rows sampled in them need not be known for that, and can be taken with later steps.
        """
        if self._stretch is not None and (over := self._stretch.time(self._agenda.reached)):
            for i, report in self.batcher.time(over.times):
                self._hall.tell(report, over[i : i + 1])
            self._look_out()

    def catch_up(self) -> None:
        """Do those rounds of a stretch that are over by now, each as of its own time."""
        if self._stretch is None or self._stretch.next_end >= self._agenda.reached:
            return
        over, seconds = self._stretch.take(self._agenda.reached)
        if not over:
            return
        running, queued = self._launched
        results = [running.result, queued.result]
        told = self.batcher.go_on(over.times, results, self._executor.sample_more)
        for i, output in told:
            steps = len(output.ends) if isinstance(output, SteadySteps) else 1
            self._hall.tell(output, over[i : i + steps])
        self._executor.go_on(len(over))
        for step_s in seconds:
            self.busy_s += step_s
        first, second = self._stretch.launched
        # To complete a step its plan is asked for its chunks only, so that any other will do.
        self._launched.clear()
        self._launched.append(_Step(running.plan, results[0], first))
        self._launched.append(_Step(queued.plan, results[1], second))
        self._device_free = second.time
        self._look_out()

    def _look_out(self) -> None:
        """Find when the steps of the stretch will next be reported."""
        stretch = self._stretch
        self.reports_at = inf if stretch is None else stretch.end_of(self.batcher.reports_in)

    def _look_ahead(self) -> Stretch | None:
        """Find the rounds to come in which rows merely go on; None if there are few."""
        if not self._waits_for_step or len(self._launched) != 2:
            return None
        running, queued = self._launched
        # The executor keeps one list as long as the same rows sample the same, and none ends.
        if running.result.decode_ids is not queued.result.decode_ids:
            return None
        steps = min(self.batcher.steady_for, self._executor.goes_on)
        if steps < LEAST_STEPS:
            return None
        seconds = self._executor.seconds_ahead(queued.plan, steps)
        return Stretch((running.ends, queued.ends), seconds)

    def _await(self, ends: Moment) -> None:
        self._awaited = ends
        self._agenda.enter(ends, lambda: self._step_ended(ends))

    def _go_through(self) -> None:
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
                    self._agenda.at(until, lambda: self._hall.wake(self))
                return
            if self._launched and (len(self._launched) >= most or not has_launched):
                self._waits_for_step = True
                return
            if not has_launched:
                return

    def _step_ended(self, ends: Moment) -> None:
        if ends is not self._awaited:
            return  # a message has come since: an earlier step was waited for
        self.catch_up()
        self._stretch = self._awaited = None
        self.reports_at = inf
        self._waits_for_step = False
        plan, result, _ = self._launched.popleft()
        self._act(self.batcher.complete(plan, result, self._agenda.now))
        self._hall.wake(self)

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
                    self._arrivals[transfer] = self._links.send(
                        self.id, to, num_bytes, ready=ready, now=now
                    )
                case FetchPages(transfer, _, slots):
                    self._arrivals[transfer] = self._fetch(len(slots))
                case ReceivePages() | OffloadPages():
                    pass  # a copy within the device's memory, or one that nothing waits for
                case DropTransfer(transfer):
                    self._arrivals.pop(transfer, None)
                case ToWorker(worker, PagesReady() as ready):
                    self._hall.post(output, self._arrival(worker, ready.transfer))
                case _:
                    self._hall.post(output, now)

    def _launch(self, plan: StepPlan) -> None:
        seconds = self._executor.seconds(plan)
        result = self._executor.sample(plan)
        self._device_free = max(self._agenda.now, self._device_free) + seconds
        self.busy_s += seconds
        self._launched.append(_Step(plan, result, self._agenda.moment(self._device_free)))

    def _fetch(self, pages: int) -> float:
        """Return when pages from host memory are here: one payload comes behind the other."""
        seconds = pages * self._page_bytes / self._host_link.bytes_per_s
        self._host_free = max(self._agenda.now, self._host_free) + seconds
        return self._host_free + self._host_link.latency_s

    def _arrival(self, to: WorkerId, transfer: TransferId) -> float:
        """Return when announced pages are there; batches to one worker come in their order."""
        known = self._arrivals.pop(transfer, self._agenda.now)
        arrival = max(self._agenda.now, known, self._last_arrival.get(to, 0.0))
        self._last_arrival[to] = arrival
        return arrival
