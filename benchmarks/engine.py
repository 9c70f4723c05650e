"""How does a benchmark run the engine in its own process? The server's own parts, without HTTP.

Weights are loaded and steps compiled once; then one engine after another runs on them, each with
fresh accounts and its own policies, so that two of them can be compared within the same minute.
"""

import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from serving.engine.build import (
    Deployment,
    assemble,
    compile_programs,
    load_workers,
    make_coordinator,
    settle,
)
from serving.engine.compile_cache import cache_directory, keep_compiled
from serving.engine.loop import EngineLoop, Observer
from serving.engine.meshes import make_cpu_devices
from serving.engine.worker import Leaving
from serving.flags import build_config
from serving.messages import Decision, End, StepsTimed, WorkerId
from serving.request import GREEDY, SamplingParams, SessionId, Slo, Turn, TurnId
from serving.serve import SWITCH_INTERVAL_S


class Engines:
    """Compiled workers, and the engines that run on them one after another."""

    def __init__(self, checkpoint: Path, **settings: Any) -> None:
        """Load and compile, as `foretoken serve` does with these settings; takes a while."""
        config = build_config(str(checkpoint), settings)
        # Before `settle`, which asks for JAX's devices.
        make_cpu_devices(config.mesh.devices_needed)
        self._deployment = settle(config)
        keep_compiled(cache_directory(), least_seconds=0.0)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self._workers = load_workers(self._deployment)
        compile_programs(self._workers)

    @property
    def deployment(self) -> Deployment:
        """The settings, and the sizes that followed from them."""
        return self._deployment

    @asynccontextmanager
    async def running(
        self,
        observer: Observer,
        tap: Callable[[Sequence[Leaving]], None] | None = None,
        **policies: str,
    ) -> AsyncIterator[EngineLoop]:
        """Run an engine for as long as the context is open.

        `policies` replace settings of the policies. `tap` is shown what leaves the workers, in
        their threads, before the engine takes it.
        """
        config = self._deployment.config
        policy = replace(config.policy, **policies)
        deployment = replace(self._deployment, config=replace(config, policy=policy))
        engine = EngineLoop(
            make_coordinator(deployment),
            observer,
            time.monotonic,
            flexible_roles=config.mesh.flexible_roles,
            step_timeout_s=config.schedule.step_timeout_seconds,
        )

        def post(leaving: Sequence[Leaving]) -> None:
            if tap is not None:
                tap(leaving)
            engine.post(leaving)

        await engine.start(assemble(self._workers, post, time.monotonic))
        try:
            yield engine
        finally:
            await engine.drain(0.0)
            await engine.stop()


class Recorder:
    """An observer that keeps the times of tokens, the decisions, and the bytes moved."""

    def __init__(self) -> None:
        """Start with nothing seen."""
        self.times: dict[TurnId, list[float]] = {}
        self.decisions: list[tuple[float, Decision]] = []
        self.moved_bytes = 0

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""
        self.times[turn.id] = []

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """A token is on its way to the client of each of these turns."""
        for turn in turns:
            self.times[turn].append(now)

    def on_end(self, end: End, now: float) -> None:
        """A turn ended."""

    def on_decision(self, decision: Decision, now: float) -> None:
        """The coordinator decided something."""
        self.decisions.append((now, decision))

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Pages left a worker."""
        self.moved_bytes += num_bytes

    def on_steps(self, steps: StepsTimed) -> None:
        """A worker told what its last steps took."""

    def owner(self, turn: TurnId) -> WorkerId | None:
        """Return where a turn was placed; None if it was not."""
        placed = (d for _, d in self.decisions if d.kind == "place" and d.turn == turn)
        return next((WorkerId(d.choice) for d in placed), None)


def greedy(max_tokens: int) -> SamplingParams:
    """Describe a reply of exactly so many tokens: nothing stops it."""
    return replace(GREEDY, max_tokens=max_tokens)


def make_turn(name: str, tokens: Sequence[int], max_tokens: int, session: str | None) -> Turn:
    """Make a turn without targets."""
    key = None if session is None else SessionId(session)
    return Turn(TurnId(name), key, tuple(tokens), greedy(max_tokens), Slo(None, None), 0, "")


async def finish(engine: EngineLoop, turn: Turn) -> int:
    """Run a turn to its end, as a client that keeps reading; returns how many tokens came."""
    count = 0
    async for item in engine.submit(turn):
        if not isinstance(item, End):
            count += len(item.samples)
    return count
