"""What happens to a whole workload? One coordinator, its workers and its clients, on one agenda.

The coordinator's messages take no time: it runs in the same process as its workers, as it does when
served. It hears of everything as of the time at which it happens, and of each worker in order; of
what calls for no decision it hears together, before it next has to decide by it. A prompt or a
reply that has ended concerns its turn and its worker only, so that of the others it hears later.
Equal inputs give equal histories.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import Protocol, assert_never

from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.steady import SteadySteps
from serving.core.stepper import Told
from serving.messages import (
    Action,
    Arrived,
    Decision,
    Emit,
    EmitPrompt,
    End,
    Event,
    Finished,
    LoadReport,
    PagesChanged,
    PrefillDone,
    Role,
    StepsTimed,
    Tick,
    Tokens,
    ToWorker,
    WorkerId,
    WorkerJoined,
    WorkerMessage,
)
from serving.request import Turn
from serving.sim.agenda import Agenda, Moment
from serving.sim.links import Links
from serving.sim.measure import Measurements
from serving.sim.worker import Leaving

TICK_S = 0.25  # as in the engine's loop


Happened = Told | PagesChanged | Decision
"""What a worker tells that calls for no action; its decisions are only noted."""
_PAGES_USED, _RUNNING = attrgetter("pages_used"), attrgetter("running")
Untold = tuple[Sequence[Moment], Happened]
"""With when it happened: several moments for several steps."""
Entry = Turn | Decision | End
Note = Callable[[Entry, float], None]


def _first_moment(told: Untold) -> Moment:
    return told[0][0]


class Audience(Protocol):
    """Who sends turns, and hears when one has ended."""

    def on_end(self, end: End) -> None:
        """A turn has ended; more may follow it."""
        ...


class VirtualWorker(Protocol):
    """A worker whose rounds run in virtual time."""

    @property
    def id(self) -> WorkerId:
        """Its name."""
        ...

    @property
    def batcher(self) -> Batcher:
        """Its state machine."""
        ...

    @property
    def reports_at(self) -> float:
        """When it next tells what its steps took, if they go on as they do; else inf."""
        ...

    @property
    def busy_s(self) -> float:
        """How long its steps have taken together."""
        ...

    def deliver(self, message: WorkerMessage) -> None:
        """Give it a message."""
        ...

    def round(self) -> None:
        """Let it do what can be done now."""
        ...

    def tell_times(self) -> None:
        """Let it tell what its steps took that are over by now, if it does not do so by itself."""
        ...

    def catch_up(self) -> None:
        """Let it do what it would have done by now."""
        ...


class StalledError(RuntimeError):
    """Turns are live and nothing is left to be done: a fault of the scheduler."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the workers held at one time: pages in use and rows, by worker."""

    at: float
    pages: tuple[int, ...]
    rows: tuple[int, ...]


class Simulation:
    """Runs a workload through a scheduler. Assemble with `serving/sim/build`."""

    def __init__(self, coordinator: Coordinator, agenda: Agenda, links: Links, note: Note) -> None:
        """Start without workers or clients. `note` is told of arrivals, decisions and ends."""
        self.coordinator = coordinator
        self.agenda = agenda
        self.links = links
        self.measurements = Measurements()
        self.workers: dict[WorkerId, VirtualWorker] = {}
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.samples: list[Sample] = []
        self.steps = 0
        self._sample_every_s = TICK_S
        self._note = note
        self._clients: Audience | None = None
        self._progress: Callable[[], object] = lambda: None
        self._ready: deque[VirtualWorker] = deque()
        self._is_ready: set[WorkerId] = set()
        self._ticking = False
        # What the coordinator has yet to hear of. It decides nothing by it alone.
        self._untold: list[Untold] = []
        # What has happened since all was told: it is noted in the order of its moments.
        self._unnoted: list[tuple[Moment, Entry]] = []
        # The others had no task at their last tick and have got no message since: nothing becomes
        # of them meanwhile, they would tell the same again, and a large fleet has many. By place,
        # so that workers have their ticks in the order in which they joined.
        self._awake: dict[int, VirtualWorker] = {}
        self._places: dict[WorkerId, int] = {}
        self._reports: dict[WorkerId, LoadReport] = {}

    def join(self, worker: VirtualWorker, role: Role) -> None:
        """Add a warm worker."""
        self.workers[worker.id] = worker
        self._places[worker.id] = place = len(self._places)
        self._awake[place] = worker
        limits = worker.batcher.limits
        capacity = limits.num_pages * limits.page_size
        self._take(WorkerJoined(worker.id, role, capacity))

    def run(self, clients: Audience, progress: Callable[[], object]) -> None:
        """Run to the end of every turn, calling `progress` at each; raises StalledError."""
        self._clients = clients
        self._progress = progress
        try:
            while (do := self.agenda.next()) is not None:
                do()
                self._run_ready()
            self._tell_all()
        finally:
            self._note_all()
        if self.coordinator.live_turns:
            raise StalledError(f"{self.coordinator.live_turns} turns do not end")

    def submit(self, turn: Turn) -> None:
        """A client sends a turn now."""
        self._tell_before(turn)
        now = self.agenda.now
        self._unnoted.append((self.agenda.reached, turn))
        self.measurements.on_arrival(turn, now)
        self._take_as_of(self.agenda.reached, Arrived(turn))
        if not self._ticking:
            self._ticking = True
            self.agenda.at((now // TICK_S + 1) * TICK_S, self._tick)

    def post(self, leaving: Leaving, at: float) -> None:
        """Deliver what leaves a worker, now or later."""
        if at > self.agenda.now:
            self.agenda.at(at, lambda: self._deliver(leaving))
        else:
            self._deliver(leaving)

    def tell(self, event: Happened, moments: Sequence[Moment]) -> None:
        """Let the coordinator hear of an event, or of several steps, before it next decides."""
        self._untold.append((moments, event))

    def wake(self, worker: VirtualWorker) -> None:
        """Give a worker a round before time goes on."""
        if worker.id not in self._is_ready:
            self._is_ready.add(worker.id)
            self._ready.append(worker)

    def _run_ready(self) -> None:
        while self._ready:
            worker = self._ready.popleft()
            self._is_ready.discard(worker.id)
            worker.round()

    def _deliver(self, leaving: Leaving) -> None:
        match leaving:
            case Tokens() | StepsTimed() | PagesChanged() | Decision():
                self.tell(leaving, (self.agenda.reached,))
            case ToWorker(worker, message):
                self._hand(worker, message)
            case PrefillDone() | Finished():
                self._tell_of(leaving.worker)
                self._take_as_of(self.agenda.reached, leaving)
            case _:
                self._take(leaving)

    def _tell_all(self) -> None:
        """Let the coordinator hear of all that has happened by now, in its order."""
        for worker in self._awake.values():
            worker.catch_up()
        self._hear_untold()
        self._note_all()

    def _hear_untold(self) -> None:
        untold, self._untold = self._untold, []
        self._hear(untold)

    def _tell_before(self, turn: Turn) -> None:
        """Let the coordinator hear of all that counts for a turn that arrives now.

        In a large fleet most rows do not; what all steps took does, since it corrects predictions.
        """
        now = self.agenda.now
        for worker in self._awake.values():
            if worker.reports_at <= now:
                worker.tell_times()
        self._hear_untold()
        concerned = self.coordinator.concerned_by(turn)
        for worker in self.workers if concerned is None else concerned:
            self.workers[worker].catch_up()
        self._hear_untold()

    def _tell_of(self, worker: WorkerId) -> None:
        """Let the coordinator hear of the tokens of one worker's rows by now.

        What its steps took waits for the others': corrections of a role's workers go by time.
        """
        self.workers[worker].catch_up()
        own: list[Untold] = []
        others: list[Untold] = []
        for told in self._untold:
            event = told[1]
            is_own = isinstance(event, Tokens | SteadySteps) and event.worker == worker
            (own if is_own else others).append(told)
        if own:
            self._untold = others
            self._hear(own)

    def _hear(self, untold: list[Untold]) -> None:
        while untold:
            untold.sort(key=_first_moment)
            rest: list[Untold] = []
            for i, (moments, event) in enumerate(untold):
                if isinstance(event, SteadySteps):
                    if self.coordinator.go_on(event):
                        self.measurements.on_steps(event)
                        continue
                    # A single step of these matters, among what has happened since the first.
                    each = zip(moments, event.each(), strict=True)
                    rest = [*(((end,), step) for end, step in each), *untold[i + 1 :]]
                    break
                if isinstance(event, Decision):
                    self._decided(event, moments[0])
                    continue
                if isinstance(event, StepsTimed):
                    self.steps += len(event.steps)
                self._take_as_of(moments[0], event)
            untold = rest

    def _take(self, event: Event) -> None:
        self._tell_all()
        self._take_as_of(self.agenda.reached, event)

    def _take_as_of(self, at: Moment, event: Event) -> None:
        for action in self.coordinator.on(event, at.time):
            self._act(action, at)

    def _act(self, action: Action, at: Moment) -> None:
        now = at.time
        match action:
            case Emit(turns, samples):
                self.measurements.on_tokens(turns, samples, now)
            case Decision():
                self._decided(action, at)
            case _ if now < self.agenda.now:
                raise RuntimeError(f"the coordinator heard too late of what calls for {action}")
            case ToWorker(worker, message):
                self._hand(worker, message)
            case End():
                self._unnoted.append((at, action))
                self.measurements.on_end(action, now)
                assert self._clients is not None
                self._clients.on_end(action)
                self._progress()
            case EmitPrompt():
                pass
            case _:
                assert_never(action)

    def _hand(self, worker: WorkerId, message: WorkerMessage) -> None:
        found = self.workers[worker]
        self._awake[self._places[worker]] = found
        found.deliver(message)

    def _decided(self, decision: Decision, at: Moment) -> None:
        self.decisions[decision.kind, decision.reason] += 1
        self._unnoted.append((at, decision))

    def _note_all(self) -> None:
        self._unnoted.sort(key=itemgetter(0))
        for at, entry in self._unnoted:
            self._note(entry, at.time)
        self._unnoted.clear()

    def _tick(self) -> None:
        """Look at deadlines and loads, as long as there are turns."""
        self._tell_all()
        awake = sorted(self._awake.items())
        for _, worker in awake:
            self._reports[worker.id] = worker.batcher.report()
        self._keep()
        for place, worker in awake:
            worker.deliver(Tick())
            self._take_as_of(self.agenda.reached, self._reports[worker.id])
            if not worker.batcher.holdings.tasks:
                del self._awake[place]
        self._take_as_of(self.agenda.reached, Tick())
        self._ticking = self.coordinator.live_turns > 0
        if self._ticking:
            self.agenda.at(self.agenda.now + TICK_S, self._tick)

    def _keep(self) -> None:
        """Remember what is held, at most `MOST_SAMPLES` times: every second one is then dropped."""
        now = self.agenda.now
        if self.samples and now - self.samples[-1].at < self._sample_every_s:
            return
        pages = tuple(map(_PAGES_USED, self._reports.values()))
        rows = tuple(map(_RUNNING, self._reports.values()))
        self.samples.append(Sample(now, pages, rows))
        if len(self.samples) > MOST_SAMPLES:
            self._sample_every_s *= 2
            del self.samples[1::2]


MOST_SAMPLES = 2000
