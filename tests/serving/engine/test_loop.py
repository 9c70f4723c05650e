"""The threads, the event loop and the clients together, with real executors."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.rules import CoordinatorLimits, CoordinatorRules
from serving.core.sessions import Sessions
from serving.costs.correction import WINDOW
from serving.engine import loop as engine_loop
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.loop import EngineLoop
from serving.engine.worker import WarmWorker, Worker
from serving.messages import (
    SHUTDOWN,
    Completed,
    Decision,
    Deliver,
    Dropped,
    End,
    EngineState,
    Failed,
    Rejected,
    Role,
    StepsTimed,
    StepTime,
    Tick,
    WorkerId,
)
from serving.request import Turn, TurnId
from tests.support.local_fleet import sampling, turn
from tests.support.rules import batcher_rules, coordinator_rules
from tests.support.sharp_lengths import SharpLengths
from tests.support.tiny_cluster import LIMITS, Cluster, Connects, oracle, prompt


class Diary:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.ends: list[End] = []
        self.tokens: dict[TurnId, int] = {}
        self.decisions: list[Decision] = []
        self.moved = 0
        self.steps = 0

    def on_arrival(self, turn: Turn, now: float) -> None:
        self.tokens[turn.id] = 0

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        for name in turns:
            self.tokens[name] += 1

    def on_end(self, end: End, now: float) -> None:
        self.ends.append(end)

    def on_decision(self, decision: Decision, now: float) -> None:
        self.decisions.append(decision)

    def on_steps(self, steps: StepsTimed) -> None:
        self.steps += len(steps.steps)

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        self.moved += num_bytes


class Running:
    """An engine on a cluster's executors, started on entry and stopped on exit."""

    def __init__(
        self,
        cluster: Cluster,
        max_queue_size: int = 100,
        flexible_roles: bool = False,
        diary: Diary | None = None,
        step_timeout_s: float = inf,
        timed: Sequence[StepTime] = (),
        by: Connects = InProcessConnector,
        rules: CoordinatorRules | None = None,
        clock: Callable[[], float] = time.monotonic,
        move_timeout_s: float = 30.0,
        **limits: Any,
    ) -> None:
        self.cluster, self.limits = cluster, replace(LIMITS, **limits)
        self.diary = diary or Diary()
        self.timed, self.by, self.clock = timed, by, clock
        coordinator = Coordinator(
            CoordinatorLimits(128, 4, max_queue_size, None, 3, move_timeout_s),
            rules or coordinator_rules(),
            Sessions(max_sessions=100, ttl_s=1e9, page_size=4),
            SharpLengths(16),
        )
        self.engine = EngineLoop(
            coordinator,
            self.diary,
            clock,
            flexible_roles=flexible_roles,
            step_timeout_s=step_timeout_s,
        )

    async def __aenter__(self) -> EngineLoop:
        workers = []
        connector = self.cluster.reconnect(self.by)
        for name, (role, executor) in self.cluster.executors.items():
            batcher = Batcher(name, self.limits, batcher_rules())
            worker = Worker(batcher, executor, connector, self.engine.post, self.clock)
            workers.append(WarmWorker(worker, role, 192, self.timed))
        await self.engine.start(workers)
        return self.engine

    async def __aexit__(self, *_: object) -> None:
        await self.engine.stop()


async def read(engine: EngineLoop, one: Turn) -> tuple[tuple[int, ...], End]:
    tokens: list[int] = []
    async for item in engine.submit(one):
        if isinstance(item, End):
            return tuple(tokens), item
        tokens += [sample.token for sample in item.samples]
    raise AssertionError("a reply had no end")


async def until_idle(engine: EngineLoop) -> None:
    async with asyncio.timeout(30):
        while any(report.pages_used or report.running for report in engine.reports()):
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("cluster", ["colocated", "split"])
def test_concurrent_clients_get_what_the_oracle_says(request, cluster):
    async def main() -> None:
        running = Running(request.getfixturevalue(cluster))
        wanted = sampling(10, temperature=0.9, seed=3)
        prompts = [prompt(3 + 2 * i, seed=i) for i in range(12)]
        async with running as engine:
            answers = await asyncio.gather(
                *(read(engine, turn(f"t{i}", p, wanted)) for i, p in enumerate(prompts))
            )
            await until_idle(engine)
        assert [tokens for tokens, _ in answers] == [oracle(p, wanted) for p in prompts]
        assert all(isinstance(end.outcome, Completed) for _, end in answers)
        decided = {kind: set[TurnId | None]() for kind in ("place", "admit")}
        for decision in running.diary.decisions:
            decided.setdefault(decision.kind, set()).add(decision.turn)
        assert decided["admit"] == decided["place"] == {f"t{i}" for i in range(12)}
        assert running.diary.ends == sorted(
            (end for _, end in answers), key=running.diary.ends.index
        )
        assert set(running.diary.tokens.values()) == {10}
        assert (running.diary.moved > 0) == (cluster == "split")
        assert running.diary.steps > 0
        assert [means.worker for means in engine.means()] == list(running.cluster.executors)

    asyncio.run(main())


def test_a_cancelled_turn_ends_once_and_frees_its_pages(split):
    async def main() -> None:
        running = Running(split)
        async with running as engine:
            reply = engine.submit(turn("t", prompt(20), sampling(100)))
            await anext(reply)
            engine.cancel(TurnId("t"), "disconnected")
            engine.cancel(TurnId("t"), "disconnected")
            items = [item async for item in reply]
            await until_idle(engine)
        ends = [item for item in items if isinstance(item, End)]
        assert [end.outcome for end in ends] == [Dropped("disconnected")]
        assert running.diary.ends == ends

    asyncio.run(main())


def test_after_a_reset_nothing_is_found_computed(split):
    async def main() -> None:
        async with Running(split) as engine:
            cached: list[int] = []
            for number in range(3):
                if number == 2:
                    engine.reset_prefix_cache()
                tokens, end = await read(engine, turn(f"t{number}", prompt(21), sampling(4)))
                assert tokens == oracle(prompt(21), sampling(4))
                cached.append(end.cached_len)
                await until_idle(engine)
        assert cached == [0, 20, 0]

    asyncio.run(main())


def test_a_full_queue_and_a_draining_engine_refuse_before_anything_runs(colocated):
    async def main() -> None:
        running = Running(colocated, max_queue_size=1)
        async with running as engine:
            first = engine.submit(turn("t0", prompt(5), sampling(20)))
            second = engine.submit(turn("t1", prompt(5), sampling(20)))
            refused = await anext(second)
            assert isinstance(refused, End)
            assert isinstance(refused.outcome, Rejected)
            assert refused.outcome.code == "queue_full"
            drained = asyncio.create_task(engine.drain(60.0))
            await asyncio.sleep(0)
            assert engine.state is EngineState.DRAINING
            _, late = await read(engine, turn("t2", prompt(5), sampling(20)))
            assert isinstance(late.outcome, Rejected)
            assert late.outcome.code == "draining"
            items = [item async for item in first]
            assert isinstance(items[-1], End)
            assert isinstance(items[-1].outcome, Completed)
            await drained
        assert engine.state is EngineState.DEAD

    asyncio.run(main())


def test_a_drain_without_grace_drops_what_still_runs(colocated):
    async def main() -> None:
        async with Running(colocated) as engine:
            reply = engine.submit(turn("t", prompt(5), sampling(120)))
            await anext(reply)
            await engine.drain(0.0)
            items = [item async for item in reply]
            assert isinstance(items[-1], End)
            assert items[-1].outcome == Dropped(SHUTDOWN)

    asyncio.run(main())


def test_a_worker_whose_step_breaks_is_lost_and_its_turns_go_on_elsewhere(split, monkeypatch):
    async def main() -> None:
        running = Running(split)
        wanted = sampling(40)
        async with running as engine:
            first = engine.submit(turn("t", prompt(9), wanted))
            begun = await anext(first)
            assert isinstance(begun, Deliver)
            tokens = [sample.token for sample in begun.samples]
            owner = next(d.choice for d in running.diary.decisions if d.kind == "place")
            _, executor = split.executors[owner]

            def broken(plan: object) -> None:
                raise RuntimeError("the device is gone")

            monkeypatch.setattr(executor, "launch", broken)
            async for item in first:
                if isinstance(item, End):
                    assert isinstance(item.outcome, Completed)
                else:
                    tokens += [sample.token for sample in item.samples]
            assert tuple(tokens) == oracle(prompt(9), wanted)
            assert engine.state is EngineState.READY
            assert owner not in [report.worker for report in engine.reports()]

    asyncio.run(main())


def test_when_the_last_worker_breaks_turns_fail_and_the_engine_is_dead(colocated, monkeypatch):
    async def main() -> None:
        async with Running(colocated) as engine:
            ((_, executor),) = colocated.executors.values()

            def broken(plan: object) -> None:
                raise RuntimeError("the device is gone")

            monkeypatch.setattr(executor, "launch", broken)
            _, end = await read(engine, turn("t", prompt(9), sampling(5)))
            assert isinstance(end.outcome, Failed)
            assert engine.state is EngineState.DEAD

    asyncio.run(main())


def test_where_nobody_is_left_to_decode_the_engine_is_dead(split, monkeypatch):
    async def main() -> None:
        running = Running(split)
        async with running as engine:
            decoding = [w.worker for w in engine.workers() if w.role is not Role.PREFILL]

            def broken(plan: object) -> None:
                raise RuntimeError("the device is gone")

            for worker in decoding:
                _, executor = split.executors[worker]
                monkeypatch.setattr(executor, "launch", broken)
            _, end = await read(engine, turn("t", prompt(9), sampling(5)))
            assert isinstance(end.outcome, Failed)
            assert engine.reports(), "a worker that prefills is there"
            assert engine.state is EngineState.DEAD

    asyncio.run(main())


def test_what_steps_took_as_workers_warmed_up_is_known_from_the_start(colocated, caplog):
    async def main() -> None:
        step = StepTime(4, 0, 0, 0.001, 0.009)
        async with Running(colocated, timed=[step] * WINDOW) as engine:
            (worker,) = [status.worker for status in engine.workers()]
            engine.post([StepsTimed(worker, (step,), 0.002, 0.1)])
            await asyncio.sleep(0.01)

    asyncio.run(main())
    (line,) = [r.message for r in caplog.records if r.name == "serving.engine.loop"]
    assert line.startswith("decode steps take 9 times what is predicted")


def test_an_operator_is_told_that_predicted_step_times_are_wrong(colocated, caplog):
    async def main() -> None:
        async with Running(colocated) as engine:
            (worker,) = [status.worker for status in engine.workers()]
            steps = tuple(StepTime(4, 0, False, 0.001, 0.009) for _ in range(WINDOW))
            engine.post([StepsTimed(worker, steps, 0.002, 0.1)])
            await asyncio.sleep(0.01)

    asyncio.run(main())
    (line,) = [r.message for r in caplog.records if r.name == "serving.engine.loop"]
    assert line.startswith("decode steps take 9 times what is predicted")
    assert "--costs" in line


def test_a_tick_that_fails_is_told_once_and_the_next_ones_come(colocated, monkeypatch, caplog):
    async def main() -> None:
        async with Running(colocated) as engine:
            coordinator, failed = engine._coordinator, 0
            on = coordinator.on

            def failing(event: Any, now: float) -> Any:
                nonlocal failed
                if isinstance(event, Tick) and failed < 2:
                    failed += 1
                    raise ZeroDivisionError
                return on(event, now)

            monkeypatch.setattr(engine_loop, "TICK_S", 0.001)
            monkeypatch.setattr(coordinator, "on", failing)
            async with asyncio.timeout(30):
                while failed < 2:
                    await asyncio.sleep(0.001)
            _, end = await read(engine, turn("t", prompt(9), sampling(5)))
            assert isinstance(end.outcome, Completed)

    asyncio.run(main())
    (line,) = caplog.messages
    assert line.startswith("a tick failed")
