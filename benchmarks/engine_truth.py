"""How far is the simulator off this project's own engine? Both play the same sessions.

    1. the steps of a worker are timed without a scheduler (`foretoken profile`), on one processor
    2. some sessions under one policy show what the simulator leaves out: `request_s`, the way of a
       request through client, HTTP and endpoint, and `step_s`, what the scheduler, the client and
       the other worker take of a step's time on the same processors; both are named in the result
    3. other sessions at the same rate are served under every policy by the command that users run,
       driven by the replay client, and simulated with the same settings

All of it is done, and then done again, so that what a machine does by the hour falls on each part
alike; times of steps and what is fitted are those of all turns together.

What is reported is of step 3 alone. The simulator's workers have a device each; here two of them,
the endpoint and the client share two processors, over which XLA spreads every larger product (and
`--xla_cpu_multi_thread_eigen=false` keeps it from nothing). A worker that is timed has one of them:
that is what it has while the other one works. What is left grows with the rate (`--calm` calibrates
at a part of it and shows by how much).

    python -m benchmarks.engine_truth --out benchmarks/results/engine_truth.json
"""

import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
import numpy as np

from benchmarks.machine import describe_machine
from benchmarks.server import Server, shared_cache
from serving.core.batcher import MAX_LAUNCHED
from serving.costs.costs import Costs, Estimate, Link, StepModel
from serving.costs.measured import (
    Grid,
    Measured,
    StepPoint,
    TransferPoint,
    read_measured,
    write_measured,
)
from serving.flags import build_config
from serving.messages import Role
from serving.replay.run import replay
from serving.replay.settings import TOKENS, ReplayConfig
from serving.sim.build import SimulationConfig, costs_of
from serving.sim.run import run_simulation
from serving.workload.session import Workload
from serving.workload.synthetic import Habits, LogNormal, make_sessions

DEMO = Path("checkpoints/demo")
POLICIES = ("replicas", "pd-full", "local", "foretoken")
CALM_SEED, SEED = 1, 2
"""Of the sessions that are calibrated on, and of those that are reported on."""
CALIBRATED, CALIBRATED_TURNS = "local", 300
RANKED = 1.1
"""Policies rank if each run of one shows so many times what any run of the other does."""
HABITS = {
    "mean_turns": 3.0,
    "system": 64,
    "first": LogNormal(300, 900),
    "later": LogNormal(60, 160),
    "reply": LogNormal(40, 90),
    "think": LogNormal(1.0, 2.5),
}
"""Prompts that take a step of several milliseconds, so that it is not threads that are compared."""
Point = TypeVar("Point", StepPoint, TransferPoint)
MEASURED = ("ttft_turn1", "ttft_later", "tpot", "itl")


@dataclass(frozen=True, slots=True)
class Additions:
    """What a served turn takes beside its steps, seconds."""

    request_s: float
    step_s: float


@dataclass(frozen=True, slots=True)
class Slower:
    """Costs of steps that take `step_s` longer each."""

    base: Costs
    step_s: float

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token position takes."""
        return self.base.kv_bytes_per_token

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        """Predict a step that only prefills."""
        return self._slower(self.base.prefill(new_len, cached_len))

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        """Predict a step of decode rows."""
        return self._slower(self.base.decode(rows, kv_tokens))

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        """Predict steps without a chunk, one after another."""
        return [self.decode(rows, kv_tokens + i * rows).seconds for i in range(steps)]

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        """Predict a decode step with a chunk in it."""
        return self._slower(self.base.mixed(rows, kv_tokens, new_len, cached_len))

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        """Predict moving KV over a link."""
        return self.base.transfer(num_bytes, link)

    def step_model(self) -> StepModel:
        """Return the base's plane, raised."""
        plane = self.base.step_model()
        return StepModel(plane.base_s + self.step_s, plane.per_row_s, plane.per_token_s)

    def _slower(self, estimate: Estimate) -> Estimate:
        return Estimate(estimate.seconds + self.step_s, estimate.error)


def flags_of(policy: str) -> dict[str, Any]:
    """Settings of the server and of its simulation: two workers in any case."""
    workers = {"prefill_workers": 1, "decode_workers": 1}
    if policy == "replicas":
        workers = {"prefill_workers": 0, "decode_workers": 2}
    own = policy == "foretoken"
    return {
        **workers,
        "route_policy": policy,
        "rebalance_policy": "predicted" if own else "none",
        "kv_pages": 4096,
        "max_num_seqs": 16,
    }


def workload(rate: float, sessions_turns: int, seed: int) -> Workload:
    """Make sessions that the demo model can serve."""
    return make_sessions(Habits(session_rate=rate, **HABITS), sessions_turns, seed)


def measure(costs: Path) -> None:
    """Time all workers' steps; each kind in a process of its own, for its own devices."""
    program = str(Path(sys.executable).with_name("foretoken"))
    known = {"route_policy", "rebalance_policy"}
    for policy in ("local", "replicas"):  # all roles between them
        flags = written({k: v for k, v in flags_of(policy).items() if k not in known})
        subprocess.run(
            ["taskset", "-c", "0", program, "profile", str(DEMO), "--out", costs, *flags],
            check=True,
        )


def averaged(files: Sequence[Measured]) -> Measured:
    """Return a file of which every point has the mean time of the same point in all of them."""
    grids = []
    for same in zip(*(measured.grids for measured in files), strict=True):
        steps = zip(*(grid.steps for grid in same), strict=True)
        transfers = zip(*(grid.transfers for grid in same), strict=True)
        grid = Grid(
            same[0].worker, tuple(_mean_point(x) for x in steps), tuple(map(_mean_point, transfers))
        )
        grids.append(grid)
    return Measured(files[0].origin, files[0].date, tuple(grids))


def _mean_point(points: Sequence[Point]) -> Point:
    return points[0]._replace(seconds=float(np.mean([point.seconds for point in points])))


def written(flags: Mapping[str, Any]) -> list[str]:
    """Write settings as flags."""
    return [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]


def serve(policy: str, sessions: Workload, cache: Path, costs: Path) -> dict[str, Any]:
    """Serve the sessions and return what the client saw."""
    flags = [f"--costs={costs}", "--length-head=none", *written(flags_of(policy))]
    with Server(DEMO, flags, shared_cache(cache)) as server:
        config = ReplayConfig(
            url=f"http://127.0.0.1:{server.port}",
            model=None,
            api_key=None,
            prompts=TOKENS,
            vocab=500,
            seed=SEED,
            slo_ttft_s=None,
            slo_tpot_s=None,
            concurrency_limit=None,
        )
        warm = workload(20.0, 20, seed=0)
        replay(config, warm, transport=None, show_progress=False)
        return numbers(replay(config, sessions, transport=None, show_progress=True))


def simulate(
    policy: str, sessions: Workload, costs: Path, additions: Additions
) -> dict[str, float | None]:
    """Simulate the sessions and return what a client would see."""
    server = build_config(str(DEMO), {**flags_of(policy), "hardware": "cpu", "costs": str(costs)})
    config = SimulationConfig(
        server=server,
        predictor="histogram",
        head_sigma=1.0,
        step_noise=0.0,
        max_launched=MAX_LAUNCHED,
        seed=SEED,
    )
    priced: dict[Role, Costs] = {
        role: Slower(own, additions.step_s) for role, own in costs_of(config).items()
    }
    found = numbers(run_simulation(config, priced, sessions, show_progress=False).report)
    for name in ("ttft_turn1", "ttft_later"):
        if (ttft_s := found[name]) is not None:
            found[name] = ttft_s + additions.request_s
    return found


def numbers(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Take from a report what is compared: medians of TTFT, means per token; seconds."""
    ttft, later = report["ttft"]["turn1"], report["ttft"]["later"]
    return {
        "ttft_turn1": None if ttft is None else ttft["p50"],
        "ttft_later": None if later is None else later["p50"],
        "tpot": report["tpot"]["mean"],
        "itl": report["itl"]["mean"],
    }


def calibrate(
    calm: Workload, seen: Mapping[str, float], costs: Path
) -> tuple[Additions, dict[str, Any]]:
    """Fit what is added, on these sessions and what was seen of them under `CALIBRATED`."""
    bare = simulate(CALIBRATED, calm, costs, Additions(0.0, 0.0))
    step_s = max(0.0, _of(seen, "tpot") - _of(bare, "tpot"))
    slowed = simulate(CALIBRATED, calm, costs, Additions(0.0, step_s))
    off = [_of(seen, name) - _of(slowed, name) for name in ("ttft_turn1", "ttft_later")]
    return Additions(max(0.0, float(np.mean(off))), step_s), {"served": seen, "bare": bare}


def ranked_alike(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, int]:
    """Count the pairs of policies that served turns rank, and how many simulated ones do alike."""
    right = pairs = 0
    for one, other in itertools.permutations(rows, 2):
        most = max(run[name] for run in one["runs"])
        if min(run[name] for run in other["runs"]) > RANKED * most:
            pairs += 1
            right += one["simulated"][name] < other["simulated"][name]
    return {"pairs": pairs, "right": right}


def mean(runs: Sequence[Mapping[str, float | None]]) -> dict[str, float]:
    """Return the mean of several runs, number by number."""
    return {name: float(np.mean([_of(run, name) for run in runs])) for name in MEASURED}


def _of(found: Mapping[str, float | None], name: str) -> float:
    value = found[name]
    if value is None:
        raise ValueError(f"the sessions show no {name}")
    return value


@click.command()
@click.option("--sessions", type=click.IntRange(min=10), default=200, show_default=True)
@click.option("--rate", type=float, default=1.5, show_default=True, help="Sessions a second.")
@click.option("--repeats", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--calm", type=float, default=1.0, show_default=True, help="Of it, to calibrate at.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("runs/engine_truth"))
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(sessions: int, rate: float, repeats: int, calm: float, work: Path, out: Path) -> None:
    """Serve and simulate under every policy, and write how far they are apart."""
    work.mkdir(parents=True, exist_ok=True)
    known = workload(rate * calm, CALIBRATED_TURNS, CALM_SEED)
    turns = round(sessions * HABITS["mean_turns"])  # pyright: ignore[reportOperatorIssue]
    asked = workload(rate, turns, SEED)
    files = [work / f"costs_{i}.json" for i in range(repeats)]
    calms: list[dict[str, float | None]] = []
    runs: dict[str, list[dict[str, float | None]]] = {policy: [] for policy in POLICIES}
    with tempfile.TemporaryDirectory() as folder:
        for costs in files:
            measure(costs)
            calms.append(serve(CALIBRATED, known, Path(folder), costs))
            for policy, served in runs.items():
                served.append(serve(policy, asked, Path(folder), costs))
    costs = work / "costs.json"
    write_measured(costs, averaged([read_measured(path) for path in files]))
    additions, calibration = calibrate(known, mean(calms), costs)
    rows = [
        {
            "policy": policy,
            "runs": served,
            "served": mean(served),
            "simulated": simulate(policy, asked, costs, additions),
        }
        for policy, served in runs.items()
    ]
    off = {
        name: float(
            np.median([abs(row["simulated"][name] / row["served"][name] - 1) for row in rows])
        )
        for name in MEASURED
    }
    every = [abs(r["simulated"][n] / r["served"][n] - 1) for r in rows for n in MEASURED]
    found = {
        "machine": describe_machine(),
        "sessions": len(asked.sessions),
        "turns": asked.num_turns,
        "rate": rate,
        "additions": asdict(additions),
        "calibration": {"rate": rate * calm, **calibration},
        "rows": rows,
        "median_error": float(np.median(every)),
        "median_errors": off,
        "ranked_alike": {name: ranked_alike(rows, name) for name in MEASURED},
    }
    out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({k: found[k] for k in ("additions", "median_error", "median_errors")}))


if __name__ == "__main__":
    main()
