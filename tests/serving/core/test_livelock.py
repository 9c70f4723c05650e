"""Rows that come back and stop again do not keep the first of all from going on.

Steps are planned one ahead, and each has room for one chunk: whoever comes back takes it from the
prompt that came first, and has to stop again for want of a page before its token is read.
"""

from collections import deque
from dataclasses import replace

import pytest

from serving.core.batcher import Batcher
from serving.core.plan import Launch, Output, StepPlan, StepResult
from serving.messages import Finished, PrefillDone, Refused, Role, Task, TaskId, Tokens
from serving.policy.aside import AsideConfig
from serving.request import Slo, TurnId
from tests.support.one_worker import P0, prefill, task
from tests.support.rules import HASTY, batcher_rules
from tests.support.shape import Shape

LIMITS = Shape(page_size=4, num_pages=8, max_model_len=24, chunk_rows=1, max_rows=4)


class OneWorker:
    """A worker that runs steps, and a client whose turns go on with every token that was read."""

    def __init__(self, stand_aside: AsideConfig | None) -> None:
        rules = batcher_rules(stand_aside=stand_aside, wait_for_pages=False)
        self.batcher = Batcher(P0, LIMITS.limits(Role.BOTH), rules)
        self.live: dict[TurnId, Task] = {}
        self.launched: deque[StepPlan] = deque()
        self.steps = 0

    @property
    def now(self) -> float:
        return 1.0 + self.steps / 1000

    def ask(self, asked: Task) -> None:
        self.live[asked.id.turn] = asked
        self.take(self.batcher.on(prefill(asked), self.now))

    def take(self, outputs: list[Output]) -> None:
        self.batcher.check()
        for output in outputs:
            match output:
                case Launch(plan):
                    self.launched.append(plan)
                case PrefillDone(task=done, finish=finish):
                    self.read(done.turn)
                    if finish is not None:
                        del self.live[done.turn]
                case Tokens():
                    for read in output.tasks:
                        self.read(read.turn)
                case Finished(task=ended):
                    del self.live[ended.turn]
                case Refused(task=refused):
                    asked = self.live[refused.turn]
                    again = TaskId(asked.id.turn, asked.id.attempt + 1)
                    self.ask(replace(asked, id=again))
                case _:
                    pass

    def read(self, turn: TurnId) -> None:
        asked = self.live[turn]
        self.live[turn] = replace(asked, tokens=(*asked.tokens, 7), replied=asked.replied + 1)

    def step(self) -> None:
        for _ in range(2 - len(self.launched)):
            self.take(self.batcher.step(self.now))
        plan = self.launched.popleft()
        self.steps += 1
        result = StepResult([7] * plan.num_decode, [7] * len(plan.chunks), None, None, {})
        self.take(self.batcher.complete(plan, result, self.now))


def reply(name: str, first: int) -> Task:
    """A reply that is late, fills two pages, and is expected to end with its next token."""
    tokens = range(first, first + 4)
    made = task(name, tokens, reply=(7, 7, 7, 7), forecast=0, max_tokens=9)
    return replace(made, arrived=0.5, first_at=0.5, slo=Slo(None, 0.002))


@pytest.mark.parametrize("stand_aside", [HASTY, None])
def test_replies_that_come_back_for_a_chunk_do_not_hold_back_the_first(
    stand_aside: AsideConfig | None,
):
    worker = OneWorker(stand_aside)
    worker.ask(task("first", range(10), forecast=0, max_tokens=2))
    worker.take(worker.batcher.step(worker.now))
    for name, first in (("a", 100), ("b", 200)):
        worker.ask(reply(name, first))
    while worker.live and worker.steps < 200:
        worker.step()
    assert not worker.live
