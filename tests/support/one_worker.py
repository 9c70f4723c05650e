"""How does a test talk to one worker? Messages in by hand, results made up, accounts checked."""

from dataclasses import replace
from typing import Any, TypeVar

from serving.core.batcher import Batcher
from serving.core.plan import (
    Launch,
    Output,
    StepPlan,
    StepResult,
)
from serving.messages import (
    Decision,
    Decode,
    PagesChanged,
    Prefill,
    Role,
    StepsTimed,
    Task,
    TaskId,
    ToWorker,
    WorkerId,
    WorkerMessage,
)
from serving.request import SessionId, TurnId
from tests.support.rules import batcher_rules
from tests.support.shape import Shape
from tests.support.sharp_lengths import sharp
from tests.support.turns import make_turn

T = TypeVar("T")
P0, D0 = WorkerId("p0"), WorkerId("d0")
LIMITS = Shape(chunk_tokens=8).limits(Role.BOTH)
RESERVED = Shape().reserve_tokens


class Worker:
    """A batcher whose accounts are checked after every call, and the time."""

    def __init__(self, name: WorkerId = P0, **limits: int) -> None:
        self.batcher = Batcher(name, replace(LIMITS, **limits), batcher_rules())
        self.now = 0.0
        self.decisions: list[Decision] = []

    def on(self, message: WorkerMessage) -> list[Output]:
        return self._checked(self.batcher.on(message, self.now))

    def step(self) -> list[Output]:
        return self._checked(self.batcher.step(self.now))

    def launch(self) -> StepPlan:
        return launched(self.step())

    def complete(
        self,
        plan: StepPlan,
        *ids: int,
        broken_rows: tuple[int, ...] = (),
        broken_chunks: tuple[int, ...] = (),
        stuck_rows: tuple[int, ...] = (),
        stuck_chunks: tuple[int, ...] = (),
    ) -> list[Output]:
        """Complete a step, of which these rows and chunks have failed."""
        result = StepResult(
            list(ids[: plan.num_decode]),
            list(ids[plan.num_decode :]),
            None,
            None,
            {},
            broken_rows=broken_rows,
            broken_chunks=broken_chunks,
            stuck_rows=stuck_rows,
            stuck_chunks=stuck_chunks,
        )
        return self._checked(self.batcher.complete(plan, result, self.now))

    @property
    def num_held(self) -> int:
        return self.batcher.holdings.pool.num_held

    def is_empty(self) -> bool:
        holdings = self.batcher.holdings
        free = holdings.rows.num_free == self.batcher.limits.max_rows
        return not holdings.tasks and self.num_held == 0 and free

    def _checked(self, outputs: list[Output]) -> list[Output]:
        """Check the accounts; what only informs the coordinator is left out."""
        self.batcher.check()
        self.decisions += [o for o in outputs if isinstance(o, Decision)]
        return [o for o in outputs if not isinstance(o, PagesChanged | StepsTimed | Decision)]


def task(
    name: str,
    tokens: list[int] | range,
    *,
    reply: tuple[int, ...] = (),
    forecast: int = RESERVED,
    **turn: Any,
) -> Task:
    made = make_turn(name, tokens, **turn)
    return Task(
        id=TaskId(TurnId(name), 0),
        turn=made,
        session=SessionId(f"session of {name}"),
        tokens=(*made.tokens, *reply),
        replied=len(reply),
        arrived=0.0,
        slo=made.slo,
        remaining=sharp(forecast),
    )


def prefill(task: Task, owner: WorkerId | None = None) -> Prefill:
    return Prefill(task, owner, pull=True, reuse=True)


def decode(task: Task, source: WorkerId, *, move: int | None = None) -> Decode:
    return Decode(task, source, move=move, reuse=True)


def launched(outputs: list[Output]) -> StepPlan:
    plans = [output.plan for output in outputs if isinstance(output, Launch)]
    assert len(plans) == 1
    return plans[0]


def kinds(outputs: list[Output]) -> list[str]:
    return [type(o.message if isinstance(o, ToWorker) else o).__name__ for o in outputs]


def at(outputs: list[Output], index: int, kind: type[T]) -> T:
    """The output at `index`, or the message in it, which is of this kind."""
    output = outputs[index]
    found = output.message if isinstance(output, ToWorker) else output
    assert isinstance(found, kind)
    return found
