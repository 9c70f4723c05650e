"""Which rate does a deployment really sustain? The simulator with the policies that serve.

What is simulated is the workload as it would be in the long run (serving/plan/steady), on a slice
of the deployment if that is large (serving/plan/deployment).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import sqrt

from serving.plan.capacity import Targets
from serving.plan.demand import Demand
from serving.plan.deployment import Deployment, configure, shrink
from serving.plan.steady import Pace, steady
from serving.sim.build import SimulationConfig
from serving.sim.measure import TurnRecord
from serving.sim.run import simulate
from serving.workload.session import Workload

MOST_STEPS = 12
MOST_QUEUED, COUNTED_THEN = 200, 3200
"""Turns that may come within the target to the first token, as it is judged, and that count where
more would (ours). A queue of so many before a few workers is nearly always one that grows, which a
simulation shows that is many times as long."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What turns got at one rate scale.

    `late_first` and `late_tokens`: shares of turns that missed the target to the first token and
    per token. `goodput_tps`: reply tokens a second of turns within both; `turns` were counted.
    """

    rate: float
    attainment: float
    late_first: float
    late_tokens: float
    goodput_tps: float
    turns: int


@dataclass(frozen=True, slots=True)
class Found:
    """The highest rate that was sustained, and the lowest that was not; None: no such was seen."""

    sustained: Verdict | None
    failed: Verdict | None


@dataclass(frozen=True, slots=True)
class Court:
    """How deployments are judged: settings, the workload and its demand, the targets.

    `least_turns` count at least, `most_workers` are simulated at once; `on_run` is called
    behind each simulation.
    """

    config: SimulationConfig
    workload: Workload
    demand: Demand
    targets: Targets
    least_turns: int
    most_workers: int
    on_run: Callable[[], object]

    def judge(self, deployment: Deployment, rate: float) -> Verdict:
        """Simulate a deployment at a rate scale; raises ConfigError for what cannot be served.

        A target to the first token within which more than `MOST_QUEUED` turns come is judged as the
        time in which so many do: at least as many turns are within the target itself.
        """
        part, times = shrink(deployment, self.most_workers)
        queue_s = MOST_QUEUED * times / (self.demand.turns_per_s * rate)
        targets, least_turns = self.targets, self.least_turns
        if targets.ttft_s > queue_s:
            targets = replace(targets, ttft_s=queue_s)
            least_turns = max(least_turns, COUNTED_THEN)
        keep_s = self.demand.rests.keep_s(deployment.idle_room(rate), rate)
        played = steady(
            self.workload,
            Pace(
                rate=rate / times,
                token_s=deployment.token_s,
                keep_s=keep_s,
                ttft_s=targets.ttft_s,
                least_turns=least_turns,
            ),
        )
        outcome = simulate(configure(self.config, part), played.workload, show_progress=False)
        self.on_run()
        counted = [t for t in outcome.turns if played.from_s <= t.arrived < played.to_s]
        verdict = _verdict(counted, played.to_s - played.from_s, targets)
        return replace(verdict, rate=rate, goodput_tps=verdict.goodput_tps * times)


def _verdict(turns: Sequence[TurnRecord], seconds: float, targets: Targets) -> Verdict:
    ttft, tpot = targets.ttft_s, targets.tpot_s
    good = [turn for turn in turns if turn.meets(ttft, tpot)]
    count = max(1, len(turns))
    return Verdict(
        rate=0.0,
        attainment=len(good) / count,
        late_first=sum(not turn.meets(ttft, None) for turn in turns) / count,
        late_tokens=sum(not turn.meets(None, tpot) for turn in turns) / count,
        goodput_tps=sum(turn.tokens for turn in good) / seconds if seconds else 0.0,
        turns=len(turns),
    )


def highest(
    judge: Callable[[float], Verdict],
    start: float,
    *,
    step: float,
    share: float,
    tolerance: float,
) -> Found:
    """Bisect for the highest rate at which `share` of turns meet the targets.

    From `start` in steps until it lies between two rates, then in the geometric middle, until they
    are within `tolerance` (0.02: 2 %). The first step multiplies or divides by `step`, each later
    one by `step` times more. Judges at most `MOST_STEPS` times.
    """
    sustained: Verdict | None = None
    failed: Verdict | None = None
    rate, stride = start, step
    for _ in range(MOST_STEPS):
        verdict = judge(rate)
        if verdict.attainment >= share:
            sustained = verdict
        else:
            failed = verdict
        if sustained is None or failed is None:
            rate = rate / stride if sustained is None else rate * stride
            stride *= step
        elif failed.rate <= sustained.rate * (1 + tolerance):
            break
        else:
            rate = sqrt(sustained.rate * failed.rate)
    return Found(sustained, failed)
