"""Rows that merely go on: how long they do, and that several steps at once are as many single ones.

Two workers get the same messages and the same results; one is told of several ends at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor.edges import EDGES
from predictor.reading import PLAIN
from serving.core.batcher import MAX_LAUNCHED, Batcher
from serving.core.plan import Launch, StepPlan, StepResult
from serving.core.steady import SteadySteps
from serving.messages import (
    Decision,
    Granted,
    LastStep,
    MoveOut,
    PagesChanged,
    Prefill,
    StepsTimed,
    Tick,
    Tokens,
)
from tests.support.one_worker import D0, LIMITS, P0, decode, prefill, task
from tests.support.rules import batcher_rules

PAGE = 16
STEP_S = 0.01
TOKEN = 33
CURVE = np.linspace(1.0, 0.1, len(EDGES) - 1, dtype=np.float32)


class Going:
    """A worker on which rows decode, with two steps launched, as a driver has them."""

    def __init__(self, rows: int = 2, *, max_tokens: int = 60, read_every: int | None = None):
        limits = replace(LIMITS, page_size=PAGE, num_pages=9, host_pages=2)
        rules = batcher_rules()
        if read_every is not None:
            rules = replace(rules, reader=PLAIN, read_every=read_every)
        self.batcher = Batcher(D0, limits, rules)
        self.now = 0.0
        self.launched: deque[tuple[StepPlan, StepResult]] = deque()
        self.told: list[object] = []
        for row in range(rows):
            tokens = range(100 * row, 100 * row + 5)
            self.on(prefill(task(f"row {row}", tokens, max_tokens=max_tokens)))
        while self.batcher.holdings.queue or self.batcher.steady_for == 0:
            self.round()

    def on(self, message) -> None:
        self.tell(self.batcher.on(message, self.now))

    def tell(self, outputs) -> None:
        for output in outputs:
            if isinstance(output, Launch):
                self.launched.append((output.plan, self.result(output.plan)))
            elif isinstance(output, Tokens | StepsTimed | PagesChanged | Decision):
                self.told.append((self.now, output))
        self.batcher.check()

    def result(self, plan: StepPlan) -> StepResult:
        ended = [TOKEN] * len(plan.chunks)
        chunked = np.stack([CURVE] * len(plan.chunks)) if plan.chunks else None
        return self.sample(plan.num_decode, plan.reads)._replace(
            chunk_ids=ended, chunk_readings=chunked
        )

    def sample(self, rows: int, reads: bool) -> StepResult:
        read = np.stack([CURVE] * rows) if reads else None
        return StepResult([TOKEN] * rows, [], None, None, {}, read, None)

    def round(self) -> None:
        """Plan until two steps are launched, then end the older one."""
        while len(self.launched) < MAX_LAUNCHED:
            before = len(self.launched)
            self.tell(self.batcher.step(self.now))
            if len(self.launched) == before:
                break
        self.now += STEP_S
        plan, result = self.launched.popleft()
        self.tell(self.batcher.complete(plan, result, self.now))
        self.tell(self.batcher.step(self.now))

    def go_on(self, steps: int, *, timed: Sequence[int] = ()) -> None:
        """The same as so many rounds, at once, of which so many were timed one after another."""
        rows = self.launched[0][0].num_decode
        ends = []
        for _ in range(steps):
            self.now += STEP_S
            ends.append(self.now)
        results = [result for _, result in self.launched]
        told, first = [], 0
        for count in timed:
            ahead = self.batcher.time(ends[first : first + count])
            told += [(first + i, report) for i, report in ahead]
            first += count
        told += self.batcher.go_on(
            ends, results, lambda reads: [self.sample(rows, read) for read in reads]
        )
        each: list[tuple[int, object]] = []
        for i, output in told:
            if isinstance(output, SteadySteps):
                assert output.ends == ends[i : i + len(output.ends)]
                each += enumerate(output.each(), i)
            else:
                each.append((i, output))
        each.sort(key=lambda one: one[0])  # times before tokens of one end, as they were told
        self.told += [(ends[i], output) for i, output in each]
        plans = [plan for plan, _ in self.launched]
        self.launched = deque(zip(plans, results, strict=True))
        self.batcher.check()


@given(
    rows=st.integers(1, 3),
    read_every=st.sampled_from([None, 1, 5]),
    max_tokens=st.sampled_from([12, 30]),
    share=st.floats(0.0, 1.0),
    cuts=st.lists(st.floats(0.0, 1.0), max_size=3),
)
def test_several_steps_at_once_are_as_many_single_ones(rows, read_every, max_tokens, share, cuts):
    one = Going(rows, max_tokens=max_tokens, read_every=read_every)
    other = Going(rows, max_tokens=max_tokens, read_every=read_every)
    assert one.told == other.told
    steps = max(1, round(share * one.batcher.steady_for))
    for _ in range(steps):
        one.round()
    places = sorted({round(cut * steps) for cut in cuts} - {0})
    other.go_on(steps, timed=[after - before for before, after in pairwise([0, *places])])
    for _ in range(40):  # to the end of all replies
        assert one.told == other.told
        assert one.batcher.report() == other.batcher.report()
        assert one.batcher.steady_for == other.batcher.steady_for
        if not one.launched:
            break
        one.round()
        other.round()
    assert not one.launched
    assert not one.batcher.holdings.tasks


def test_rows_go_on_until_one_needs_a_page():
    # 5 tokens of prompt; the steps launched have written places 5 and 6 at least.
    one = Going(1)
    written = int(one.launched[-1][0].decode.position[0]) + 1
    assert one.batcher.steady_for == PAGE - written


def test_rows_go_on_until_one_has_a_single_token_to_come():
    one = Going(1, max_tokens=8)
    planned = int(one.launched[-1][0].decode.reply_index[0]) + 1
    assert one.batcher.steady_for == 8 - planned - 1


def test_a_result_that_ends_a_reply_is_refused():
    one = Going(1)
    results = [result._replace(decode_ids=[7]) for _, result in one.launched]
    entry = next(iter(one.batcher.holdings.tasks.values()))
    sampling = replace(entry.task.turn.sampling, stop_ids=(7,))
    entry.task = replace(entry.task, turn=replace(entry.task.turn, sampling=sampling))
    with pytest.raises(ValueError, match="merely go on"):
        one.batcher.go_on([one.now + STEP_S], results, lambda reads: [one.sample(1, *reads)])


LONG = task("long", range(200, 240), max_tokens=8)
GUEST = task("guest", range(300, 304), max_tokens=8)


@pytest.mark.parametrize(
    "message",
    [
        prefill(LONG),
        decode(GUEST, P0, move=1),
        MoveOut(task("row 0", range(5)).id, P0, 1),
    ],
    ids=["a task waits", "a row moves here", "a row moves away"],
)
def test_nothing_goes_on_as_it_was_once_a_message_asks_for_more(message):
    one = Going()
    assert one.batcher.steady_for > 0
    one.on(message)
    assert one.batcher.steady_for == 0


def test_nothing_goes_on_as_it_was_while_a_prompt_is_prefilled_or_its_last_chunk_runs():
    one = Going(1)
    elsewhere = task("elsewhere", range(200, 212), max_tokens=8)
    one.on(Prefill(elsewhere, P0, pull=False, reuse=True))
    one.on(Granted(elsewhere.id, P0, 0, None))
    seen = []
    while one.batcher.steady_for == 0:
        one.round()
        seen.append([bool(plan.chunks) for plan, _ in one.launched])
        assert not (one.batcher.steady_for and any(seen[-1]))
    assert [True, False] in seen, "the last chunk ran while nothing was prefilled any more"


def test_rows_that_want_log_probabilities_do_not_merely_go_on():
    one = Going(1)
    one.on(prefill(task("scored", range(50, 55), max_tokens=8, logprobs=1)))
    for _ in range(5):
        one.round()
        assert one.batcher.steady_for == 0


def test_a_tick_is_awaited_where_deadlines_run_or_evictions_are_to_be_told():
    assert not Going().batcher.awaits_tick
    moving = Going()
    moving.on(MoveOut(task("row 0", range(5)).id, P0, 1))
    assert moving.batcher.awaits_tick
    early = Going()
    early.on(Granted(GUEST.id, P0, 0, None))
    assert early.batcher.awaits_tick
    lending = Going()
    lending.on(decode(GUEST, P0, move=1))
    lending.on(LastStep(GUEST.id, 1, 1.0))
    assert lending.batcher.awaits_tick


def test_evictions_await_a_tick_until_they_are_told():
    one = Going(1, max_tokens=12)
    while one.launched:
        one.round()
    for i in range(4):  # the pages of replies before them go
        one.on(prefill(task(f"more {i}", range(500 + 50 * i, 540 + 50 * i), max_tokens=2)))
        one.tell(one.batcher.step(one.now))
        while one.launched:
            one.round()
    assert one.batcher.awaits_tick
    one.on(Tick())
    assert not one.batcher.awaits_tick


def test_rows_go_on_beside_a_task_that_pulls_until_it_is_to_be_prefilled():
    one = Going(1)
    pulling = task("pulling", range(200, 220), max_tokens=8)
    one.on(Prefill(pulling, P0, pull=True, reuse=True))
    one.on(Granted(pulling.id, P0, PAGE, None))
    one.round()
    one.round()
    assert one.batcher.steady_for > 0
    assert one.batcher.awaits_tick
    one.now += one.batcher.limits.transfer_timeout_s
    one.on(Tick())
    assert one.batcher.steady_for == 0
