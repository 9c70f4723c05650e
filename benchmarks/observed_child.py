"""Serves under one observer or another, in one process, so that they can be compared.

A question has `watching`: whom the next server's engine tells what happens. That is an observer
that does nothing (`none`), the metrics, or the metrics and a decision log (`log`). The answer's
`port` is where it serves, until the next such question. Nothing is compiled anew: each server is a
fresh endpoint and engine on the same workers. The empty question is answered by `watched_s`: the
processor time that this server's observers have taken.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import jax
import uvicorn
import uvloop

from benchmarks.engine import Engines
from benchmarks.server import MODEL
from model.sampling_defaults import SamplingDefaults
from model.tokenizer import load_tokenizer
from serving.api.app import build_app
from serving.api.service import ServedModel, Service
from serving.assembly import name_workers
from serving.engine.loop import Observer
from serving.engine.observer import Observers
from serving.messages import Decision, End, StepsTimed, WorkerId
from serving.metrics import DecisionLog, Metrics, ServerLabels
from serving.request import Turn, TurnId

POLL_S = 0.01
KEEP_ALIVE_S = 75
LOG_THREAD = "decision log"


class Timed:
    """An observer, and the processor time that it has taken: in the loop's thread, in a log's."""

    def __init__(self, observer: Observer) -> None:
        """Nothing has been told yet."""
        self._observer = observer
        self._told_s = 0.0

    @property
    def watched_s(self) -> float:
        """Seconds so far."""
        logs = [thread.ident for thread in threading.enumerate() if thread.name == LOG_THREAD]
        clocks = [time.pthread_getcpuclockid(ident) for ident in logs if ident is not None]
        return self._told_s + sum(time.clock_gettime(clock) for clock in clocks)

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""
        self._tell(self._observer.on_arrival, turn, now)

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """A token is on its way to the client of each of these turns."""
        self._tell(self._observer.on_tokens, turns, now)

    def on_end(self, end: End, now: float) -> None:
        """A turn ended."""
        self._tell(self._observer.on_end, end, now)

    def on_decision(self, decision: Decision, now: float) -> None:
        """Something was decided."""
        self._tell(self._observer.on_decision, decision, now)

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Pages left a worker."""
        self._tell(self._observer.on_moved, sender, to, num_bytes)

    def on_steps(self, steps: StepsTimed) -> None:
        """A worker told what its last steps took."""
        self._tell(self._observer.on_steps, steps)

    def _tell(self, tell: Callable[..., None], *what: object) -> None:
        began = time.thread_time()
        tell(*what)
        self._told_s += time.thread_time() - began


@contextlib.contextmanager
def observer_named(watching: str, metrics: Metrics) -> Iterator[Observer]:
    """Make the observer that a question asks for; the log's file is gone at the end."""
    if watching != "log":
        yield Observers([] if watching == "none" else [metrics])
        return
    with tempfile.TemporaryDirectory() as directory:
        opening = {"version": version("foretoken"), "workers": {}, "policies": {}}
        log = DecisionLog(Path(directory) / "decisions.jsonl", opening, time.monotonic())
        with contextlib.closing(log):
            yield Observers([metrics, log])


@contextlib.asynccontextmanager
async def serving(
    engines: Engines, checkpoint: Path, *, watching: str
) -> AsyncIterator[tuple[int, Timed]]:
    """Serve on a free port for as long as the context is open; returns the port too."""
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
        timed = Timed(observer)
        async with engines.running(timed) as engine:
            model = ServedModel(
                (MODEL,),
                deployment.max_model_len,
                created=0,
                seed=0,
                random_weights=False,
                defaults=SamplingDefaults(),
            )
            # The endpoint itself counts one thing per request; that is the same with and without.
            service = Service(
                engine, load_tokenizer(checkpoint), deployment.config.endpoint, model, metrics, None
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
            yield server.servers[0].sockets[0].getsockname()[1], timed
            server.should_exit = True
            await task


async def answer(engines: Engines, checkpoint: Path) -> None:
    """Serve what each line of standard input asks for, until it ends."""
    question = await asyncio.to_thread(sys.stdin.readline)
    while question:
        watching = json.loads(question)["watching"]
        async with serving(engines, checkpoint, watching=watching) as (port, timed):
            print(json.dumps({"port": port}), flush=True)
            while (question := await asyncio.to_thread(sys.stdin.readline)) == "{}\n":
                print(json.dumps({"watched_s": timed.watched_s}), flush=True)


def main(checkpoint: Path) -> None:
    """Load and compile once, and serve."""
    jax.config.update("jax_platforms", "cpu")
    with contextlib.redirect_stdout(sys.stderr):
        engines = Engines(checkpoint, prefill_workers=0, decode_workers=1)
    uvloop.run(answer(engines, checkpoint))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
