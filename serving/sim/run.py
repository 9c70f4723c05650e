"""How is a simulation run from a configuration? Read, build, run with a progress bar, report."""

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from serving.assembly import default_slo, name_workers
from serving.costs.costs import Costs
from serving.messages import Role
from serving.sim.build import SimulationConfig, build_simulation, costs_of
from serving.sim.log import SimulatedLog, note_nothing
from serving.sim.measure import TurnRecord
from serving.sim.report import summary
from serving.sim.simulation import Sample, Simulation
from serving.workload.session import Workload


@dataclass(frozen=True, slots=True)
class Outcome:
    """A report, and what pictures are made of."""

    report: dict[str, Any]
    turns: Sequence[TurnRecord]
    samples: Sequence[Sample]
    workers: Sequence[str]
    capacity: Sequence[int]


def simulate(config: SimulationConfig, workload: Workload, *, show_progress: bool) -> Outcome:
    """Run a workload on described or measured hardware; ConfigError for what cannot be served."""
    return run_simulation(config, costs_of(config), workload, show_progress=show_progress)


def run_simulation(
    config: SimulationConfig,
    costs: Mapping[Role, Costs],
    workload: Workload,
    *,
    show_progress: bool,
) -> Outcome:
    """Run a workload with steps that take what `costs` say; raises ConfigError."""
    policy = config.server.policy
    log = None
    if policy.decision_log is not None:
        log = SimulatedLog(Path(policy.decision_log), _opening(config))
    began = time.perf_counter()
    note = note_nothing if log is None else log.note
    simulation, clients = build_simulation(config, costs, workload, note)
    try:
        with (
            _collected_rarely(),
            tqdm(
                total=workload.num_turns, desc="simulating", unit="turn", disable=not show_progress
            ) as bar,
        ):
            simulation.run(clients, bar.update)
    finally:
        if log is not None:
            log.close()
    wall_s = time.perf_counter() - began
    batchers = [worker.batcher for worker in simulation.workers.values()]
    return Outcome(
        report={
            **_report(config, workload, simulation),
            "failed": dict(simulation.measurements.failed),
            "given_up": clients.given_up,
            "wall_s": wall_s,
        },
        turns=list(simulation.measurements.turns.values()),
        samples=simulation.samples,
        workers=list(simulation.workers),
        capacity=[batcher.limits.num_pages for batcher in batchers],
    )


YOUNG = 100_000
"""Objects made since the last collection for another one (Python's own: 700)."""


@contextmanager
def _collected_rarely() -> Iterator[None]:
    """Look for cycles of references seldom: a simulation makes none, and remembers very much."""
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _report(config: SimulationConfig, workload: Workload, simulation: Simulation) -> dict[str, Any]:
    policy = config.server.policy
    slo = default_slo(policy)
    measured = simulation.measurements
    counted = simulation.decisions
    return {
        "policy": policy.route_policy,
        "rebalance": policy.rebalance_policy,
        "predictor": config.predictor,
        "seed": config.seed,
        "workload": workload.origin,
        "skipped": workload.skipped,
        **summary(list(measured.turns.values()), measured.gaps, (slo.ttft_s, slo.tpot_s)),
        "kv_bytes_moved": simulation.links.bytes_moved,
        "preemptions": counted["retry", "preempted"] + counted["retry", "stood_aside"],
        "pauses": sum(n for (kind, _), n in counted.items() if kind == "pause"),
        "moves": sum(n for (kind, _), n in counted.items() if kind == "moved"),
        "steps": simulation.steps,
        "busy": {w.id: w.busy_s for w in simulation.workers.values()},
    }


def _opening(config: SimulationConfig) -> dict[str, Any]:
    """Say what is decided by; the log of equal settings is equal byte for byte."""
    policies = asdict(config.server.policy)
    del policies["decision_log"]
    workers = {worker: role.value for worker, role in name_workers(config.server.mesh)}
    return {"workers": workers, "policies": policies, "seed": config.seed}
