"""Pages that come when they like: threads, real executors, rows that move, clients that leave.

Whatever overtakes them, each reply is what the oracle says, and nothing is left over.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import cache
from itertools import count
from random import Random
from threading import Thread

import pytest
from jax.sharding import NamedSharding

from serving.core.plan import StepPlan
from serving.engine import loop as engine_loop
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.executor import JaxExecutor, Pending
from serving.engine.loop import EngineLoop
from serving.messages import Completed, Dropped, End, Failed, MoveWanted, TransferId, WorkerId
from serving.request import SamplingParams, TurnId
from tests.serving.engine.test_loop import Running, until_idle
from tests.support.local_fleet import sampling, turn
from tests.support.rules import coordinator_rules
from tests.support.tiny_cluster import oracle, prompt

MOST_S = 0.05
"""How late pages may be: some steps of a tiny model."""
CLIENTS = 8
TURNS = 2


@cache
def script(client: int) -> list[tuple[list[int], SamplingParams, tuple[int, ...]]]:
    """What a client asks in each of its turns, and is to be answered.

    All are of the same lengths: the oracle compiles for each.
    """
    history, asked = prompt(10, seed=client), []
    wanted = sampling(16, temperature=0.9, seed=client)
    for number in range(TURNS):
        reply = oracle(history, wanted)
        asked.append((history, wanted, reply))
        history = [*history, *reply, *prompt(3, seed=number)]
    return asked


class Late(InProcessConnector):
    """Tells that a payload is here when it is and some time has passed, in the order of sending."""

    def __init__(self, shardings: Mapping[WorkerId, NamedSharding]) -> None:
        super().__init__(shardings)
        self._random = Random(0)
        self._last: dict[WorkerId, Thread] = {}

    def when_here(self, transfer: TransferId, then, *, computed: bool) -> None:
        before = self._last.get(transfer.sender)
        late_s = self._random.choice((0.0, self._random.uniform(0.0, MOST_S)))

        def come() -> None:
            if before is not None:
                before.join()
            time.sleep(late_s)
            super(Late, self).when_here(transfer, then, computed=computed)

        self._last[transfer.sender] = Thread(target=come)
        self._last[transfer.sender].start()


class People:
    """Clients who talk for some turns, some of them leaving in the middle of one."""

    def __init__(self, engine: EngineLoop) -> None:
        self.engine = engine
        self.random = Random(0)
        self.live: set[TurnId] = set()
        self.rounds = 0

    async def talk(self, enough: Callable[[], bool]) -> None:
        """All of them talk, and again until enough has happened meanwhile."""
        meddling = asyncio.create_task(self._meddle())
        while not self.rounds or not enough():
            await asyncio.gather(*(self._converse(i) for i in range(CLIENTS)))
            self.rounds += 1
        meddling.cancel()

    async def _converse(self, client: int) -> None:
        for number, (history, wanted, expected) in enumerate(script(client)):
            tokens, end = await self._ask(f"{self.rounds}.{client}.{number}", history, wanted)
            assert tokens == expected[: len(tokens)]
            assert isinstance(end.outcome, Completed | Dropped | Failed)
            assert len(tokens) == len(expected) or not isinstance(end.outcome, Completed)

    async def _ask(self, name: str, history: list[int], wanted) -> tuple[tuple[int, ...], End]:
        tokens: list[int] = []
        leaves_after = self.random.choice((1, 4, 100, 100))
        reply = self.engine.submit(turn(name, history, wanted))
        self.live.add(reply.turn)
        async for item in reply:
            if isinstance(item, End):
                self.live.remove(reply.turn)
                return tuple(tokens), item
            tokens += [sample.token for sample in item.samples]
            if len(tokens) >= leaves_after:
                self.engine.cancel(reply.turn, "left")
        raise AssertionError("a reply had no end")

    async def _meddle(self) -> None:
        """Rows are to move, whether or not they can, and a worker rests for a while."""
        while True:
            await asyncio.sleep(0.004)
            workers = [status.worker for status in self.engine.workers()]
            if self.live:
                moved, to = self.random.choice(sorted(self.live)), self.random.choice(workers)
                self.engine._take(MoveWanted(moved, to, "test"))
            if self.random.random() < 0.05:
                resting = self.random.choice(workers)
                role = {status.worker: status.role for status in self.engine.workers()}[resting]
                self.engine.set_role(resting, None)
                await asyncio.sleep(0.02)
                self.engine.set_role(resting, role)


def breaks_at(executor: JaxExecutor, number: int, patch: pytest.MonkeyPatch) -> None:
    """The launch of that number fails, and its worker is lost."""
    launch, launched = executor.launch, count(1)

    def launch_or_break(plan: StepPlan) -> Pending:
        if next(launched) == number:
            raise RuntimeError("the device is gone")
        return launch(plan)

    patch.setattr(executor, "launch", launch_or_break)


@pytest.mark.parametrize("way", ["in time", "too late", "with a worker lost"])
@pytest.mark.parametrize("cluster", ["split", "peers"])
def test_pages_that_come_late_change_no_reply_and_leave_nothing(
    request, cluster: str, way: str, monkeypatch
):
    executors = request.getfixturevalue(cluster)
    enough = {"in time": {"moved", "drain"}, "too late": {"retry"}}.get(way, {"worker_lost"})
    if way == "with a worker lost":
        *_, (_, executor) = executors.executors.values()
        breaks_at(executor, 60, monkeypatch)
    monkeypatch.setattr(engine_loop, "TICK_S", 0.01)
    for client in range(CLIENTS):
        script(client)  # it takes longer than the replies

    async def main() -> None:
        peers = cluster == "peers"
        running = Running(
            executors,
            by=Late,
            rules=coordinator_rules(route="to-a-peer" if peers else "pd-delta", peers=peers),
            transfer_timeout_s=MOST_S / 2 if way == "too late" else 30.0,
        )

        def happened() -> set[str]:
            return {decision.kind for decision in running.diary.decisions}

        async with running as engine:
            await People(engine).talk(lambda: enough <= happened())
            await until_idle(engine)
            async with asyncio.timeout(30):
                while len(executors.connector):  # what nobody waits for comes all the same
                    await asyncio.sleep(0.005)
        assert ("worker_lost" in happened()) == ("worker_lost" in enough)
        assert way == "too late" or "failed" not in happened()

    asyncio.run(main())
