"""A worker that one row leaves: what it is told, and what of that is about pages."""

from serving.core.plan import Launch, StepPlan
from serving.messages import Granted, MoveOut, PagesReady, Task, ToWorker
from tests.support.one_worker import D0, P0, Worker, prefill, task

MOVE = 3
ROW = 10  # prompt tokens: two full pages, and a half


class Source(Worker):
    """A worker at which one row decodes; its steps are completed as soon as they are launched."""

    def __init__(self, *, max_tokens: int = 50, move_pages: int = 1) -> None:
        super().__init__(D0, move_pages=move_pages)
        self.work: Task = task("a", range(ROW), max_tokens=max_tokens, forecast=0)
        self.announced: list[PagesReady] = []
        self.on(prefill(self.work))
        while not self.num_decoding:
            self.turn()

    @property
    def num_decoding(self) -> int:
        return len(self.batcher.holdings.rows.active())

    def turn(self) -> list:
        """One step: what is planned beside it, then what its results bring."""
        outputs = self.step()
        plans = [output.plan for output in outputs if isinstance(output, Launch)]
        return outputs + (self.end(plans[0]) if plans else [])

    def end(self, plan: StepPlan) -> list:
        return self.complete(plan, *([33] * (plan.num_decode + len(plan.chunks))))

    def ask(self, move: int = MOVE) -> list:
        return self.on(MoveOut(self.work.id, P0, move))

    def grant(self, held_len: int = 0, move: int = MOVE) -> list:
        return self.on(Granted(self.work.id, P0, held_len, move))


def ready(outputs: list) -> list[PagesReady]:
    messages = [o.message for o in outputs if isinstance(o, ToWorker)]
    return [message for message in messages if isinstance(message, PagesReady)]


def gone() -> Source:
    """Its row has left, and nothing is confirmed."""
    source = Source()
    source.ask()
    source.grant(held_len=8)
    assert ready(source.turn())[-1].reply is not None
    return source
