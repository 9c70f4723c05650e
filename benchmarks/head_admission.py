"""What does the length head bring where memory is short? The same sessions with and without it.

`python -m benchmarks.head_admission CHECKPOINT --out FILE` plays sessions of the demo model's tasks
through one worker whose pool holds few of them, once with reservations by the histogram of past
replies and once with those of the length head, at the same quantile and the same pages. Tokens do
not depend on scheduling, so both do the same work.
"""

import asyncio
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import jax

from benchmarks.machine import describe_code, describe_machine
from model.sampling_defaults import read_sampling_defaults
from model.tokenizer import load_tokenizer
from predictor.collect import task_sessions
from predictor.play import Script, left_open, play
from serving.engine.build import load_workers, make_coordinator, settle, warm_up
from serving.engine.compile_cache import cache_directory, keep_compiled
from serving.engine.loop import EngineLoop
from serving.engine.observer import Observers
from serving.flags import build_config
from serving.messages import Decision, End, StepsTimed, WorkerId
from serving.request import Turn, TurnId

SEED = 21_000_000
"""Far from those that heads are trained on, and from that by which policies were chosen."""
TEMPERATURE = 0.8
MAX_MODEL_LEN, ROWS, AT_ONCE = 1024, 64, 64


class Counts:
    """An observer that counts."""

    def __init__(self) -> None:
        self.preempted = 0
        self.deferred: dict[str, int] = {}
        self.steps = 0
        self.rows = 0
        self.reply_tokens = 0

    def on_arrival(self, turn: Turn, now: float) -> None:
        """Nothing to count."""

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """Nothing to count."""

    def on_end(self, end: End, now: float) -> None:
        """Count what was delivered."""
        self.reply_tokens += end.reply_len

    def on_decision(self, decision: Decision, now: float) -> None:
        """Count preemptions and tasks that had to wait."""
        if decision.kind == "retry" and decision.reason == "preempted":
            self.preempted += 1
        if decision.kind == "defer":
            self.deferred[decision.reason] = self.deferred.get(decision.reason, 0) + 1

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Nothing to count."""

    def on_steps(self, steps: StepsTimed) -> None:
        """Count the rows that decoded."""
        self.steps += len(steps.steps)
        self.rows += sum(step.rows for step in steps.steps)


def run(
    checkpoint: Path, length_head: str, quantile: float, sessions: int, kv_pages: int
) -> dict[str, Any]:
    """Play the sessions; returns what happened. `length_head` as in `foretoken serve`."""
    settings = {
        "prefill_workers": 0,
        "decode_workers": 1,
        "length_head": length_head,
        "max_model_len": MAX_MODEL_LEN,
        "kv_pages": kv_pages,
        "max_num_seqs": ROWS,
        "reserve_quantile": quantile,
    }
    deployment = settle(build_config(str(checkpoint), settings))
    counts = Counts()
    asked = list(itertools.islice(task_sessions(SEED), sessions))
    scripts = [
        Script(i, 0, one.questions, (MAX_MODEL_LEN,) * len(one.questions), TEMPERATURE, SEED + i)
        for i, one in enumerate(asked)
    ]

    async def work() -> float:
        engine = EngineLoop(
            make_coordinator(deployment),
            Observers([counts]),
            time.monotonic,
            flexible_roles=False,
            step_timeout_s=deployment.config.schedule.step_timeout_seconds,
        )
        await engine.start(warm_up(load_workers(deployment), engine.post, time.monotonic))
        began = time.monotonic()
        try:
            await play(
                engine,
                load_tokenizer(checkpoint),
                scripts,
                sampling=left_open(read_sampling_defaults(checkpoint)),
                max_total=MAX_MODEL_LEN,
                room=asyncio.Semaphore(AT_ONCE),
            )
        finally:
            took = time.monotonic() - began
            await engine.stop()
        return took

    took = asyncio.run(work())
    return {
        "length_head": str(deployment.head),
        "reserve_quantile": quantile,
        "preempted": counts.preempted,
        "rows_per_step": counts.rows / max(1, counts.steps),
        "steps": counts.steps,
        "deferred": counts.deferred,
        "reply_tokens": counts.reply_tokens,
        "seconds": took,
    }


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--sessions", type=click.IntRange(min=1), default=400, show_default=True)
@click.option("--quantile", type=click.FloatRange(0, 1), default=0.9, show_default=True)
@click.option("--kv-pages", type=click.IntRange(min=65), default=130, show_default=True)
def main(checkpoint: Path, out: Path, sessions: int, quantile: float, kv_pages: int) -> None:
    """Play sessions with both forecasts of CHECKPOINT's replies."""
    jax.config.update("jax_platforms", "cpu")
    keep_compiled(cache_directory(), least_seconds=0.0)
    found = {
        "machine": describe_machine(),
        "code": describe_code(Path.cwd()),
        "sessions": sessions,
        "kv_pages": kv_pages,
        "runs": {
            name: run(checkpoint, head, quantile, sessions, kv_pages)
            for name, head in (("histogram", "none"), ("head", "auto"))
        },
    }
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
