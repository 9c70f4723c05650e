"""What does rebalancing do to two decode workers? A process with both that answers lines.

A question has `policy`, `seed` and `seconds`. The sessions of the first worker are given long
replies far more often (`skewed_load`), so without moves its load stays above that of the other.
What is measured begins after the first quarter of the time.
"""

import asyncio
import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, NamedTuple

import jax
import uvloop

from benchmarks.engine import Engines, Recorder, finish, make_turn
from benchmarks.figures import percentile
from benchmarks.skewed_load import Ask, asks
from serving.engine.loop import EngineLoop
from serving.engine.worker import Leaving
from serving.messages import StepsTimed, WorkerId

SESSIONS = 24
OPENING_LEN = 8
WARM_SHARE = 0.25


class Timed(NamedTuple):
    """One step, and when it was reported (seconds)."""

    at: float
    worker: WorkerId
    rows: int
    predicted_s: float
    observed_s: float


@dataclass(slots=True)
class Steps:
    """The steps of all workers."""

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


async def measure(engines: Engines, policy: str, seed: int, seconds: float) -> dict[str, Any]:
    """Run the load for so long under a rebalancing policy."""
    recorder, steps = Recorder(), Steps()
    async with engines.running(recorder, steps, rebalance_policy=policy) as engine:
        talkative = await _open(engine, recorder)
        vocab_size = engines.deployment.model.vocab_size
        start = time.monotonic()
        async with asyncio.TaskGroup() as all_:
            for session, talks in enumerate(talkative):
                own = asks(seed, session, vocab_size, talkative=talks)
                all_.create_task(_session(engine, session, own, start + seconds))
            await asyncio.sleep(seconds)
            for turn in list(recorder.times):
                engine.cancel(turn, "over")
    return _figures(recorder, steps, start + WARM_SHARE * seconds, start + seconds)


async def _open(engine: EngineLoop, recorder: Recorder) -> list[bool]:
    """Let every session be placed; tell which of them are the first worker's."""
    turns = [
        make_turn(f"open-{i}", [i + 1] * OPENING_LEN, OPENING_LEN, f"session-{i}")
        for i in range(SESSIONS)
    ]
    await asyncio.gather(*(finish(engine, turn) for turn in turns))
    first = engine.reports()[0].worker
    return [recorder.owner(turn.id) == first for turn in turns]


async def _session(engine: EngineLoop, session: int, own: Iterator[Ask], until: float) -> None:
    for number, ask in enumerate(own):
        if time.monotonic() >= until:
            return
        name, key = f"{session}-{number}", f"session-{session}"
        await finish(engine, make_turn(name, ask.prompt, ask.reply_len, key))


def _figures(recorder: Recorder, steps: Steps, since: float, until: float) -> dict[str, Any]:
    tokens = sum(since <= at < until for times in recorder.times.values() for at in times)
    gaps = [
        late - early
        for times in recorder.times.values()
        for early, late in pairwise(times)
        if since <= late < until
    ]
    kinds = [d.kind for at, d in recorder.decisions if since <= at < until]
    seen = [step for step in steps.seen if since <= step.at < until]
    return {
        "tokens_per_s": tokens / (until - since),
        "itl_p50_s": percentile(gaps, 0.5),
        "itl_p99_s": percentile(gaps, 0.99),
        "step": _spread([(s.at, s.worker, s.observed_s) for s in seen]),
        "predicted_step": _spread([(s.at, s.worker, s.predicted_s) for s in seen]),
        "rows": _spread([(s.at, s.worker, s.rows) for s in seen]),
        "moves": kinds.count("moved"),
        "moves_failed": kinds.count("move_failed"),
        "moved_bytes": recorder.moved_bytes,
    }


def _spread(values: list[tuple[float, WorkerId, float]]) -> dict[str, float]:
    """How far do the workers lie apart? Their means within each second, averaged over seconds.

    Seconds in which a worker reported nothing are left out.
    """
    workers = {worker for _, worker, _ in values}
    seconds: dict[int, dict[WorkerId, list[float]]] = defaultdict(lambda: defaultdict(list))
    for at, worker, value in values:
        seconds[int(at)][worker].append(value)
    means = [
        [fmean(own) for own in by_worker.values()]
        for by_worker in seconds.values()
        if set(by_worker) == workers
    ]
    return {
        "mean": fmean(fmean(one) for one in means),
        "std": fmean(pstdev(one) for one in means),
        "max_over_mean": fmean(max(one) / fmean(one) for one in means),
    }


def main(checkpoint: Path) -> None:
    """Answer questions from standard input until it ends."""
    jax.config.update("jax_platforms", "cpu")
    with contextlib.redirect_stdout(sys.stderr):
        engines = Engines(checkpoint, prefill_workers=0, decode_workers=2)
    for line in sys.stdin:
        question = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = uvloop.run(measure(engines, **question))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
