"""What is simulated is what is served: one workload, real workers and simulated ones, equal logs.

The real ones are the engine's own workers on JAX executors, with a tiny model and scripted step
times: each works on a clock of its own that a step's end moves on, and what leaves it is delivered
when that clock says. Sampled tokens differ from the simulated ones, and no decision may notice.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import cast

import numpy as np
import pytest

from serving.config import MeshConfig
from serving.core.batcher import MAX_LAUNCHED, Batcher
from serving.core.coordinator import Coordinator
from serving.core.limits import BatcherLimits
from serving.core.plan import StepPlan, StepResult
from serving.core.rules import CoordinatorLimits
from serving.core.sessions import Sessions
from serving.costs.costs import Link
from serving.engine.executor_protocol import Executor
from serving.engine.from_host import FromHost
from serving.engine.worker import Leaving, Moved, Worker
from serving.messages import Decision, End, TransferId, WorkerId
from serving.metrics.decision_log import line, record
from serving.request import GREEDY, SessionId, Slo, Turn, TurnId
from serving.sim.agenda import Agenda
from serving.sim.executor import SimExecutor, StepNoise
from serving.sim.links import Links
from serving.sim.replies import Replies, own_text
from serving.sim.simulation import Simulation
from serving.sim.worker import SimWorker, World
from tests.support.rules import COSTS, batcher_rules, coordinator_rules
from tests.support.sharp_lengths import SharpLengths
from tests.support.tiny_cluster import LIMITS, MODEL, Cluster

WIRE = Link(latency_s=0.000137, bytes_per_s=1e30)
"""What is sent as a step ends comes a little later: at one instant either order would be right."""
HOST = Link(latency_s=0.000171, bytes_per_s=1e30)
NOISE = 0.3
SESSIONS = 10
TURNS = sum(1 + session % 3 for session in range(SESSIONS))


class People:
    """Sessions of two or three turns; the next one comes when the last has ended.

    `text` makes the tokens of a turn's question; replies are threaded as they came.
    """

    def __init__(self, simulation: Simulation, agenda: Agenda, text, replies: Replies) -> None:
        self._simulation, self._agenda, self._text, self._replies = (
            simulation,
            agenda,
            text,
            replies,
        )
        self._said: dict[str, tuple[int, ...]] = {}
        self.heard: dict[TurnId, list[int]] = {}
        for i in range(SESSIONS):
            agenda.at(0.0007 * i * i, lambda i=i: self._ask(i, 0))

    def on_end(self, end: End) -> None:
        session, index = map(int, end.turn.split("."))
        reply = self.heard[end.turn]
        self._said[str(session)] += tuple(reply)
        if index < session % 3:
            after = 0.001 + 0.003 * (session % 4)
            self._agenda.at(self._agenda.now + after, lambda: self._ask(session, index + 1))

    def _ask(self, session: int, index: int) -> None:
        length, reply = 5 + (7 * session + 3 * index) % 23, 3 + (5 * session + 2 * index) % 11
        number = self._replies.add(reply)
        said = self._said.get(str(session), ()) + self._text(number, length)
        self._said[str(session)] = said
        sampling = replace(GREEDY, max_tokens=reply, seed=number)
        name = TurnId(f"{session}.{index}")
        self.heard[name] = []
        key = SessionId(str(session))
        self._simulation.submit(Turn(name, key, said, sampling, Slo(0.01, 0.003), 0, "", index))


class Hearing(Simulation):
    """Remembers what was replied."""

    def hear(self, people: People) -> None:
        def on_tokens(turns, samples, now, kept=self.measurements.on_tokens):
            kept(turns, samples, now)
            for turn, sample in zip(turns, samples, strict=True):
                people.heard[turn].append(sample.token)

        def on_steps(steps, kept=self.measurements.on_steps):
            kept(steps)
            for task, tokens in zip(steps.tasks, steps.tokens, strict=True):
                people.heard[task.turn] += tokens

        self.measurements.on_tokens, self.measurements.on_steps = on_tokens, on_steps


class Scripted:
    """A JAX executor whose steps take scripted times: `collect` turns its worker's clock."""

    def __init__(self, real, script: SimExecutor) -> None:
        self._real, self._script = real, script
        self.now, self.free = 0.0, 0.0
        self.load_slot = real.load_slot
        self.gather, self.scatter = real.gather, real.scatter
        self.read_trace, self.write_trace = real.read_trace, real.write_trace
        self.offload, self.fetch, self.write = real.offload, real.fetch, real.write

    def has_run(self, pending) -> bool:
        return True

    def launch(self, plan: StepPlan):
        self.free = max(self.now, self.free) + self._script.seconds(plan)
        return self._real.launch(plan), self.free

    def collect(self, pending) -> StepResult:
        launched, ends = pending
        self.now = max(self.now, ends)
        return self._real.collect(launched)


class Watched:
    """One worker's connector: payloads are there when the steps launched before them are over.

    `there`: when those of all workers are. `came` is called behind whoever waited for one.
    """

    def __init__(self, real, executor: Scripted, agenda, there, came: Callable[[], None]) -> None:
        self._real, self._executor, self._agenda = real, executor, agenda
        self._there: dict[TransferId, float] = there
        self._came = came
        self._last: dict[WorkerId, float] = {}

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        def arrived() -> None:
            then()
            self._came()

        last = self._last.get(transfer.sender, 0.0)
        at = max(self._agenda.now, self._there.pop(transfer), last)
        self._last[transfer.sender] = at
        self._agenda.at(at, arrived)

    def take(self, transfer: TransferId):
        return self._real.take(transfer)

    def drop(self, transfer: TransferId) -> None:
        self._real.drop(transfer)

    def lose(self, worker: WorkerId) -> None:
        self._real.lose(worker)

    def send(self, transfer: TransferId, payload, to: WorkerId) -> int:
        ends = max(self._executor.now, self._executor.free)
        self._there[transfer] = ends + WIRE.latency_s
        return self._real.send(transfer, payload, to)


class Hosted(FromHost):
    """Pages from host memory: there a little later. `came` is called behind whoever waited."""

    def __init__(self, worker: WorkerId, agenda: Agenda, came: Callable[[], None]) -> None:
        super().__init__(worker)
        self._agenda, self._came = agenda, came

    def when_here(self, transfer: TransferId, then: Callable[[], None], *, computed: bool) -> None:
        def arrived() -> None:
            then()
            self._came()

        self._agenda.at(self._agenda.now + HOST.latency_s, arrived)


class Timed:
    """The engine's own worker, without its thread, on its own clock."""

    def __init__(
        self, batcher: Batcher, executor: Scripted, connector, there, agenda, hall
    ) -> None:
        self.id, self.batcher, self.busy_s = batcher.worker, batcher, 0.0
        self.reports_at = inf  # nothing is put off
        self._executor, self._agenda, self._hall = executor, agenda, hall
        wire = Watched(connector, executor, agenda, there, self._wake)
        self._worker = Worker(
            batcher, cast(Executor, executor), wire, self._post, lambda: executor.now
        )
        self._worker._from_host = Hosted(batcher.worker, agenda, self._wake)
        self._waits = False

    def deliver(self, message) -> None:
        self._worker.deliver(message)
        self._wake()

    def _wake(self) -> None:
        if not self._waits:
            self._hall.wake(self)

    def round(self) -> None:
        """Do rounds until one waits for a step, which then ends in the future."""
        if self._waits:
            return  # woken by what it sent itself, before it had to wait
        self._executor.now = self._agenda.now
        while self._worker.round():
            if self._executor.now > self._agenda.now:
                self._waits = True
                self._agenda.at(self._executor.now, self._go_on)
                return

    def tell_times(self) -> None:
        """Nothing is put off."""

    def catch_up(self) -> None:
        """Nothing is put off."""

    def _go_on(self) -> None:
        self._waits = False
        self._hall.wake(self)

    def _post(self, leaving: Sequence[Leaving]) -> None:
        now = self._executor.now
        for item in leaving:
            match item:
                case Moved():
                    pass
                case _:
                    self._hall.post(item, now)


def simulation(route: str, log: list[str]) -> tuple[Hearing, Agenda, Replies, Links]:
    def note(happening: Turn | Decision | End, now: float) -> None:
        log.append(line(record(happening, now)))

    agenda, links = Agenda(), Links(WIRE)
    limits = CoordinatorLimits(LIMITS.max_model_len, LIMITS.page_size, 1000, None, 3, 1e9)
    known = Sessions(max_sessions=100, ttl_s=1e9, page_size=LIMITS.page_size)
    rules = coordinator_rules(route=route, peers=True)
    coordinator = Coordinator(limits, rules, known, SharpLengths(8))
    return Hearing(coordinator, agenda, links, note), agenda, Replies(), links


def rules():
    return batcher_rules(order="on-time")


def served(cluster: Cluster, route: str, limits: BatcherLimits = LIMITS) -> list[str]:
    log: list[str] = []
    hall, agenda, replies, _ = simulation(route, log)
    connector = cluster.reconnect()
    executors = {
        name: Scripted(real, SimExecutor(COSTS, replies, None, StepNoise(NOISE, name), 0))
        for name, (_, real) in cluster.executors.items()
    }
    there: dict[TransferId, float] = {}
    batchers = []
    for name, (role, _) in cluster.executors.items():
        batcher = Batcher(name, limits, rules())
        batchers.append(batcher)
        hall.join(Timed(batcher, executors[name], connector, there, agenda, hall), role)

    def text(number: int, length: int) -> tuple[int, ...]:
        # Unlike any other turn's, as simulated text is: no prefix is shared by chance.
        drawn = np.random.default_rng(number).integers(0, MODEL.vocab_size, length)
        return tuple(drawn.tolist())

    run(hall, People(hall, agenda, text, replies), batchers)
    return log


def simulated(cluster: Cluster, route: str, limits: BatcherLimits = LIMITS) -> list[str]:
    log: list[str] = []
    hall, agenda, replies, links = simulation(route, log)
    world = World(agenda, links, HOST, 1, MAX_LAUNCHED)
    batchers = []
    for name, (role, _) in cluster.executors.items():
        batcher = Batcher(name, limits, rules())
        batchers.append(batcher)
        noise = StepNoise(NOISE, name)
        executor = SimExecutor(COSTS, replies, None, noise, LIMITS.max_rows)
        hall.join(SimWorker(batcher, executor, world, hall), role)
    people = People(hall, agenda, lambda number, n: (own_text(number),) * n, replies)
    run(hall, people, batchers)
    return log


def run(hall: Hearing, people: People, batchers: list[Batcher]) -> None:
    hall.hear(people)
    hall.run(people, lambda: None)
    for batcher in batchers:
        batcher.check()


def parsed(log: list[str]) -> list[dict]:
    """Records by time; those of one instant may be noted in another order by a real worker."""
    records = [json.loads(text) for text in log]
    return sorted(records, key=lambda r: (r["t"], r["kind"], r["turn"] or "", r["choice"]))


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster(MeshConfig(prefill_workers=1, decode_workers=2))


@pytest.mark.parametrize("route", ["foretoken", "pd-delta", "local", "threshold", "ampd"])
def test_real_workers_and_simulated_ones_decide_alike(cluster: Cluster, route: str):
    real, made_up = parsed(served(cluster, route)), parsed(simulated(cluster, route))
    kinds = {one["kind"] for one in real}
    assert {"arrival", "place", "route", "first_token", "end"} <= kinds
    assert sum(one["kind"] == "end" for one in real) == TURNS
    assert made_up == real


@pytest.fixture(scope="module")
def both() -> Cluster:
    return Cluster(MeshConfig(prefill_workers=0, decode_workers=3))


@pytest.mark.parametrize("route", ["foretoken", "to-a-peer"])
def test_so_they_do_where_all_prefill_for_each_other(both: Cluster, route: str):
    real, made_up = parsed(served(both, route)), parsed(simulated(both, route))
    assert sum(one["kind"] == "end" for one in real) == TURNS
    places = [one["choice"] for one in real if one["kind"] == "place"]
    routes = [one["choice"] for one in real if one["kind"] == "route"]
    assert places != routes  # some are prefilled away from their owners
    assert made_up == real


@pytest.mark.parametrize("route", ["foretoken", "pd-delta", "local"])
def test_so_they_do_where_histories_go_to_host_memory_and_come_back(cluster: Cluster, route: str):
    """Pools are so small that hardly any history is still there when its next turn comes."""
    small = replace(LIMITS, max_model_len=128, num_pages=128 // LIMITS.page_size + 1, host_pages=60)
    real, made_up = parsed(served(cluster, route, small)), parsed(simulated(cluster, route, small))
    assert sum(one["kind"] == "end" for one in real) == TURNS
    fetched = [one for one in real if one["kind"] == "restore" and one["reason"] == "fetch_faster"]
    assert len(fetched) > 2
    assert made_up == real
