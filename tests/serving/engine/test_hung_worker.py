"""A device that does not answer: its worker is given up, and what it says later is not heard."""

import asyncio
import logging
from threading import Event as Signal
from typing import Any

import pytest

from serving.core.plan import StepPlan, StepResult
from serving.engine import loop as engine_loop
from serving.messages import (
    Completed,
    Deliver,
    End,
    EngineState,
    Failed,
    Granted,
    PagesReady,
    TransferId,
    WorkerId,
    WorkerLost,
)
from tests.serving.engine.test_loop import Running, read
from tests.serving.engine.test_worker import SECOND, Bench, Device
from tests.support.local_fleet import sampling, turn
from tests.support.one_worker import D0, P0, prefill, task
from tests.support.tiny_cluster import Cluster, oracle, prompt


class Hanging(Device):
    """Its steps do not come back before `answers` is set; `asked`: one is awaited."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answers = Signal(), Signal()

    def collect(self, pending: StepPlan) -> StepResult:
        self.asked.set()
        assert self.answers.wait(60)
        return super().collect(pending)


def test_a_worker_owes_a_step_from_its_launch_until_it_has_come():
    bench = Bench(D0)
    worker = bench.worker
    now = 5.0
    worker._clock = lambda: now
    assert worker.owes_since is None
    worker.deliver(prefill(task("a", range(9), max_tokens=3)))
    worker.round()  # of nine tokens, the first eight
    assert worker.owes_since == 5.0
    now = 7.0
    worker.round()
    assert worker.owes_since == 7.0, "the first step has come, and the next one is out"
    while worker.round():
        pass
    assert worker.owes_since is None


def test_nothing_leaves_a_worker_that_was_given_up_but_the_word_of_its_loss():
    # The first step ends one prompt, whose announcement waits for its token; it and the next one
    # fill pages of another, which are announced at once.
    device = Hanging()
    sender = Bench(P0, device)
    for work in (task("a", range(4)), task("b", range(100, 120))):
        sender.worker.deliver(prefill(work, D0))
        sender.worker.deliver(Granted(work.id, D0, 0, None))
    sender.worker.start()
    assert device.asked.wait(30)
    assert not sender.worker.stop(0.0), "its thread hangs"
    sender.worker.give_up(12.5)
    assert sender.left[-1] == WorkerLost(P0, 12.5)
    said, steps = list(sender.left), device.steps
    announced = [ready.transfer for ready in sender.messages(PagesReady)]
    assert announced == [SECOND, TransferId(P0, 3)]
    assert list(sender.payloads.kept) == announced, "what was not announced is let go"
    assert sender.payloads.lost == [P0]
    device.answers.set()
    assert sender.worker.stop(30.0)
    sender.worker.give_up(13.0)
    assert sender.left == said
    assert device.steps == steps, "it plans no further step"
    assert list(sender.payloads.kept) == announced


def test_a_worker_that_breaks_after_it_was_given_up_is_not_lost_twice(caplog):
    class Breaking(Hanging):
        def collect(self, pending: StepPlan) -> StepResult:
            super().collect(pending)
            raise RuntimeError("the device is gone")

    device = Breaking()
    bench = Bench(D0, device)
    bench.worker.deliver(prefill(task("a", range(9))))
    bench.worker.start()
    assert device.asked.wait(30)
    bench.worker.give_up(12.5)
    device.answers.set()
    assert bench.worker.stop(30.0)
    assert bench.messages(WorkerLost) == [WorkerLost(D0, 12.5)]
    (line,) = caplog.messages
    assert line == "worker d0 was given up; its step has come to an end, unused"


class Hang:
    """Steps of one worker of a cluster do not come back before `answers` is set."""

    def __init__(self, cluster: Cluster, worker: WorkerId, patch: pytest.MonkeyPatch) -> None:
        self.answers = Signal()
        _, executor = cluster.executors[worker]
        collect = executor.collect

        def hung(pending: Any) -> StepResult:
            assert self.answers.wait(60)
            return collect(pending)

        patch.setattr(executor, "collect", hung)


def test_turns_of_a_worker_that_hangs_go_on_elsewhere(split, monkeypatch, caplog):
    async def main() -> None:
        running = Running(split, step_timeout_s=0.4)
        wanted = sampling(40)
        async with running as engine:
            reply = engine.submit(turn("t", prompt(9), wanted))
            begun = await anext(reply)
            assert isinstance(begun, Deliver)
            tokens = [sample.token for sample in begun.samples]
            owner = WorkerId(next(d.choice for d in running.diary.decisions if d.kind == "place"))
            hang = Hang(split, owner, monkeypatch)
            async for item in reply:
                if isinstance(item, End):
                    assert isinstance(item.outcome, Completed)
                else:
                    tokens += [sample.token for sample in item.samples]
            assert tuple(tokens) == oracle(prompt(9), wanted)
            assert engine.state is EngineState.READY
            assert owner not in [report.worker for report in engine.reports()]
            assert owner not in engine.step_ages()
            (lost,) = [d for d in running.diary.decisions if d.kind == "worker_lost"]
            assert (lost.reason, lost.details["worker"]) == ("step_overdue", owner)
            waited = lost.details["overdue_s"]
            assert isinstance(waited, float)
            assert waited >= 0.4
            decided = len(running.diary.decisions)
            monkeypatch.setattr(engine_loop, "STOP_S", 0.01)
            assert await engine.stop() == [owner], "its thread hangs, and is not waited for"
            hang.answers.set()
            monkeypatch.setattr(engine_loop, "STOP_S", 30.0)
            assert await engine.stop() == []
            await asyncio.sleep(0)
            assert len(running.diary.decisions) == decided

    with caplog.at_level(logging.WARNING):
        asyncio.run(main())
    first, last = caplog.messages
    assert "is lost: its step has been out for 0." in first
    assert "--step-timeout-seconds 0.4" in first
    assert last.endswith("its step has come to an end, unused")


def test_where_the_only_worker_hangs_turns_fail_and_the_engine_is_dead(
    colocated, monkeypatch, caplog
):
    async def main() -> None:
        async with Running(colocated, step_timeout_s=0.4) as engine:
            (worker,) = colocated.executors
            hang = Hang(colocated, worker, monkeypatch)
            _, end = await read(engine, turn("t", prompt(9), sampling(5)))
            assert isinstance(end.outcome, Failed)
            assert engine.state is EngineState.DEAD
            hang.answers.set()

    asyncio.run(main())
    assert any("no worker is left that decodes" in line for line in caplog.messages)


def test_a_step_that_is_out_is_told_before_it_is_overdue_and_holds_up_no_end(
    colocated, monkeypatch
):
    async def main() -> None:
        async with Running(colocated) as engine:
            (worker,) = colocated.executors
            assert engine.step_ages() == {worker: 0.0}
            hang = Hang(colocated, worker, monkeypatch)
            reply = engine.submit(turn("t", prompt(9), sampling(5)))
            async with asyncio.timeout(30):
                while engine.step_ages()[worker] < 0.05:
                    await asyncio.sleep(0.01)
            await engine.drain(0.0)
            assert isinstance(await anext(reply), End)
            monkeypatch.setattr(engine_loop, "STOP_S", 0.01)
            assert await engine.stop() == [worker]
            hang.answers.set()
            monkeypatch.setattr(engine_loop, "STOP_S", 30.0)

    asyncio.run(main())
