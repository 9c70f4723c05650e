"""Serves under one observer or another, in one process, so that they can be compared.

A question has `watching`: whom the next server's engine tells what happens. That is an observer
that does nothing (`none`), the metrics, or the metrics and a decision log (`log`). The answer's
`port` is where it serves, until the next question. Nothing is compiled anew: each server is a fresh
endpoint and engine on the same workers.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import uvicorn
import uvloop

from benchmarks.engine import Engines
from benchmarks.server import MODEL
from model.tokenizer import load_tokenizer
from serving.api.app import build_app
from serving.api.service import ServedModel, Service
from serving.engine.loop import Observer
from serving.engine.meshes import name_workers
from serving.engine.observer import Observers
from serving.messages import Decision, End, StepsTimed, WorkerId
from serving.metrics import DecisionLog, Metrics, ServerLabels
from serving.request import Turn, TurnId

POLL_S = 0.01
KEEP_ALIVE_S = 75


class Silent:
    """An observer that does nothing."""

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """A token is on its way to the client of each of these turns."""

    def on_end(self, end: End, now: float) -> None:
        """A turn ended."""

    def on_decision(self, decision: Decision, now: float) -> None:
        """The coordinator decided something."""

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Pages left a worker."""

    def on_steps(self, steps: StepsTimed) -> None:
        """A worker told what its last steps took."""


@contextlib.contextmanager
def observer_named(watching: str, metrics: Metrics) -> Iterator[Observer]:
    """Make the observer that a question asks for; the log's file is gone at the end."""
    if watching != "log":
        yield {"none": Silent(), "metrics": metrics}[watching]
        return
    with tempfile.TemporaryDirectory() as directory:
        opening = {"version": version("foretoken"), "workers": {}, "policies": {}}
        log = DecisionLog(Path(directory) / "decisions.jsonl", opening, time.monotonic())
        with contextlib.closing(log):
            yield Observers([metrics, log])


@contextlib.asynccontextmanager
async def serving(engines: Engines, checkpoint: Path, *, watching: str) -> AsyncIterator[int]:
    """Serve on a free port for as long as the context is open."""
    deployment = engines.deployment
    metrics = Metrics(
        ServerLabels(
            model_name=MODEL,
            max_model_len=deployment.max_model_len,
            workers=tuple(name_workers(deployment.config.mesh)),
            page_size=deployment.config.memory.page_size,
            cache_dtype=deployment.model.dtype,
        )
    )
    with observer_named(watching, metrics) as observer:
        async with engines.running(observer) as engine:
            model = ServedModel((MODEL,), deployment.max_model_len, created=0, seed=0)
            # The endpoint itself counts one thing per request; that is the same with and without.
            service = Service(
                engine, load_tokenizer(checkpoint), deployment.config.endpoint, model, metrics
            )
            app = build_app(service, version=version("foretoken"), settings={})
            server = uvicorn.Server(
                uvicorn.Config(
                    app,
                    host="127.0.0.1",
                    port=0,
                    log_level="warning",
                    lifespan="off",
                    access_log=False,
                    timeout_keep_alive=KEEP_ALIVE_S,
                )
            )
            task = asyncio.create_task(server.serve())
            while not server.started:
                await asyncio.sleep(POLL_S)
            yield server.servers[0].sockets[0].getsockname()[1]
            server.should_exit = True
            await task


async def answer(engines: Engines, checkpoint: Path) -> None:
    """Serve what each line of standard input asks for, until it ends."""
    question = await asyncio.to_thread(sys.stdin.readline)
    while question:
        watching = json.loads(question)["watching"]
        async with serving(engines, checkpoint, watching=watching) as port:
            print(json.dumps({"port": port}), flush=True)
            question = await asyncio.to_thread(sys.stdin.readline)


def main(checkpoint: Path) -> None:
    """Load and compile once, and serve."""
    jax.config.update("jax_platforms", "cpu")
    with contextlib.redirect_stdout(sys.stderr):
        engines = Engines(checkpoint, prefill_workers=0, decode_workers=1)
    uvloop.run(answer(engines, checkpoint))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
