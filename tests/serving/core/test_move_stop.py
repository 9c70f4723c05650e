"""How long does a row stand still while it moves? In steps of its source, whatever its length."""

import pytest

from serving.messages import PagesReady, ToWorker, WorkerId
from serving.request import TurnId
from tests.support.fake_fleet import FakeFleet
from tests.support.shape import Shape
from tests.support.turns import make_turn

A, B = TurnId("a"), TurnId("b")
D0, D1 = WorkerId("d0"), WorkerId("d1")


class Watch:
    """Counts the steps of a source from a row's stop to its announcement."""

    def __init__(self, fleet: FakeFleet, source: WorkerId) -> None:
        self.launched = self.completed = 0
        self.last_pages = 0
        self._batcher = fleet.workers[source].batcher
        self._step, self._complete = self._batcher.step, self._batcher.complete
        self._batcher.step = self.step  # type: ignore[method-assign]
        self._batcher.complete = self.complete  # type: ignore[method-assign]
        self._stopped = self._gone = False

    def step(self, now):
        planned = self._step(now)
        if self._stopped and not self._gone:
            self.launched += any(type(output).__name__ == "Launch" for output in planned)
        holdings = self._batcher.holdings
        slots = [s for s, t in holdings.by_slot.items() if t.task.turn.id == A]
        self._stopped |= not all(holdings.rows.goes_on(slot) for slot in slots)
        return self._look(planned)

    def complete(self, plan, result, now):
        self.completed += self._stopped and not self._gone
        return self._look(self._complete(plan, result, now))

    def _look(self, outputs):
        for output in outputs:
            message = output.message if isinstance(output, ToWorker) else None
            if isinstance(message, PagesReady) and message.reply is not None:
                self._gone, self.last_pages = True, message.num_pages
        return outputs


@pytest.mark.parametrize(
    ("length", "depth"), [(64, 1), (64, 2), (64, 3), (512, 1), (512, 2), (512, 3), (4096, 2)]
)
def test_the_stop_lasts_for_the_steps_in_flight_whatever_the_length(length: int, depth: int):
    shape = Shape(
        decode_workers=2,
        page_size=16,
        num_pages=300,
        max_model_len=4608,
        chunk_tokens=512,
        depth=depth,
        move_pages=32,
        reserve_tokens=100,
    )
    fleet = FakeFleet(shape, seed=length)
    fleet.run()
    fleet.submit(make_turn("b", [1], max_tokens=200, session="s"))  # keeps the source in steps
    fleet.submit(make_turn("a", range(length), max_tokens=100, session="s"))
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 5)
    (source,) = {d.choice for d in fleet.decisions if d.kind == "place"}
    watch = Watch(fleet, WorkerId(source))
    fleet.move(A, D1 if source == D0 else D0)
    fleet.run_until(lambda: any(d.kind == "moved" for d in fleet.decisions))
    assert 1 <= watch.completed <= depth
    assert watch.launched <= depth
    assert watch.last_pages <= 2
    assert len(fleet.replies[B].samples) < 200, "the source stood idle: the test shows nothing"
    fleet.run()
    fleet.check_empty()
