"""How does a server's configuration become a simulation of it? With what it will be asked.

The same rules and limits as a server's (serving/assembly); what a checkpoint and devices would say
comes from descriptions.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from predictor.reading import PLAIN
from serving.assembly import (
    batcher_limits,
    batcher_rules,
    coordinator_limits,
    coordinator_rules,
    costs_by_role,
    host_link,
    kv_budget,
    length_model,
    most_pages,
    name_workers,
    remembered_sessions,
)
from serving.config import ConfigError, ServerConfig, require
from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.limits import BatcherLimits
from serving.costs.costs import Costs
from serving.costs.hardware import HardwareSpec
from serving.costs.make import choose_hardware, described_device
from serving.costs.models import KnownModel, find_model
from serving.forecast.histogram import LengthHistogram
from serving.forecast.length_model import LengthModel
from serving.forecast.survival import Survival
from serving.messages import Role
from serving.policy.admit import pages_for
from serving.sim.agenda import Agenda
from serving.sim.clients import Clients
from serving.sim.executor import SimExecutor, StepNoise
from serving.sim.links import Links
from serving.sim.readings import ErringHead, Oracle, Readings
from serving.sim.replies import Replies
from serving.sim.simulation import Note, Simulation
from serving.sim.worker import SimWorker, World
from serving.workload.session import Workload

PREDICTORS = ("head", "oracle", "histogram", "none")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationConfig:
    """A server, and what only a simulation of it is told.

    `server.checkpoint` says which model it is. `step_noise` is the standard deviation of the
    logarithm of a step's time, `head_sigma` that of a simulated head's error. `max_launched` steps
    may be on a device at once: 2 in foretoken's engine, 1 in one that waits for each.
    """

    server: ServerConfig
    predictor: str
    head_sigma: float
    step_noise: float
    max_launched: int
    seed: int

    def __post_init__(self) -> None:
        """Raise ConfigError for noise that no step and no head has."""
        for flag, sigma in (("head-sigma", self.head_sigma), ("step-noise", self.step_noise)):
            require(
                0 <= sigma <= MOST_SIGMA, f"--{flag} {sigma} does not lie in 0 to {MOST_SIGMA:g}"
            )


MOST_SIGMA = 10.0
"""Of a factor's logarithm: beyond, a factor leaves the range of a float."""


class Unlearned:
    """Believes of every reply what was believed before the first one."""

    def __init__(self, prior: LengthHistogram) -> None:
        """`prior` has seen nothing yet."""
        self._curve = prior.curve()

    def observe(self, length: int, ended: bool) -> None:
        """Learn nothing."""

    def curve(self) -> Survival:
        """Return the prior's curve."""
        return self._curve


def _model(server: ServerConfig) -> KnownModel:
    source = server.model
    return find_model(server.checkpoint, source.weight_format).with_kv_as(source.kv_kept_as)


def costs_of(config: SimulationConfig) -> Mapping[Role, Costs]:
    """Make the latency model of each role, as a server on that hardware would; ConfigError."""
    server = config.server
    shape = _model(server).shape
    return costs_by_role(server, shape, described_device(server.costs))


def build_simulation(
    config: SimulationConfig, costs: Mapping[Role, Costs], workload: Workload, note: Note
) -> tuple[Simulation, Clients]:
    """Assemble a simulation whose steps take what `costs` say.

    Raises ConfigError for what cannot be served.
    """
    require(
        config.predictor in PREDICTORS,
        f"--predictor {config.predictor} is unknown; use one of {', '.join(PREDICTORS)}",
    )
    server, memory = config.server, config.server.memory
    model = _model(server)
    hardware = choose_hardware(server.costs.hardware, "")
    max_model_len = _max_model_len(server, model)
    agenda, replies = Agenda(), Replies()
    readings = _readings(config, replies)
    rules = coordinator_rules(server, costs)
    links = Links(rules.link)
    limits = coordinator_limits(
        server.schedule, max_model_len=max_model_len, page_size=memory.page_size
    )
    sessions = remembered_sessions(server.schedule, memory.page_size)
    coordinator = Coordinator(limits, rules, sessions, _lengths(config))
    simulation = Simulation(coordinator, agenda, links, note)
    page_bytes = model.shape.kv_bytes_per_token * memory.page_size
    world = World(agenda, links, host_link(server.costs), page_bytes, config.max_launched)
    for name, role in name_workers(server.mesh):
        own = _limits(server, hardware, model, role, max_model_len)
        reader = None if readings is None else PLAIN
        batcher = Batcher(name, own, batcher_rules(server, costs[role], reader))
        noise = StepNoise(config.step_noise, f"{config.seed} {name}")
        executor = SimExecutor(costs[role], replies, readings, noise, own.max_rows)
        worker = SimWorker(batcher, executor, world, simulation)
        simulation.join(worker, role)
    clients = Clients(workload, replies, agenda, max_model_len, simulation.submit)
    return simulation, clients


def _readings(config: SimulationConfig, replies: Replies) -> Readings | None:
    match config.predictor:
        case "oracle":
            return Oracle(replies)
        case "head":
            return ErringHead(replies, sigma=config.head_sigma, seed=config.seed)
        case _:
            return None


def _lengths(config: SimulationConfig) -> LengthModel:
    histogram = length_model(config.server)
    return Unlearned(histogram) if config.predictor == "none" else histogram


def _max_model_len(server: ServerConfig, model: KnownModel) -> int:
    wanted = server.memory.max_model_len or model.max_position
    require(
        wanted <= model.max_position,
        f"--max-model-len {wanted} is above the model's own limit of {model.max_position} tokens",
    )
    return wanted


def _limits(
    server: ServerConfig,
    hardware: HardwareSpec,
    model: KnownModel,
    role: Role,
    max_model_len: int,
) -> BatcherLimits:
    """Size a worker's pool by what its devices hold beside the weights."""
    mesh, memory = server.mesh, server.memory
    tp = mesh.prefill_tp if role is Role.PREFILL else mesh.decode_tp
    _check_degree(model, role, tp)
    page_bytes = model.shape.kv_bytes_per_token * memory.page_size
    pages = memory.kv_pages
    if pages is None:
        budget = kv_budget(hardware.memory_bytes, memory.memory_fraction, tp, model.weight_bytes)
        pages = max(0, budget) // page_bytes
        least = pages_for(max_model_len, memory.page_size) + 1
        if pages < least:
            raise ConfigError(_no_room(server, hardware, model, tp, pages, max_model_len))
    elif pages > (most := most_pages(hardware.memory_bytes, tp, model.weight_bytes, page_bytes)):
        raise ConfigError(
            f"--kv-pages {pages} do not fit beside the weights of {server.name} on {tp} x"
            f" {hardware.name}; use {most} at most"
        )
    return batcher_limits(
        server.batch,
        server.schedule,
        memory,
        num_pages=pages,
        max_model_len=max_model_len,
        page_bytes=page_bytes,
    )


def _check_degree(model: KnownModel, role: Role, tp: int) -> None:
    flag = "--prefill-tp" if role is Role.PREFILL else "--decode-tp"
    problem = model.shared.problem(tp)
    require(problem is None, f"{flag} {tp} {problem}")


def _no_room(
    server: ServerConfig,
    hardware: HardwareSpec,
    model: KnownModel,
    tp: int,
    pages: int,
    max_model_len: int,
) -> str:
    gib = 2.0**30
    have = hardware.memory_bytes * server.memory.memory_fraction * tp / gib
    tokens = pages * server.memory.page_size
    return (
        f"{server.name} on {tp} x {hardware.name}: weights of"
        f" {model.weight_bytes / gib:.1f} GiB leave room for {tokens} of {max_model_len} tokens in"
        f" {have:.1f} GiB; raise the tensor-parallel degree or lower --max-model-len"
    )
