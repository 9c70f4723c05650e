"""A simulation that a person can compute: linear costs, few pages, sessions written by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from predictor.reading import PLAIN
from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.limits import BatcherLimits
from serving.core.rules import CoordinatorLimits
from serving.core.sessions import Sessions
from serving.costs.costs import Link
from serving.messages import Decision, End, Role, WorkerId
from serving.metrics.decision_log import line, record
from serving.policy.aside import AsideConfig
from serving.request import Slo, Turn
from serving.sim.agenda import Agenda
from serving.sim.clients import Clients
from serving.sim.executor import SimExecutor, StepNoise
from serving.sim.links import Links
from serving.sim.readings import Oracle
from serving.sim.replies import Replies
from serving.sim.simulation import Simulation
from serving.sim.worker import SimWorker, World
from serving.workload.session import SessionShape, TurnShape, Workload
from tests.support.fake_costs import LinearCosts
from tests.support.rules import batcher_rules, coordinator_rules
from tests.support.sharp_lengths import SharpLengths

COSTS = LinearCosts(base_s=0.001, new_s=0.0001, row_s=0.0001, kv_s=0.00001, kv_bytes_per_token=4)
LIMITS = BatcherLimits(
    num_pages=200,
    page_size=4,
    max_model_len=256,
    max_rows=4,
    max_chunk_tokens=16,
    max_chunk_rows=2,
    transfer_timeout_s=1e6,
    move_pages=4,
    host_pages=0,
)
WIRE = Link(latency_s=0.001, bytes_per_s=1e5)
COLOCATED = ((WorkerId("d0"), Role.BOTH),)
SPLIT = (
    (WorkerId("p0"), Role.PREFILL),
    (WorkerId("d0"), Role.DECODE),
    (WorkerId("d1"), Role.DECODE),
)


@dataclass
class Lab:
    """One simulation and what it told."""

    simulation: Simulation
    agenda: Agenda
    replies: Replies
    batchers: list[Batcher]
    log: list[str] = field(default_factory=list)

    def run(self, workload: Workload) -> None:
        """Run a workload to its end."""
        limit = LIMITS.max_model_len
        clients = Clients(workload, self.replies, self.agenda, limit, self.simulation.submit)
        self.simulation.run(clients, lambda: None)


def lab(
    workers: Sequence[tuple[WorkerId, Role]] = COLOCATED,
    *,
    route: str = "pd-delta",
    rebalance: str = "none",
    peers: bool = False,
    noise: float = 0.0,
    wire: Link = WIRE,
    limits: BatcherLimits = LIMITS,
    slo: Slo = Slo(None, None),  # noqa: B008
    read_every: int | None = None,
    executors: type[SimExecutor] = SimExecutor,
    max_launched: int = 2,
    costs: LinearCosts = COSTS,
    stand_aside: AsideConfig | None = None,
) -> Lab:
    """Assemble a simulation; every reply is forecast to have 16 tokens.

    With `read_every` there is a length head that is never wrong, read every so many steps.
    """
    log: list[str] = []

    def note(happening: Turn | Decision | End, now: float) -> None:
        log.append(line(record(happening, now)))

    agenda, replies, links = Agenda(), Replies(), Links(wire)
    rules = replace(
        coordinator_rules(route=route, rebalance=rebalance, slo=slo, peers=peers),
        costs=dict.fromkeys(Role, costs),
        link=wire,
    )
    own = CoordinatorLimits(limits.max_model_len, limits.page_size, 1000, None, 3, 1e9)
    sessions = Sessions(max_sessions=100, ttl_s=1e9, page_size=limits.page_size)
    coordinator = Coordinator(own, rules, sessions, SharpLengths(16))
    simulation = Simulation(coordinator, agenda, links, note)
    page_bytes = limits.page_size * costs.kv_bytes_per_token
    world = World(agenda, links, WIRE, page_bytes, max_launched)
    batchers: list[Batcher] = []
    own_rules = replace(batcher_rules(stand_aside=stand_aside), costs=costs)
    readings = None
    if read_every is not None:
        own_rules = replace(own_rules, reader=PLAIN, read_every=read_every)
        readings = Oracle(replies)
    for name, role in workers:
        batcher = Batcher(name, limits, own_rules)
        executor = executors(costs, replies, readings, StepNoise(noise, name), limits.max_rows)
        worker = SimWorker(batcher, executor, world, simulation)
        simulation.join(worker, role)
        batchers.append(batcher)
    return Lab(simulation, agenda, replies, batchers, log)


def sessions(*shapes: tuple[float, Sequence[TurnShape]]) -> Workload:
    """Make a workload of (start, turns)."""
    made = tuple(SessionShape(f"s{i}", at, tuple(turns)) for i, (at, turns) in enumerate(shapes))
    return Workload("by hand", made, {})


def turn(new: int, reply: int, *, think_s: float = 0.0, keep: int | None = None) -> TurnShape:
    """A turn without shared text."""
    return TurnShape(think_s, keep, (), new, reply)
