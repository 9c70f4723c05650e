"""Turns that follow another: when they start, and that each ends exactly once, come what may."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from math import inf
from typing import Any, cast

import pytest

from serving.engine.loop import EngineLoop
from serving.engine.worker import WarmWorker, Worker
from serving.messages import (
    Completed,
    Decision,
    Deliver,
    Dropped,
    End,
    Failed,
    Finished,
    LoadReport,
    Outcome,
    Prefill,
    PrefillDone,
    Rejected,
    Role,
    SampledToken,
    Task,
    Tokens,
    WorkerId,
    WorkerLost,
    WorkerMessage,
)
from serving.request import FinishReason, Turn, TurnId
from tests.serving.engine.test_loop import Diary
from tests.support.shape import Shape
from tests.support.turns import make_turn

D0 = WorkerId("d0")
LENGTH = Completed(FinishReason.LENGTH)


class ScriptedWorker:
    """A worker that does what the test says, when the test says it."""

    def __init__(self, engine: EngineLoop) -> None:
        self.id = D0
        self.report = LoadReport(D0, 0, 0, 0, 0, 10, 0, 0, 0)
        self.owes_since = None
        self.tasks: list[Task] = []
        self._engine = engine

    def start(self) -> None:
        """There is no thread."""

    def stop(self, timeout_s: float) -> bool:
        """There is no thread."""
        return True

    def deliver(self, message: WorkerMessage) -> None:
        if isinstance(message, Prefill):
            self.tasks.append(message.task)

    @property
    def turns(self) -> list[TurnId]:
        return [task.turn.id for task in self.tasks]

    def reply(self, number: int) -> None:
        """Give the task its whole reply: every token, then the end."""
        task = self.tasks[number]
        most = task.turn.sampling.max_tokens
        first = SampledToken(0, 65, None)
        finish = FinishReason.LENGTH if most == 1 else None
        self._engine.post([PrefillDone(D0, task.id, first, 5, None, finish, 0.0)])
        for index in range(1, most):
            self._engine.post([Tokens(D0, [task.id], [SampledToken(index, 66, None)])])
        self._engine.post([Finished(D0, task.id, FinishReason.LENGTH, most)])

    def break_down(self) -> None:
        self._engine.post([WorkerLost(D0)])


class Running:
    """An engine with one scripted worker."""

    def __init__(self, **shape: Any) -> None:
        self.diary = Diary()
        coordinator = replace(Shape(), **shape).coordinator()
        self.engine = EngineLoop(
            coordinator, self.diary, lambda: 0.0, flexible_roles=False, step_timeout_s=inf
        )
        self.worker = ScriptedWorker(self.engine)

    def submit(self, count: int, max_tokens: int) -> list["asyncio.Task[list[Deliver | End]]"]:
        """Submit a turn and its followers; each task collects what its reader gets."""
        leader = make_turn("t0", range(5), max_tokens=max_tokens)
        turns = [leader]
        turns += [replace(leader, id=TurnId(f"t{i}"), follows=leader.id) for i in range(1, count)]
        return [asyncio.create_task(self._read(turn)) for turn in turns]

    async def _read(self, turn: Turn) -> list[Deliver | End]:
        return [item async for item in self.engine.submit(turn)]

    def outcomes(self, tasks: list["asyncio.Task[list[Deliver | End]]"]) -> list[Outcome]:
        """How each ended: the end is the last that its reader gets, and the only one."""
        ends: list[Outcome] = []
        for task in tasks:
            (end,) = (item for item in task.result() if isinstance(item, End))
            assert end is task.result()[-1]
            ends.append(end.outcome)
        assert self.engine.live_turns == 0
        return ends


@asynccontextmanager
async def started(**shape: Any) -> AsyncIterator[Running]:
    running = Running(**shape)
    await running.engine.start([WarmWorker(cast(Worker, running.worker), Role.BOTH, 400, ())])
    try:
        yield running
    finally:
        await running.engine.stop()


async def settle() -> None:
    """Let everything happen that needs no time."""
    for _ in range(20):
        await asyncio.sleep(0)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(30):
            await scene()

    asyncio.run(main())


def test_followers_start_with_the_first_token_of_their_leader():
    async def scene() -> None:
        async with started() as running:
            tasks = running.submit(3, max_tokens=2)
            await settle()
            assert running.worker.turns == ["t0"]
            assert running.engine.live_turns == 3
            running.worker.reply(0)
            await settle()
            assert running.worker.turns == ["t0", "t1", "t2"]
            for number in (1, 2):
                running.worker.reply(number)
            await asyncio.gather(*tasks)
            assert running.outcomes(tasks) == [LENGTH] * 3

    play(scene)


def test_followers_start_when_all_is_heard_that_came_with_the_token():
    """What is told behind it is, first of all, that the prompt's pages can be found."""

    async def scene() -> None:
        async with started() as running:
            tasks = running.submit(2, max_tokens=2)
            await settle()
            task = running.worker.tasks[0].id
            first = SampledToken(0, 65, None)
            told = Decision("told", None, None, "behind", "test", {})
            running.engine.post([PrefillDone(D0, task, first, 5, None, None, 0.0), told])
            await settle()
            kinds = [(one.kind, one.turn) for one in running.diary.decisions]
            assert kinds.index(("told", None)) < kinds.index(("place", TurnId("t1")))
            for name in ("t0", "t1"):
                running.engine.cancel(TurnId(name), "left")
            await asyncio.gather(*tasks)

    play(scene)


# With one token the leader has ended before its followers begin.
@pytest.mark.parametrize("max_tokens", [1, 3])
def test_a_drain_waits_for_followers_that_have_not_started(max_tokens: int):
    async def scene() -> None:
        async with started() as running:
            tasks = running.submit(2, max_tokens)
            await settle()
            drain = asyncio.create_task(running.engine.drain(30.0))
            await settle()
            running.worker.reply(0)
            await settle()
            assert not drain.done()
            running.worker.reply(1)
            await asyncio.gather(drain, *tasks)
            assert running.outcomes(tasks) == [LENGTH] * 2

    play(scene)


def test_a_queue_that_fills_up_meanwhile_refuses_no_follower():
    async def scene() -> None:
        async with started(max_queue_size=1) as running:
            tasks = running.submit(3, max_tokens=2)
            await settle()
            running.worker.reply(0)
            other = asyncio.create_task(running._read(make_turn("other", range(9))))
            await settle()
            full = asyncio.create_task(running._read(make_turn("full", range(9))))
            await settle()
            for number, turn in enumerate(running.worker.turns):
                if turn != "t0":
                    running.worker.reply(number)
            await asyncio.gather(*tasks, other, full)
            assert running.outcomes(tasks) == [LENGTH] * 3
            (rejected,) = running.outcomes([full])
            assert isinstance(rejected, Rejected)

    play(scene)


def test_a_leader_that_gets_no_token_takes_its_followers_along():
    async def scene() -> None:
        async with started() as running:
            tasks = running.submit(3, max_tokens=2)
            await settle()
            running.worker.break_down()
            await asyncio.gather(*tasks)
            first, *others = running.outcomes(tasks)
            assert isinstance(first, Failed)
            assert others == [first] * 2
            # Nothing was decided about them, so observers are told of the leader alone.
            assert [end.turn for end in running.diary.ends] == list(running.diary.tokens) == ["t0"]

    play(scene)


def test_a_leader_that_is_refused_takes_its_followers_along():
    async def scene() -> None:
        async with started(max_queue_size=0) as running:
            tasks = running.submit(2, max_tokens=2)
            await asyncio.gather(*tasks)
            assert all(isinstance(one, Rejected) for one in running.outcomes(tasks))

    play(scene)


@pytest.mark.parametrize("order", [["t1", "t2", "t0"], ["t0", "t1", "t2"]])
def test_followers_that_wait_can_be_cancelled(order: list[str]):
    async def scene() -> None:
        async with started() as running:
            tasks = running.submit(3, max_tokens=2)
            await settle()
            for turn in order:
                running.engine.cancel(TurnId(turn), "left")
            await asyncio.gather(*tasks)
            assert running.outcomes(tasks) == [Dropped("left")] * 3
            assert running.worker.turns == ["t0"]

    play(scene)


def test_a_follower_that_is_cancelled_does_not_start_and_the_others_do():
    async def scene() -> None:
        async with started() as running:
            tasks = running.submit(3, max_tokens=2)
            await settle()
            running.engine.cancel(TurnId("t1"), "left")
            running.worker.reply(0)
            await settle()
            running.worker.reply(1)
            await asyncio.gather(*tasks)
            assert running.worker.turns == ["t0", "t2"]
            assert running.outcomes(tasks) == [LENGTH, Dropped("left"), LENGTH]

    play(scene)


def test_who_follows_a_turn_that_has_begun_starts_with_its_next_token_or_its_end():
    async def scene() -> None:
        async with started() as running:
            (leader,) = running.submit(1, max_tokens=1)
            await settle()
            late = replace(make_turn("late", range(5), max_tokens=1), follows=TurnId("t0"))
            task = running.worker.tasks[0].id
            first = SampledToken(0, 65, None)
            running.engine.post([PrefillDone(D0, task, first, 5, None, None, 0.0)])
            await settle()
            follower = asyncio.create_task(running._read(late))
            await settle()
            running.engine.post([Finished(D0, task, FinishReason.LENGTH, 1)])
            await settle()
            running.worker.reply(1)
            await asyncio.gather(leader, follower)
            assert running.outcomes([leader, follower]) == [LENGTH] * 2

    play(scene)
