"""How long does a live move stop a row? A process with two decode workers that answers lines.

A question has `length`, `neighbours` and `seed`: a row of about that many tokens decodes on one
worker, next to so many others on each, and is moved to the other worker in the middle of its
reply. What counts is what a client sees: the time between the last token that came from the source
and the first from the destination, in units of the median time between two tokens before.
"""

import asyncio
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import jax
import uvloop

from benchmarks.engine import Engines, Recorder, finish, make_turn
from serving.engine.loop import EngineLoop
from serving.engine.worker import Leaving
from serving.messages import Decision, MoveWanted, Tokens, WorkerId
from serving.request import TurnId

BEFORE, AFTER = 48, 64
"""Tokens of the reply before the move is asked for, and, with its copies, at least after."""
NEIGHBOUR_LEN = 64
NEIGHBOUR_REPLY = 2000
WARM_UP = 8  # first gaps of a reply: its neighbours are still being prefilled
POLL_S = 0.005
ROW = "row"


class Failed(RuntimeError):
    """The row ended before it had moved."""


@dataclass(slots=True)
class Source:
    """Which worker told each token of the row, by its place in the reply."""

    told_by: dict[int, WorkerId] = field(default_factory=dict)

    def __call__(self, leaving: Sequence[Leaving]) -> None:
        """Note the tokens that leave a worker."""
        for event in leaving:
            if isinstance(event, Tokens):
                for task, sample in zip(event.tasks, event.samples, strict=True):
                    if task.turn == ROW:
                        self.told_by[sample.reply_index] = event.worker


async def measure(engines: Engines, length: int, neighbours: int, seed: int) -> dict[str, Any]:
    """Move one row once. Raises Failed if it did not move."""
    recorder, source = Recorder(), Source()
    policies = {"rebalance_policy": "none"}
    async with engines.running(recorder, source, **policies) as engine, asyncio.TaskGroup() as all_:
        random = Random(seed)
        vocab_size = engines.deployment.model.vocab_size
        tasks = [
            all_.create_task(finish(engine, make_turn(f"other-{i}", prompt, NEIGHBOUR_REPLY, None)))
            for i in range(2 * neighbours)
            for prompt in [random.choices(range(vocab_size), k=NEIGHBOUR_LEN)]
        ]
        await _until(lambda: all(len(times) > 1 for times in recorder.times.values()), tasks)
        longest = engines.deployment.max_model_len - BEFORE - AFTER
        prompt = random.choices(range(vocab_size), k=max(1, min(length - BEFORE, longest)))
        row = all_.create_task(finish(engine, make_turn(ROW, prompt, BEFORE + AFTER, None)))
        times = recorder.times
        await _until(lambda: len(times.get(TurnId(ROW), ())) >= BEFORE, [row])
        moved = await _move(engine, recorder, row)
        await row
        for turn in list(times):
            engine.cancel(turn, "over")
    return _figures(recorder, source, moved)


async def _move(
    engine: EngineLoop, recorder: Recorder, row: "asyncio.Task[int]"
) -> tuple[int, Decision]:
    """Move the row to the other worker; returns how many tokens had come, and what was decided."""
    turn = TurnId(ROW)
    owner = recorder.owner(turn)
    (to,) = [report.worker for report in engine.reports() if report.worker != owner]
    count, before = len(recorder.times[turn]), recorder.moved_bytes
    engine.post([MoveWanted(turn, to, "benchmark")])

    def done() -> list[Decision]:
        return [d for _, d in recorder.decisions if d.kind == "moved" and d.turn == turn]

    await _until(lambda: bool(done()), [row])
    recorder.moved_bytes -= before
    return count, done()[0]


def _figures(recorder: Recorder, source: Source, moved: tuple[int, Decision]) -> dict[str, Any]:
    asked_at, decision = moved
    times = recorder.times[TurnId(ROW)]
    gaps = [late - early for early, late in pairwise(times)]
    first = min(i for i, worker in source.told_by.items() if worker == decision.choice)
    step_s = median(gaps[WARM_UP:asked_at])
    stop_s = gaps[first - 1]
    return {
        "kv_len": decision.details["kv_len"],
        "step_s": step_s,
        "stop_s": stop_s,
        "stop_steps": stop_s / step_s,
        "step_there_s": median(gaps[first:]),
        "took_s": decision.details["took_s"],
        "bytes": recorder.moved_bytes,
    }


async def _until(condition: Callable[[], bool], tasks: "list[asyncio.Task[int]]") -> None:
    while not condition():
        if any(task.done() for task in tasks):
            raise Failed("a reply ended before the move was over")
        await asyncio.sleep(POLL_S)


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
