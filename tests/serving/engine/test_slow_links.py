"""Pages that take far longer than the transfer timeout as a whole: threads, real executors.

The clock is the link's: it goes on by less than the timeout while payloads are under way, and every
deadline is looked at before they come.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from threading import Condition, Thread
from threading import Event as Signal
from typing import Any

import pytest
from jax.sharding import NamedSharding

from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.worker_task import Stage
from serving.engine import loop as engine_loop
from serving.engine.connectors.in_process import InProcessConnector
from serving.messages import (
    Completed,
    MoveWanted,
    PagesReady,
    Tick,
    ToWorker,
    TransferId,
    WorkerId,
)
from tests.serving.engine.test_loop import Running, read, until_idle
from tests.support.local_fleet import sampling, turn
from tests.support.tiny_cluster import Cluster, oracle, prompt

TIMEOUT_S = 1000.0
"""Of the clock's seconds; a test takes few."""
STEP_S = 0.45 * TIMEOUT_S
"""By how much the clock goes on at once: what is announced behind that waits for the next time."""
PATIENCE_S = 30
Then = Callable[[], None]
D0, D1 = WorkerId("decode-0"), WorkerId("decode-1")


class Clock:
    """Seconds since some time in the past, and who has looked at deadlines how often.

    Beside a link that is so slow nothing else takes time, so that the clock waits for steps, with
    which copies go out, and until the link has all that was announced.
    """

    def __init__(self) -> None:
        self.skipped_s = 0.0
        self.announced = self.taken = 0  # payloads, of which the link has so many by now
        self._ticks: Counter[str] = Counter()
        self._steps: Counter[str] = Counter()
        self._decoding: dict[str, bool] = {}
        self._looked = Condition()

    def __call__(self) -> float:
        return time.monotonic() + self.skipped_s

    def skip(self, seconds: float) -> None:
        """Let time pass, and everybody look at it; rows that decode go on meanwhile."""
        self.skipped_s += seconds
        with self._looked:
            # Each time one may have been on its way before, or launched.
            ticks = {name: count + 2 for name, count in self._ticks.items()}
            steps = {name: self._steps[name] + 3 for name in ticks}
            assert self._looked.wait_for(
                lambda: (
                    all(
                        self._ticks[name] >= count
                        and (self._steps[name] >= steps[name] or not self._decoding.get(name))
                        for name, count in ticks.items()
                    )
                    and self.taken == self.announced
                ),
                PATIENCE_S,
            )

    def take(self) -> None:
        """The link has one payload more."""
        with self._looked:
            self.taken += 1
            self._looked.notify_all()

    def watch_steps(self, patch: pytest.MonkeyPatch) -> None:
        """Count the steps of batchers and what they announce, and see if they have rows."""
        on, step, complete = Batcher.on, Batcher.step, Batcher.complete

        def told(batcher: Batcher, outputs: list) -> list:
            messages = [output.message for output in outputs if isinstance(output, ToWorker)]
            tasks = batcher.holdings.tasks.values()
            with self._looked:
                self.announced += sum(isinstance(message, PagesReady) for message in messages)
                self._decoding[batcher.worker] = any(one.stage is Stage.DECODE for one in tasks)
            return outputs

        def completed(batcher: Batcher, *taken: Any) -> list:
            outputs = told(batcher, complete(batcher, *taken))
            with self._looked:
                self._steps[batcher.worker] += 1
                self._looked.notify_all()
            return outputs

        patch.setattr(Batcher, "on", lambda batcher, *heard: told(batcher, on(batcher, *heard)))
        patch.setattr(Batcher, "step", lambda batcher, now: told(batcher, step(batcher, now)))
        patch.setattr(Batcher, "complete", completed)

    def watch(self, patch: pytest.MonkeyPatch, kind: type, name: Callable[[object], str]) -> None:
        """Count the ticks that this kind of state machine takes."""
        on = kind.on  # type: ignore[attr-defined]

        def counted(machine: object, message: object, now: float) -> list:
            outputs = on(machine, message, now)
            if isinstance(message, Tick):
                with self._looked:
                    self._ticks[name(machine)] += 1
                    self._looked.notify_all()
            return outputs

        patch.setattr(kind, "on", counted)


class SlowLinks(InProcessConnector):
    """Tells of the first payload of each way when the clock has gone on once more.

    `kept`: the payload that is not told of before `let_come`, nor any behind it; None: all are.
    """

    def __init__(self, shardings: Mapping[WorkerId, NamedSharding], clock: Clock) -> None:
        super().__init__(shardings)
        self.told: list[TransferId] = []
        self.kept: int | None = None
        self._clock = clock
        self._ways: dict[tuple[WorkerId, WorkerId], deque[tuple[TransferId, Then]]] = {}
        self._more = Condition()
        self._over = False
        self._link = Thread(target=self._carry)
        self._link.start()

    def when_here(self, transfer: TransferId, then: Then, *, computed: bool) -> None:
        known = self._payloads.get(transfer)
        assert known is not None
        with self._more:
            self._ways.setdefault((transfer.sender, known[0]), deque()).append((transfer, then))
            self._more.notify()
        self._clock.take()

    def let_come(self) -> None:
        with self._more:
            self.kept = None
            self._more.notify()

    def close(self) -> None:
        with self._more:
            self._over = True
            self._more.notify()
        self._link.join(PATIENCE_S)

    def _carry(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._over or any(self._ways.values()))
                if self._over:
                    return
                first = {way: queue[0] for way, queue in self._ways.items() if queue}
            self._clock.skip(STEP_S)
            for way, (transfer, then) in first.items():
                if self.kept is not None and len(self.told) >= self.kept:
                    continue
                self.told.append(transfer)
                with self._more:
                    self._ways[way].popleft()
                here = Signal()
                super().when_here(transfer, here.set, computed=False)
                assert here.wait(PATIENCE_S)
                then()


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    clock.watch_steps(monkeypatch)
    clock.watch(monkeypatch, Batcher, lambda batcher: batcher.worker)  # type: ignore[attr-defined]
    clock.watch(monkeypatch, Coordinator, lambda _: "coordinator")
    monkeypatch.setattr(engine_loop, "TICK_S", 0.005)
    return clock


class Slow(Running):
    """An engine whose links are slow."""

    def __init__(self, cluster: Cluster, clock: Clock) -> None:
        super().__init__(
            cluster,
            by=lambda shardings: SlowLinks(shardings, clock),
            clock=clock,
            transfer_timeout_s=TIMEOUT_S,
            move_timeout_s=2 * TIMEOUT_S,
            move_pages=2,
        )

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.links.close)  # it may wait for a tick
        await super().__aexit__()

    @property
    def links(self) -> SlowLinks:
        connector = self.cluster.connector
        assert isinstance(connector, SlowLinks)
        return connector

    def reasons(self, kind: str) -> list[str]:
        return [d.reason for d in self.diary.decisions if d.kind == kind]

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                await asyncio.sleep(0.001)


WANTED = sampling(30, temperature=0.9, seed=3)
PROMPTS = [prompt(64, seed=i) for i in range(3)]
"""Four chunks each; a worker has just the pages of two turns."""


def test_hand_offs_and_moves_over_slow_links_are_done_once_however_long_they_take(split, clock):
    expected = [oracle(tokens, WANTED) for tokens in PROMPTS]

    async def main() -> None:
        running = Slow(split, clock)
        async with running as engine:
            turns = [turn(f"t{i}", tokens, WANTED) for i, tokens in enumerate(PROMPTS)]
            replies = [asyncio.create_task(read(engine, one)) for one in turns]
            await running.until(lambda: running.diary.tokens.get(turns[0].id, 0) > 1)
            moved = turns[0].id
            places = [d for d in running.diary.decisions if d.kind == "place" and d.turn == moved]
            engine._take(MoveWanted(moved, D1 if places[0].choice == D0 else D0, "test"))
            for reply, tokens in zip(replies, expected, strict=True):
                got, end = await reply
                assert got == tokens
                assert isinstance(end.outcome, Completed)
            await until_idle(engine)
        assert running.reasons("retry") == running.reasons("move_failed") == []
        assert running.reasons("moved") == ["test"]
        assert len(running.links.told) > 12
        assert clock.skipped_s > 5 * TIMEOUT_S
        assert len(running.links) == 0

    asyncio.run(main())


@pytest.mark.parametrize("come", [0, 1, 3])
def test_a_hand_off_whose_pages_stop_coming_begins_anew_and_what_comes_late_is_let_go(
    split, clock, come: int
):
    expected = oracle(PROMPTS[0], WANTED)

    async def main() -> None:
        running = Slow(split, clock)
        async with running as engine:
            running.links.kept = come
            reply = asyncio.create_task(read(engine, turn("a", PROMPTS[0], WANTED)))
            await running.until(lambda: bool(running.reasons("retry")))
            assert len(running.links.told) == come
            running.links.let_come()
            tokens, end = await reply
            assert tokens == expected
            assert isinstance(end.outcome, Completed)
            await until_idle(engine)
            await running.until(lambda: len(running.links) == 0)
        assert set(running.reasons("retry")) == {"transfer_failed"}

    asyncio.run(main())
