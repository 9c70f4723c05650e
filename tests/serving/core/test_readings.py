"""What a batcher does with the readings of a length head, message by message and in a fleet."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from predictor.edges import EDGES
from predictor.reading import PLAIN, Reader
from predictor.smoothing import Smoothing
from serving.core.batcher import Batcher
from serving.core.foresight import TILT_RATE
from serving.core.plan import Launch, StepPlan, StepResult
from serving.forecast.forecast import Forecast
from serving.messages import (
    Granted,
    MoveOut,
    PagesReady,
    PrefillDone,
    Role,
    Tokens,
    ToWorker,
    TransferId,
    WorkerId,
)
from serving.request import TurnId
from tests.support.fake_fleet import FakeFleet
from tests.support.fake_model import GRAMMAR, NEVER
from tests.support.one_worker import D0, LIMITS, P0, Worker, at, decode, prefill, task
from tests.support.rules import batcher_rules
from tests.support.shape import Shape
from tests.support.turns import make_turn

E = 25
GRID = np.array(EDGES[:E])
BAYES = replace(PLAIN, smoothing=Smoothing(1.0, 1.0))
VAGUE = np.linspace(1, 0, E)


def sharp(remaining: int) -> np.ndarray:
    return (remaining > GRID).astype(float)


class Read(Worker):
    """A worker with a head: `complete_read` gives every row and chunk of a step one reading."""

    def __init__(
        self, name: WorkerId = P0, *, reader: Reader | None = PLAIN, every: int = 1, **limits: int
    ) -> None:
        super().__init__(name, **limits)
        rules = replace(batcher_rules(), reader=reader, read_every=every)
        self.batcher = Batcher(name, replace(LIMITS, **limits), rules)

    def complete_read(self, plan: StepPlan, reading: np.ndarray, token: int = 5) -> list:
        count, chunks = plan.num_decode, len(plan.chunks)
        rows = np.tile(reading, (count, 1)).astype(np.float32)
        samples = any(chunk.sample for chunk in plan.chunks)
        result = StepResult(
            decode_ids=[token] * count,
            chunk_ids=[token] * chunks,
            decode_logprobs=None,
            chunk_logprobs=None,
            prompt_logprobs={},
            decode_readings=rows if plan.reads else None,
            chunk_readings=np.tile(reading, (chunks, 1)).astype(np.float32) if samples else None,
        )
        return self._checked(self.batcher.complete(plan, result, self.now))

    def turn(self, reading: np.ndarray) -> list:
        """One step, and its results."""
        outputs = self.step()
        plans = [output.plan for output in outputs if isinstance(output, Launch)]
        return outputs + (self.complete_read(plans[0], reading) if plans else [])

    @property
    def reserved(self) -> int:
        """Pages held or promised."""
        return self.num_held + self.batcher.report().pages_promised


def forecasts(outputs: list) -> list[Forecast]:
    tokens = [output for output in outputs if isinstance(output, Tokens)]
    return [forecast for one in tokens for _, forecast in one.forecasts]


def ready(outputs: list) -> list[PagesReady]:
    messages = [o.message for o in outputs if isinstance(o, ToWorker)]
    return [message for message in messages if isinstance(message, PagesReady)]


# ---- one worker ---------------------------------------------------------------------------------


def test_the_first_forecast_comes_with_the_end_of_the_prompt():
    worker = Read()
    worker.on(prefill(task("a", range(4), max_tokens=50)))
    done = at(worker.complete_read(worker.launch(), sharp(6)), 0, PrefillDone)
    assert done.forecast is not None
    assert done.forecast.generated == 0
    assert done.forecast.curve.still_running(5) == 1
    assert done.forecast.curve.still_running(6) == 0


def test_a_chunk_before_the_end_of_the_prompt_says_nothing():
    worker = Read(max_chunk_tokens=4)
    work = task("a", range(6))
    worker.on(prefill(work))
    worker.complete_read(worker.launch(), sharp(6))
    assert worker.batcher.holdings.tasks[work.id].forecast is None


def test_rows_are_read_every_so_many_of_their_steps():
    worker = Read(every=3)
    worker.on(prefill(task("a", range(4), max_tokens=50)))
    steps = [forecasts(worker.turn(sharp(20))) for _ in range(8)]
    # The first step is the prompt's; tokens 1 and 2 are sampled unread.
    read = [[forecast.generated for forecast in step] for step in steps]
    assert read == [[], [], [], [3], [], [], [6], []]


@pytest.mark.parametrize("every", [2, 3])
def test_rows_that_ride_in_every_second_step_are_read_as_well(every: int):
    """Whatever the parity: a reading is put off by one step for those who cannot ride in it."""
    worker = Read(every=every)
    worker.on(prefill(task("free", range(4), max_tokens=60)))
    worker.complete_read(worker.launch(), sharp(30))
    how: dict[str, Any] = {"grammar": GRAMMAR, "stop_ids": (NEVER,), "max_tokens": 60}
    worker.on(prefill(task("a", range(20, 24), **how)))
    plans, read = [worker.launch()], {"free": 0, "a": 0}
    for _ in range(40):
        plans.append(worker.launch())
        plan = plans.pop(0)
        for task_id in plan.decode_tasks if plan.reads else ():
            read[str(task_id.turn)] += 1
        worker.complete_read(plan, sharp(30))
    assert read["free"] > 8
    assert read["a"] > 4


def test_a_step_ahead_of_its_results_is_read_at_its_own_place():
    worker = Read()
    worker.on(prefill(task("a", range(4), max_tokens=50)))
    plans = [worker.launch() for _ in range(3)]
    worker.complete_read(plans[0], sharp(9))
    read = [forecasts(worker.complete_read(plan, sharp(9)))[0] for plan in plans[1:]]
    assert [forecast.generated for forecast in read] == [1, 2]


def test_a_prompt_alone_is_no_step_of_rows():
    worker = Read(every=2, max_chunk_tokens=4)
    worker.on(prefill(task("a", range(16), max_tokens=50)))
    plans = [worker.launch() for _ in range(6)]
    assert [plan.reads for plan in plans] == [False] * 5 + [True]


def test_all_rows_of_a_step_are_read_with_their_own_places():
    worker = Read()
    first, second = task("a", range(4), max_tokens=50), task("b", range(4, 7), max_tokens=50)
    worker.on(prefill(first))
    worker.turn(sharp(9))
    worker.turn(sharp(9))
    worker.on(prefill(second))
    worker.turn(sharp(9))
    tokens = next(o for o in worker.turn(sharp(9)) if isinstance(o, Tokens))
    places = {task: forecast.generated for task, forecast in tokens.forecasts}
    assert places == {first.id: 3, second.id: 1}


@pytest.mark.parametrize("reader", [None, PLAIN])
def test_only_who_has_a_head_reads(reader: Reader | None):
    worker = Read(reader=reader)
    worker.on(prefill(task("a", range(4), max_tokens=50)))
    done = at(worker.complete_read(worker.launch(), sharp(6)), 0, PrefillDone)
    plan = worker.launch()
    told = forecasts(worker.complete_read(plan, sharp(6)))
    assert plan.reads == (done.forecast is not None) == bool(told) == (reader is not None)


def test_a_broken_reading_is_not_told_and_counted_in_the_report():
    worker = Read()
    worker.on(prefill(task("a", range(4), max_tokens=50)))
    worker.turn(sharp(20))
    outputs = worker.turn(np.full(E, np.nan))
    assert forecasts(outputs) == []
    assert worker.batcher.report().unreadable == 1
    assert [f.generated for f in forecasts(worker.turn(sharp(20)))] == [2]


def test_what_is_reserved_follows_the_forecast_down_and_up():
    worker = Read()
    work = task("a", range(4), max_tokens=50, forecast=40)
    worker.on(prefill(work))
    plan = worker.launch()
    assert worker.reserved == 11  # 4 + 40 tokens in pages of 4
    worker.complete_read(plan, sharp(6))
    assert worker.reserved == 3  # the first of 6 has come: 4 + 6
    worker.turn(sharp(32))
    assert worker.reserved == 10  # the first of 32 has come: 5 + 32
    worker.turn(sharp(2))
    assert worker.reserved == 2  # 6 + 2


def test_nothing_is_reserved_beyond_the_limit_of_the_reply():
    worker = Read()
    worker.on(prefill(task("a", range(4), max_tokens=12, forecast=40)))
    worker.turn(sharp(100))
    assert worker.reserved == 4


def test_a_row_that_ends_above_its_quantiles_raises_the_reported_tilt():
    worker = Read()
    worker.on(prefill(task("a", range(4), max_tokens=5, stop_ids=(63,))))
    worker.turn(sharp(2))
    for _ in range(4):
        worker.turn(sharp(1))
    assert worker.is_empty()
    assert worker.batcher.report().tilt > 0


# ---- from worker to worker ----------------------------------------------------------------------


def handed_off() -> PagesReady:
    """What the worker that prefilled announces; it read that 6 tokens are to come."""
    source = Read(P0)
    work = task("a", range(4), max_tokens=50)
    source.on(prefill(work, D0))
    source.on(Granted(work.id, D0, 0, None))
    (announced,) = ready(source.turn(sharp(6)))
    return announced


def test_a_hand_off_brings_the_forecast_along():
    announced = handed_off()
    assert announced.forecast is not None
    owner = Read(D0, reader=BAYES)
    work = task("a", range(4), max_tokens=50, forecast=40)
    owner.on(decode(work, P0))
    owner.step()
    owner.on(announced)
    assert owner.reserved == 3  # 4 + 6, no more 40
    (forecast,) = forecasts(owner.turn(VAGUE))
    # Token 5 is the first of the six: five are still to come, whatever a vague reading says.
    assert forecast.generated == 1
    assert forecast.curve.still_running(4) > 0.99
    assert forecast.curve.still_running(5) < 0.01


def test_a_hand_off_without_a_head_brings_none():
    owner = Read(D0, reader=None)
    work = task("a", range(4), max_tokens=50)
    owner.on(decode(work, P0))
    owner.step()
    owner.on(PagesReady(work.id, TransferId(P0, 1), 0, 1, 4, (5,), None, None))
    assert owner.batcher.holdings.tasks[work.id].forecast is None


def test_a_move_brings_the_last_forecast_along():
    source = Read(D0, move_pages=9)
    work = task("a", range(10), max_tokens=50)
    source.on(prefill(work))
    for left in (20, 20, 20, 9):
        last = source.turn(sharp(left))
    source.on(MoveOut(work.id, P0, 3))
    source.on(Granted(work.id, P0, 0, 3))
    told = forecasts(last)
    announced: list[PagesReady] = []
    while not any(message.reply for message in announced):
        outputs = source.turn(sharp(6))
        told += forecasts(outputs)
        announced += ready(outputs)
    final = announced[-1]
    assert final.forecast == told[-1]
    assert all(message.forecast is None for message in announced[:-1])


def ends_here(owner: Read, tokens: int) -> float:
    """Let the row of a worker, which reads nothing itself, sample these; what that teaches it."""
    for _ in range(tokens):
        owner.turn(VAGUE)
    assert owner.is_empty()
    return owner.batcher.report().tilt


def test_what_was_stated_of_a_row_is_learned_where_it_ends():
    source, owner = Read(D0, move_pages=9), Read(P0, every=100)
    work = task("a", range(4), max_tokens=20, stop_ids=(63,))
    source.on(prefill(work))
    source.turn(sharp(1))
    source.on(MoveOut(work.id, P0, 3))
    owner.on(decode(work, D0, move=3))
    source.on(Granted(work.id, P0, 0, 3))
    announced = [message for _ in range(5) for message in ready(source.turn(sharp(1)))]
    for message in announced:
        owner.on(message)
    reply = announced[-1].reply
    assert reply is not None
    # All of the source's quantiles were too low: one token, and certain.
    assert ends_here(owner, 20 - len(reply)) == pytest.approx(TILT_RATE)
    assert source.batcher.report().tilt == 0


def test_what_a_prefill_worker_stated_is_not_held_against_the_owner():
    owner = Read(D0, every=100)
    work = task("a", range(4), max_tokens=20, stop_ids=(63,))
    owner.on(decode(work, P0))
    owner.step()
    owner.on(handed_off())
    assert ends_here(owner, 19) == 0


# ---- a fleet ------------------------------------------------------------------------------------


def numbered(place: int) -> np.ndarray:
    """A reading that tells where it was taken: so many in a hundred go on for ever."""
    return np.array([1.0, *[place / 100] * (E - 1)])


def place_of(mean: float, left: int) -> float:
    """The place at which a reading with this mean of min(remaining, left) was taken."""
    return 100 * (mean - 0.5) / (left - 0.5)


@dataclass(frozen=True)
class Reading(Shape):
    """A deployment with a head, read every `every` steps."""

    every: int = 3

    def batcher(self, worker: WorkerId, role: Role) -> Batcher:
        rules = replace(batcher_rules(), reader=PLAIN, read_every=self.every)
        return Batcher(worker, self.limits(role), rules)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("prefill_workers", [0, 1])
def test_every_prediction_is_of_the_place_that_was_read(seed: int, prefill_workers: int):
    shape = Reading(decode_workers=2, prefill_workers=prefill_workers, depth=3, num_pages=41)
    fleet = FakeFleet(shape, seed=seed)
    for worker in fleet.workers.values():
        worker.executor.head = numbered
    fleet.run()
    turns = [make_turn(name, range(5, 9 + i), max_tokens=30) for i, name in enumerate("abc")]
    replies = [fleet.submit(turn) for turn in turns]
    fleet.run_until(lambda: len(fleet.replies[TurnId("a")].samples) > 8)
    fleet.move(TurnId("a"), WorkerId("d1"))
    fleet.move(TurnId("b"), WorkerId("d0"))
    fleet.run()
    fleet.check_empty()
    for reply in replies:
        assert reply.end is not None
        said = reply.end.predictions
        assert len(said) >= 5
        places = [one.generated for one in said]
        assert places == sorted(set(places))
        assert places[0] == 0
        for one in said:  # but for a little tilt
            left = reply.turn.sampling.max_tokens - one.generated
            assert place_of(one.mean, left) == pytest.approx(one.generated, abs=0.3)
