"""How far do two workers lie apart, and what do clients see of it? Figures of one run.

Knows nothing of how the run was made.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from statistics import fmean, median, pstdev
from typing import Any, NamedTuple

from benchmarks.figures import percentile
from serving.engine.worker import Leaving
from serving.messages import StepsTimed, WorkerId


class Timed(NamedTuple):
    """One step, and when it was reported (seconds)."""

    at: float
    worker: WorkerId
    rows: int
    predicted_s: float
    observed_s: float


@dataclass(slots=True)
class Steps:
    """The steps of all workers, as they report them."""

    seen: list[Timed] = field(default_factory=list)

    def __call__(self, leaving: Sequence[Leaving]) -> None:
        """Note the step times that leave a worker."""
        now = time.monotonic()
        for event in leaving:
            if isinstance(event, StepsTimed):
                self.seen += [
                    Timed(now, event.worker, step.rows, step.predicted_s, step.observed_s)
                    for step in event.steps
                ]


def step_figures(steps: Sequence[Timed]) -> dict[str, dict[str, float]]:
    """Say how far the workers lie apart in step times (s) and in rows."""
    return {
        "step": spread([(s.at, s.worker, s.observed_s) for s in steps]),
        "predicted_step": spread([(s.at, s.worker, s.predicted_s) for s in steps]),
        "rows": spread([(s.at, s.worker, s.rows) for s in steps]),
    }


def client_figures(times: Mapping[Any, Sequence[float]]) -> dict[str, float]:
    """Say what clients saw, by the times of every reply's tokens: rates, gaps (s), times per token.

    A reply's time per token is the mean of its gaps; replies of one token have none.
    """
    replies = [own for own in times.values() if own]
    gaps = [late - early for own in replies for early, late in pairwise(own)]
    per_token = [(own[-1] - own[0]) / (len(own) - 1) for own in replies if len(own) > 1]
    span_s = max(own[-1] for own in replies) - min(own[0] for own in replies)
    return {
        "tokens": float(sum(map(len, replies))),
        "tokens_per_s": sum(map(len, replies)) / span_s,
        "itl_p50_s": percentile(gaps, 0.5),
        "itl_p99_s": percentile(gaps, 0.99),
        "tpot_p50_s": percentile(per_token, 0.5),
        "tpot_p99_s": percentile(per_token, 0.99),
    }


def predicted_itl(steps: Sequence[Timed]) -> dict[str, float]:
    """Say what gaps (s) clients would see if every step took what was predicted for it.

    Each row of a step is a token that came so long after the one before it. This is what two
    devices would bring that nobody else uses, but for the stops of rows that move.
    """
    gaps = [s.predicted_s for s in steps for _ in range(s.rows)]
    return {
        "predicted_itl_p50_s": percentile(gaps, 0.5),
        "predicted_itl_p99_s": percentile(gaps, 0.99),
    }


def company(steps: Iterable[Timed]) -> dict[str, float]:
    """Say what it costs a worker's steps that another one is busy: the same cores serve both.

    `alone_share`: of the seconds in which rows decoded, those in which only one worker had any.
    `slow_alone`, `slow_beside`: the median of observed over predicted step times, in those seconds
    and in the others; 0 if there was no such second.
    """
    seconds: dict[int, dict[WorkerId, list[float]]] = defaultdict(lambda: defaultdict(list))
    for step in steps:
        if step.rows:
            seconds[int(step.at)][step.worker].append(step.observed_s / step.predicted_s)
    alone = [
        own for by_worker in seconds.values() if len(by_worker) == 1 for own in by_worker.values()
    ]
    beside = [
        own for by_worker in seconds.values() if len(by_worker) > 1 for own in by_worker.values()
    ]
    slow_alone, slow_beside = (
        median(chain.from_iterable(group)) if group else 0.0 for group in (alone, beside)
    )
    return {
        "alone_share": len(alone) / len(seconds),
        "slow_alone": slow_alone,
        "slow_beside": slow_beside,
    }


def spread(values: Iterable[tuple[float, WorkerId, float]]) -> dict[str, float]:
    """How far do the workers lie apart? Their means within each second, averaged over seconds.

    A worker that reported nothing in a second in which another did had no row and no step: zero,
    as idleness beside a loaded worker is the widest spread there is.
    """
    seconds: dict[int, dict[WorkerId, list[float]]] = defaultdict(lambda: defaultdict(list))
    for at, worker, value in values:
        seconds[int(at)][worker].append(value)
    workers = {worker for by_worker in seconds.values() for worker in by_worker}
    means = [
        [fmean(by_worker.get(worker, (0.0,))) for worker in workers]
        for by_worker in seconds.values()
    ]
    return {
        "mean": fmean(fmean(one) for one in means),
        "std": fmean(pstdev(one) for one in means),
        "max_over_mean": fmean(max(one) / fmean(one) if any(one) else 1.0 for one in means),
    }
