"""How long does a step take, and how much of that is the host's? Loops around an executor.

A step's time is that between two results of the worker's own loop, in which the next step is always
queued and every step's ids are read back. Steps that are only queued tell what the device takes by
itself, unless the host is slower than that.
"""

from collections.abc import Callable
from itertools import pairwise

from benchmarks.figures import Figure, figure
from serving.core.plan import StepPlan
from serving.engine import raw_loop
from serving.engine.executor import JaxExecutor

Clock = Callable[[], float]


def between_results(
    executor: JaxExecutor, plan: StepPlan, *, steps: int, warm_runs: int, clock: Clock
) -> Figure:
    """Time `steps` equal steps in steady state, in seconds, after as many in each warm run."""
    for _ in range(warm_runs):
        raw_loop.drive(executor, [plan] * max(steps, 2))
    ends: list[float] = []
    pending = executor.launch(plan)
    for _ in range(steps + 1):
        behind = executor.launch(plan)
        executor.collect(pending)
        ends.append(clock())
        pending = behind
    executor.collect(pending)
    return figure([after - before for before, after in pairwise(ends)])


def queued(
    executor: JaxExecutor, plan: StepPlan, *, steps: int, repeats: int, clock: Clock
) -> Figure:
    """Time a step among `steps` that are queued without reading any, in seconds."""

    def run() -> None:
        pending = [executor.launch(plan) for _ in range(steps)]
        executor.collect(pending[-1])

    run()
    return figure([seconds / steps for seconds in timed(run, repeats, clock)])


def one_by_one(
    executor: JaxExecutor, plan: StepPlan, *, steps: int, clock: Clock
) -> tuple[Figure, Figure]:
    """Time steps of which each is read before the next is launched: all of it, and its launch."""
    whole: list[float] = []
    launching: list[float] = []
    for _ in range(steps):
        start = clock()
        pending = executor.launch(plan)
        launching.append(clock() - start)
        executor.collect(pending)
        whole.append(clock() - start)
    return figure(whole), figure(launching)


def timed(work: Callable[[], object], repeats: int, clock: Clock) -> list[float]:
    """Run something that blocks until it is done, `repeats` times; seconds of each."""
    times: list[float] = []
    for _ in range(repeats):
        start = clock()
        work()
        times.append(clock() - start)
    return times
