"""As many targets are lost on one side as on the other, and within bounds; what counts as lost."""

from dataclasses import replace
from math import nextafter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.holdings import Holdings
from serving.core.pace import LEAST, MOST, RATE, Pace
from serving.core.worker_task import WorkerTask
from serving.messages import PagesReady, TransferId
from serving.request import Slo
from tests.support.accounts import computed, holdings, queued
from tests.support.fake_costs import LinearCosts
from tests.support.one_worker import D0, P0, Worker, decode, prefill, task
from tests.support.rules import batcher_rules

COSTS = LinearCosts(base_s=1.0)
STEP_S = 0.00111  # of a short row alone: 1 ms, 0.1 ms a row and 0.01 ms a token


def test_a_lost_target_changes_it_by_little_and_one_of_the_other_kind_takes_that_back():
    pace = Pace(COSTS, keeps=True)
    assert pace.share == 1.0
    pace.tighten()
    assert pace.share == pytest.approx(1 - RATE)
    pace.loosen()
    assert pace.share == pytest.approx(1.0)
    pace.loosen()
    assert pace.share > 1.0


@given(st.lists(st.booleans(), max_size=2000))
def test_the_order_of_losses_does_not_matter_between_the_bounds(slow: list[bool]):
    pace = Pace(COSTS, keeps=True)
    for lost in slow:
        (pace.tighten if lost else pace.loosen)()
        assert LEAST <= pace.share <= MOST
    if 0 < len(slow) < 200:  # too few to reach a bound
        tightened = 2 * sum(slow) - len(slow)
        assert pace.share == pytest.approx((1 - RATE) ** tightened)


@pytest.mark.parametrize("knee", [0.9, 1.1])
def test_it_settles_where_as_many_are_lost_on_either_side(knee: float):
    """Replies are too slow above some share, first tokens late below: it stays around there."""
    pace = Pace(COSTS, keeps=True)
    seen = [pace.share]
    for _ in range(1000):
        (pace.tighten if pace.share > knee else pace.loosen)()
        seen.append(pace.share)
    assert seen[-1] == pytest.approx(knee, abs=2 * RATE)
    assert all(abs(share - knee) < 2 * RATE for share in seen[300:])


def test_losses_that_no_pace_mends_end_at_a_bound():
    pace = Pace(COSTS, keeps=True)
    for _ in range(1000):
        pace.tighten()
    assert pace.share == LEAST
    for _ in range(2000):
        pace.loosen()
    assert pace.share == MOST


# ---- first tokens --------------------------------------------------------------------------------


def waiting(kept: Holdings, name: str, slo: Slo) -> WorkerTask:
    entry = queued(kept, name, range(ord(name), ord(name) + 4))
    entry.task = replace(entry.task, slo=slo)
    return entry


@pytest.mark.parametrize(
    ("ttft_s", "loosened"),
    [(9.0, False), (5.0 + 0.0013, True), (5.0 + 0.0015, False), (1.0, True), (None, False)],
)
def test_a_turn_kept_out_that_will_be_late_for_it_loosens_the_pace(ttft_s, loosened: bool):
    """It is let in at 5 s, and its prompt of four tokens takes 1.4 ms."""
    kept = holdings(batcher_rules(keep_pace=True))
    first = waiting(kept, "a", Slo(None, 0.00127))
    assert kept.admit_next(0.0) is first
    second = waiting(kept, "b", Slo(ttft_s, 0.00127))
    assert kept.admit_next(0.0) is None
    kept.retire(computed(kept, first))
    kept.take_offloaded()
    assert kept.pace.share == 1.0
    assert kept.admit_next(5.0) is second
    assert (kept.pace.share > 1.0) == loosened


def test_a_turn_that_is_late_for_other_reasons_does_not():
    kept = holdings(batcher_rules(keep_pace=True))
    late = waiting(kept, "a", Slo(1.0, 0.00127))
    assert kept.admit_next(5.0) is late
    assert kept.pace.share == 1.0


def test_a_turn_that_waited_for_pages_does_not():
    kept = holdings(batcher_rules(keep_pace=True))
    first = waiting(kept, "a", Slo(None, 9.0))
    assert kept.admit_next(0.0) is first
    large = queued(kept, "l", range(50, 88))  # of ten pages, as many as there are
    large.task = replace(large.task, slo=Slo(1.0, 9.0))
    assert kept.admit_next(0.0) is None
    kept.retire(computed(kept, first))
    kept.take_offloaded()
    assert kept.admit_next(5.0) is large
    assert kept.pace.share == 1.0


def test_a_tighter_pace_keeps_out_whom_another_lets_in():
    """A step of both takes 1.28 ms."""
    for tightened, waits in ((0, False), (10, True)):
        kept = holdings(batcher_rules(keep_pace=True))
        for _ in range(tightened):
            kept.pace.tighten()
        waiting(kept, "a", Slo(None, 0.00129))
        assert kept.admit_next(0.0) is not None
        waiting(kept, "b", Slo(None, 0.00129))
        assert (kept.admit_next(0.0) is None) == waits


# ---- time per token ------------------------------------------------------------------------------


def served(worker: Worker, tpot_s: float | None, step_s: float, *, tokens: int = 3) -> float:
    """Serve a reply in steps of so many seconds; returns the pace afterwards."""
    asked = task("a", range(4), max_tokens=tokens)
    worker.on(prefill(replace(asked, slo=Slo(None, tpot_s))))
    for _ in range(tokens):
        plan = worker.launch()
        worker.now += step_s
        worker.complete(plan, 7)
    assert worker.is_empty()
    return worker.batcher.report().pace


@pytest.mark.parametrize(
    ("tpot_s", "pace"),
    [
        (0.25, 1.0),  # on the spot
        (nextafter(0.25, 0.0), 1 - RATE),
        (0.3, 1.0),
        (None, 1.0),
        (STEP_S - 1e-6, 1.0),  # nobody could be so fast
        (STEP_S + 1e-6, 1 - RATE),
    ],
)
def test_a_reply_that_took_longer_for_a_token_than_it_may_tightens_the_pace(tpot_s, pace: float):
    assert served(Worker(), tpot_s, 0.25) == pytest.approx(pace, abs=RATE / 10)


def test_a_reply_of_one_token_has_no_time_per_token():
    assert served(Worker(), 0.1, 0.25, tokens=1) == 1.0


@pytest.mark.parametrize(("step_s", "pace"), [(0.25, 1.0), (0.5, 1 - RATE)])
def test_what_a_row_did_elsewhere_does_not_count(step_s: float, pace: float):
    """Its prompt was ready late, and its first token came from there."""
    worker = Worker(D0)
    asked = replace(task("a", range(4), max_tokens=3), slo=Slo(0.1, 0.3))
    worker.on(decode(asked, P0))
    worker.step()
    worker.now = 100.0
    worker.on(PagesReady(asked.id, TransferId(P0, 1), 0, 1, 4, (5,), None, None))
    for _ in range(2):
        plan = worker.launch()
        worker.now += step_s
        worker.complete(plan, 7)
    assert worker.batcher.report().pace == pytest.approx(pace, abs=RATE / 10)


@pytest.mark.parametrize(
    ("tpot_s", "chunk"), [(0.0013, 1), (STEP_S - 1e-6, 8), (None, 8), (9.0, 8)]
)
def test_prompts_give_way_to_rows_that_can_be_in_time(tpot_s, chunk: int):
    """Beside the row a step takes 1.15 ms, and 0.1 ms for each token of a prompt."""
    worker = Worker()
    worker.on(prefill(replace(task("a", range(4), max_tokens=9), slo=Slo(None, tpot_s))))
    worker.complete(worker.launch(), 7)
    worker.on(prefill(task("b", range(50, 58))))
    (given,) = worker.launch().chunks
    assert len(given.tokens) == chunk
