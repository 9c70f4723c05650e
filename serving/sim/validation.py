"""How far are simulations from what was measured? Run by run, on runs that nothing was fitted to.

Every run is simulated as it was made: its conversations arrive at random within ten seconds, the
second turn when the first one ends, placed by hash; first turns of disaggregated mixes through a
prefill worker with all KV sent; each step launched when the one before it has ended. Medians and
means as the file has them.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

from serving.config import BatchConfig, MemoryConfig, MeshConfig, PolicyConfig
from serving.costs.costs import Costs
from serving.costs.hardware import PRESETS
from serving.costs.models import find_model
from serving.costs.roofline import Roofline
from serving.flags import build_config
from serving.messages import Role
from serving.sim.build import SimulationConfig
from serving.sim.calibration import LINK, Additions, calibrate
from serving.sim.measure import TurnRecord
from serving.sim.run import run_simulation
from serving.sim.sweep import Run, rates
from serving.workload.session import SessionShape, TurnShape, Workload, WorkloadError

MODEL, HARDWARE = "llama-3.1-8b", "h100"
RUN_S = 10.0
GIB = 2.0**30
MEASURED = ("ttft2", "tpot2")


def validate(calibration: Sequence[Run], report: Sequence[Run], *, seeds: int) -> dict[str, Any]:
    """Calibrate on some runs and say how far simulations of the others are off.

    If both are of one file, the lowest rate is calibrated on and the others are reported on. Raises
    WorkloadError if nothing is left to report on.
    """
    if set(calibration) & set(report):
        lowest = rates(calibration)[0]
        calibration = [run for run in calibration if run.rate == lowest]
        report = [run for run in report if run.rate != lowest]
    if not report:
        raise WorkloadError("no stable run of a pure worker mix is left to report on")
    additions = calibrate(calibration, find_model(MODEL, None), PRESETS[HARDWARE])
    rows: list[dict[str, Any]] = []
    for run in tqdm(report, desc="simulating runs", unit="run"):
        simulated = [_simulate(run, additions, seed) for seed in range(seeds)]
        ttft2, tpot2 = np.mean(simulated, axis=0).tolist()
        rows.append(
            {
                "config": run.config,
                "turn1": run.classes[0],
                "turn2": run.classes[1],
                "rate": run.rate,
                "conversations": run.conversations,
                "ttft2_s": {"measured": run.ttft2_s, "simulated": ttft2},
                "tpot2_s": {"measured": run.tpot2_s, "simulated": tpot2},
            }
        )
    return {
        "calibrated_on": {"runs": len(calibration), "rates": rates(calibration)},
        "reported_on": {"runs": len(report), "rates": rates(report)},
        "seeds": seeds,
        "additions": {name: getattr(additions, name) for name in Additions.__dataclass_fields__},
        "errors": {name: _errors(rows, f"{name}_s") for name in MEASURED},
        "by_config": {
            config: {name: _errors(own, f"{name}_s") for name in MEASURED}
            for config in sorted({row["config"] for row in rows})
            for own in [[row for row in rows if row["config"] == config]]
        },
        "rank_agreement": {name: _ranks(rows, f"{name}_s") for name in MEASURED},
        "rows": rows,
    }


def workload_of(run: Run, additions: Additions, seed: int) -> Workload:
    """Make the conversations of a run, as many as there were, at random times."""
    noise = random.Random(f"{run.config} {run.classes} {run.rate} {seed}")
    starts = sorted(noise.uniform(0, RUN_S) for _ in range(run.conversations))
    first, second = additions.sent(run.first[0]), additions.sent(run.second[0])
    reply = run.first[1]
    again = round(additions.relost * reply)
    turns = (
        TurnShape(0.0, None, (), first, reply),
        TurnShape(0.0, first + reply - again, (), again + second, run.second[1]),
    )
    sessions = (SessionShape(f"{seed}-{i}", at, turns) for i, at in enumerate(starts))
    return Workload(run.config, tuple(sessions), {})


def _simulate(run: Run, additions: Additions, seed: int) -> tuple[float, float]:
    """Return the second turn's median TTFT and mean time per token, in seconds."""
    shape = find_model(MODEL, None).shape
    roofline: Costs = Roofline(shape, additions.priced(PRESETS[HARDWARE]), 1)
    costs: Mapping[Role, Costs] = dict.fromkeys(Role, roofline)
    outcome = run_simulation(
        _config(run, seed), costs, workload_of(run, additions, seed), show_progress=False
    )
    second: list[TurnRecord] = [turn for turn in outcome.turns if turn.number == 1]
    ttft = [turn.ttft_s for turn in second if turn.ttft_s is not None]
    tpot = [turn.tpot_s for turn in second if turn.tpot_s is not None]
    hop_s = 0.0 if run.mix.local else additions.hop_s
    return float(np.median(ttft)) + additions.request_s + hop_s, float(np.mean(tpot))


def _config(run: Run, seed: int) -> SimulationConfig:
    """Configure a server like the measured one: vLLM's sizes, a policy that does what it did."""
    server = build_config(MODEL, {})
    policy = "replicas" if run.mix.is_replicas else "local" if run.mix.local else "pd-full"
    server = replace(
        server,
        mesh=MeshConfig(prefill_workers=run.mix.prefill, decode_workers=run.mix.decode),
        memory=MemoryConfig(max_model_len=8192, memory_fraction=0.85),
        batch=BatchConfig(max_num_seqs=256, max_num_batched_tokens=8192),
        policy=PolicyConfig(place_policy="hash", route_policy=policy, rebalance_policy="none"),
        costs=replace(
            server.costs,
            hardware=HARDWARE,
            link_gib_per_s=LINK.bytes_per_s / GIB,
            link_latency_us=LINK.latency_s * 1e6,
        ),
    )
    return SimulationConfig(
        server=server,
        predictor="histogram",
        head_sigma=1.0,
        step_noise=0.0,
        max_launched=1,
        seed=seed,
    )


def _errors(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    off = [abs(row[key]["simulated"] / row[key]["measured"] - 1) for row in rows]
    bias = [row[key]["simulated"] / row[key]["measured"] - 1 for row in rows]
    return {
        "median": float(np.median(off)),
        "p90": float(np.percentile(off, 90)),
        "bias": float(np.median(bias)),
    }


def _ranks(rows: Sequence[Mapping[str, Any]], key: str) -> dict[str, float | int]:
    """Count the pairs of mixes, within one workload and rate, that are ranked as measured.

    Pairs whose measured values are within a tenth of each other rank nothing.
    """
    cells: dict[tuple[str, str, float], list[Mapping[str, float]]] = {}
    for row in rows:
        cells.setdefault((row["turn1"], row["turn2"], row["rate"]), []).append(row[key])
    right = pairs = 0
    for cell in cells.values():
        for i, one in enumerate(cell):
            for other in cell[:i]:
                ratio = one["measured"] / other["measured"]
                if 1 / 1.1 < ratio < 1.1:
                    continue
                pairs += 1
                right += (ratio > 1) == (one["simulated"] > other["simulated"])
    return {"pairs": pairs, "right": right / pairs if pairs else float("nan")}


def text_of(found: Mapping[str, Any]) -> str:
    """Write what was found for people."""
    on, of = found["reported_on"], found["calibrated_on"]
    lines = [
        f"calibrated on {of['runs']} runs at {_list(of['rates'])} conversations/s, reported on"
        f" {on['runs']} at {_list(on['rates'])}",
        "",
        "what the measured system adds",
        *(f"  {name:<12}{value:>10.4f}" for name, value in found["additions"].items()),
        "",
        f"{'relative error':<16}{'median':>10}{'p90':>10}{'bias':>10}{'pairs ranked alike':>22}",
    ]
    for name, errors in found["errors"].items():
        cells = "".join(f"{value:>10.1%}" for value in errors.values())
        ranks = found["rank_agreement"][name]
        lines.append(f"{name:<16}{cells}{ranks['right']:>14.1%} of {ranks['pairs']}")
    for config, own in found["by_config"].items():
        medians = "   ".join(f"{name} {errors['median']:.1%}" for name, errors in own.items())
        lines.append(f"  {config:<14}{medians}")
    return "\n".join(lines)


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
