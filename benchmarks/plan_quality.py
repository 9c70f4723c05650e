"""How good are plans? The planner's goodput against that of every deployment, simulated.

    python -m benchmarks.plan_quality --gpus 4 --out benchmarks/results/plan.json

Both are judged by the same simulations (serving/plan/judge). Every deployment is tried whose
degrees are powers of two, except those that leave an accelerator out which could still be used by
one of their phases.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.machine import describe_code, describe_machine, usable_cores
from serving.messages import Role
from serving.plan.answer import report_of
from serving.plan.capacity import Option, Targets
from serving.plan.demand import Demand
from serving.plan.options import JUDGE
from serving.plan.planner import Candidate, make_court, make_program, plan, race
from serving.plan.program import Program, Proposal
from serving.plan.request import PlanRequest
from serving.sim.options import ACCELERATOR, simulation_config
from serving.workload.session import Workload, within_context
from serving.workload.synthetic import Habits, make_sessions

ROOT = Path(__file__).parents[1]
MODEL = "llama-3.1-8b"
CONTEXT = 16384
TURNS = 1000
COUNTED_TURNS = 300
SEED = 0


def request(gpus: int, targets: Targets, candidates: int) -> PlanRequest:
    """Ask for the most goodput of so many accelerators, as the command does by default."""
    values: dict[str, Any] = {
        **ACCELERATOR,
        "model": MODEL,
        "max_model_len": CONTEXT,
        "slo_ttft": targets.ttft_s,
        "slo_tpot": targets.tpot_s,
        **JUDGE,
        "seed": SEED,
    }
    return PlanRequest(
        gpus=gpus,
        minimise_cost=False,
        targets=targets,
        candidates=candidates,
        least_turns=COUNTED_TURNS,
        most_workers=gpus,
        tolerance=0.02,
        config=simulation_config(values),
    )


def every_deployment(program: Program) -> Iterator[Proposal]:
    """List the deployments of a program that no other one contains."""
    gpus = program.question.gpus
    by_role = {role: [o for o in program.options if o.kind.role is role] for role in Role}
    for both in by_role[Role.BOTH]:
        if both.gpus + both.kind.degree > gpus:
            yield Proposal(None, both, both.rate, both.limited_by)
    for prefill in by_role[Role.PREFILL]:
        for decode in by_role[Role.DECODE]:
            used = prefill.gpus + decode.gpus
            if used <= gpus < used + min(prefill.kind.degree, decode.kind.degree):
                rate = min(decode.rate, prefill.rate)
                yield Proposal(prefill, decode, rate, _limit(prefill, decode))


def _limit(prefill: Option, decode: Option) -> str:
    return min(prefill, decode, key=lambda option: option.rate).limited_by


def exhaust(
    asked: PlanRequest, workload: Workload, demand: Demand, on_run: Callable[[], object]
) -> list[Candidate]:
    """Judge every deployment, as the planner does its candidates; the best first."""
    court = make_court(asked, workload, demand, on_run)
    proposals = sorted(every_deployment(make_program(asked, demand)), key=lambda p: -p.rate)
    return sorted(race(asked, court, proposals), key=lambda candidate: -candidate.rate)


def describe(candidate: Candidate) -> dict[str, Any]:
    """Say what was found of one deployment."""
    failed = candidate.found.failed
    return {
        "deployment": str(candidate.deployment),
        "program_rate_scale": candidate.proposal.rate,
        "rate_scale": candidate.rate or None,
        "failed_rate_scale": None if failed is None else failed.rate,
        "attainment_there": None if failed is None else failed.attainment,
    }


def measure(gpus: int, targets: Targets, candidates: int) -> dict[str, Any]:
    """Compare the planner's choice with the best of all."""
    made = make_sessions(Habits(session_rate=1.0), TURNS, SEED)
    workload = within_context(made, CONTEXT)
    asked = request(gpus, targets, candidates)
    planned = plan(asked, workload, show_progress=True)
    began = time.perf_counter()
    with tqdm(desc="every deployment", unit="simulation") as bar:
        every = exhaust(asked, workload, planned.demand, bar.update)
        runs = bar.n
    chosen, best = planned.chosen.rate, every[0].rate
    return {
        "targets": {"ttft_s": targets.ttft_s, "tpot_s": targets.tpot_s},
        "chosen": str(planned.chosen.deployment),
        "planned": report_of(planned),
        "every": [describe(candidate) for candidate in every],
        "every_simulations": runs,
        "every_wall_s": time.perf_counter() - began,
        "share_of_best": chosen / best if best else None,
    }


def main() -> None:
    """Measure and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=4)
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--slo", type=float, nargs=2, action="append", metavar=("TTFT", "TPOT"))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    pairs: list[list[float]] = options.slo or [[1.0, 0.03]]
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "usable_cores": usable_cores(),
        "code": describe_code(ROOT),
        "model": MODEL,
        "hardware": ACCELERATOR["hardware"],
        "workload": f"made up, seed {SEED}, {TURNS} turns, contexts up to {CONTEXT}",
        "runs": [],
    }
    for ttft, tpot in pairs:
        run = measure(options.gpus, Targets(ttft, tpot, 0.9), options.candidates)
        document["runs"].append(run)
        options.out.write_text(json.dumps(document, indent=1) + "\n")
        best, chosen = run["every"][0], run["planned"]
        print(f"{run['targets']}: planned {run['chosen']} at {chosen['rate_scale']:.3g},")
        print(f"  best {best['deployment']} at {best['rate_scale'] or 0:.3g}")


if __name__ == "__main__":
    main()
