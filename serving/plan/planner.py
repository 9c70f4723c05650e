"""How does a workload become a plan? Demand, options, proposals, and a judgement of the best.

The most goodput: every proposal is first judged just above what the best one so far sustains, and
its own limit is looked for only if it passes. The least cost: the program's number of accelerators
is judged, then fewer while they do, or more until they do.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from tqdm import tqdm

from serving.assembly import GIB
from serving.config import ConfigError, require
from serving.costs.costs import Link
from serving.messages import Role
from serving.plan.capacity import (
    Option,
    WorkerKind,
    colocated_options,
    decode_options,
    prefill_options,
)
from serving.plan.demand import Demand, demand_of
from serving.plan.deployment import Deployment, deploy
from serving.plan.judge import Court, Found, highest
from serving.plan.kinds import check_targets, find_kinds
from serving.plan.program import Program, Proposal, Question, neighbours, propose
from serving.plan.request import CLIMBING_GPUS, PlanRequest
from serving.workload.session import Workload


@dataclass(frozen=True, slots=True)
class Candidate:
    """A deployment: as proposed, with its limits, and as judged."""

    proposal: Proposal
    deployment: Deployment
    found: Found

    @property
    def rate(self) -> float:
        """The highest rate scale that it was seen to sustain; 0 for none."""
        return 0.0 if self.found.sustained is None else self.found.sustained.rate


@dataclass(frozen=True, slots=True)
class Plan:
    """The answer: the chosen one, the others that were judged, and what it was about."""

    request: PlanRequest
    demand: Demand
    chosen: Candidate
    others: Sequence[Candidate]
    simulations: int
    wall_s: float


def plan(request: PlanRequest, workload: Workload, *, show_progress: bool) -> Plan:
    """Plan a deployment; raises ConfigError, in one line, if there is none."""
    began = time.perf_counter()
    demand = demand_of(workload)
    program = make_program(request, demand)
    runs = 0
    with tqdm(
        total=request.candidates + TYPICAL_RUNS,
        desc="judging",
        unit="simulation",
        disable=not show_progress,
    ) as bar:

        def on_run() -> None:
            nonlocal runs
            runs += 1
            bar.update()

        court = make_court(request, workload, demand, on_run)
        search = _least_cost if request.minimise_cost else _most_goodput
        judged = list(search(request, program, court))
        bar.total = runs
        bar.refresh()
    chosen = _choose(request, program, judged)
    others = [candidate for candidate in judged if candidate is not chosen]
    others.sort(key=lambda candidate: (-candidate.rate, candidate.deployment.gpus))
    return Plan(request, demand, chosen, others, runs, time.perf_counter() - began)


TYPICAL_RUNS = 6  # that the first candidate's limit takes


def make_program(request: PlanRequest, demand: Demand) -> Program:
    """Price what there could be; raises ConfigError if nothing can serve, or not in time."""
    targets, gpus = request.targets, request.gpus
    costs = request.config.server.costs
    link = Link(costs.link_latency_us * 1e-6, costs.link_gib_per_s * GIB)
    kinds = find_kinds(request.config.server, gpus, demand)
    check_targets(kinds, demand, targets)

    def options(kind: WorkerKind) -> list[Option]:
        match kind.role:
            case Role.PREFILL:
                return prefill_options(kind, demand, targets, link, gpus)
            case Role.DECODE:
                return decode_options(kind, demand, targets, link, gpus)
            case Role.BOTH:
                return colocated_options(kind, demand, targets, gpus)

    priced = [option for kind in kinds for option in options(kind)]
    question = Question(gpus, demand.rests.bounds(), minimise_cost=False)
    return Program(priced, question)


def make_court(
    request: PlanRequest, workload: Workload, demand: Demand, on_run: Callable[[], object]
) -> Court:
    """Make what judges by the request's settings."""
    return Court(
        request.config,
        workload,
        demand,
        request.targets,
        request.least_turns,
        request.most_workers,
        on_run,
    )


def _most_goodput(request: PlanRequest, program: Program, court: Court) -> Iterator[Candidate]:
    """Judge what the program proposes, then the best one's neighbours, as long as one is better."""
    judged: list[Candidate] = []
    proposals = propose(program, request.candidates)
    best, reached = None, 0.0
    while True:
        for candidate in race(request, court, proposals, reached):
            judged.append(candidate)
            yield candidate
        ahead = max(judged, key=lambda candidate: candidate.rate, default=None)
        if ahead is None or ahead is best or request.gpus > CLIMBING_GPUS:
            return
        best, reached = ahead, ahead.rate
        known = {_parts(candidate.proposal) for candidate in judged}
        near = neighbours(program, best.proposal)
        proposals = [proposal for proposal in near if _parts(proposal) not in known]


def _parts(proposal: Proposal) -> tuple[tuple[Role, int, int], ...]:
    """Tell proposals apart by their workers alone."""
    options = (proposal.prefill, proposal.decode)
    return tuple((o.kind.role, o.kind.degree, o.count) for o in options if o is not None)


def race(
    request: PlanRequest, court: Court, proposals: Iterable[Proposal], reached: float = 0.0
) -> Iterator[Candidate]:
    """Judge proposals for the highest rate; those that do not beat the best so far at one rate.

    `reached` is the best rate of what was judged before.
    """
    best = reached
    for proposal in proposals:
        if not proposal.rate:
            continue
        deployment = _deploy(request, court.demand, proposal)
        judge = cache(lambda rate, one=deployment: court.judge(one, rate))
        share, tolerance = request.targets.attainment, request.tolerance
        better = best * (1 + tolerance)
        if better and (verdict := judge(better)).attainment < share:
            yield Candidate(proposal, deployment, Found(None, verdict))
            continue
        found = highest(
            judge,
            better or proposal.rate,
            step=CHALLENGER_STEP if better else FIRST_STEP,
            share=share,
            tolerance=tolerance,
        )
        candidate = Candidate(proposal, deployment, found)
        best = max(best, candidate.rate)
        yield candidate


def _least_cost(request: PlanRequest, program: Program, court: Court) -> Iterator[Candidate]:
    gpus = request.gpus
    cheapest = program.asking(gpus, minimise_cost=True).best(())
    at = gpus if cheapest is None else cheapest.gpus
    down: bool | None = None
    while 1 <= at <= gpus:
        proposals = propose(program.asking(at, minimise_cost=False), request.candidates)
        sustained = False
        for proposal in proposals:
            if proposal.rate < HOPELESS * OWN_RATE:
                continue
            deployment = _deploy(request, court.demand, proposal)
            verdict = court.judge(deployment, OWN_RATE)
            sustained = verdict.attainment >= request.targets.attainment
            found = Found(verdict, None) if sustained else Found(None, verdict)
            yield Candidate(proposal, deployment, found)
            if sustained:
                break
        # Downwards as long as it does, upwards until it does; the first answer says which.
        down = sustained if down is None else down
        if sustained != down:
            return
        at += -1 if down else 1


FIRST_STEP, CHALLENGER_STEP = 1.2, 1.06
"""How far off the program may be, and how far a better candidate is ahead, at first (ours)."""
OWN_RATE = 1.0
HOPELESS = 0.5
"""Share of a rate below which the program is believed without a simulation (ours)."""


def _deploy(request: PlanRequest, demand: Demand, proposal: Proposal) -> Deployment:
    return deploy(proposal, demand, request.targets, request.config.server.memory.page_size)


def _choose(request: PlanRequest, program: Program, judged: Sequence[Candidate]) -> Candidate:
    """Take the best; raises ConfigError if none sustains what it has to."""
    sustained = [candidate for candidate in judged if candidate.rate]
    targets = request.targets
    asked = (
        f"{targets.attainment:.0%} of turns within {targets.ttft_s:g} s and {targets.tpot_s:g} s"
    )
    if not sustained and request.minimise_cost:
        most = program.best(())
        reach = 0.0 if most is None else most.rate
        raise ConfigError(
            f"no deployment of up to {request.gpus} accelerators gives {asked} at the workload's"
            f" own rate (the latency model reaches {reach:.2g} of it); raise --gpus or lower"
            " --rate-scale"
        )
    require(
        bool(sustained),
        f"no deployment of {request.gpus} accelerators was seen to give {asked} at any rate;"
        " raise --slo-ttft or --slo-tpot",
    )
    if request.minimise_cost:
        return min(sustained, key=lambda candidate: candidate.deployment.gpus)
    return max(sustained, key=lambda candidate: candidate.rate)
