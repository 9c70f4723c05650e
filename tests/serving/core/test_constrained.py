"""A row with a grammar rides in a step only once its last token is known, whatever happens."""

from dataclasses import replace
from math import inf
from typing import Any

import pytest

from serving.core.plan import Launch, SendPages, StepPlan
from serving.core.rows import Rows
from serving.messages import (
    DEAD_END,
    Cancel,
    Failed,
    Finished,
    Granted,
    MoveAbort,
    MoveOut,
    PagesReady,
    PrefillDone,
    Refused,
    Task,
    TaskId,
    ToWorker,
)
from serving.request import Slo
from tests.support.fake_fleet import FakeFleet
from tests.support.fake_model import GRAMMAR, VOCABULARY
from tests.support.one_worker import D0, P0, Worker, at, kinds, prefill, task
from tests.support.shape import Shape
from tests.support.turns import make_turn

FOLLOWED: dict[str, Any] = {"grammar": GRAMMAR, "stop_ids": (VOCABULARY,), "max_tokens": 20}


def constrained(name: str, tokens: Any = range(5), **turn: Any) -> Task:
    return task(name, tokens, **{**FOLLOWED, **turn})


def named(plan: StepPlan) -> list[str]:
    """Whose rows decode in a step, and whose chunks are in it."""
    return [str(task.turn) for task in (*plan.decode_tasks, *plan.chunk_tasks)]


def goes(worker: Worker) -> StepPlan | None:
    plans = [output.plan for output in worker.step() if isinstance(output, Launch)]
    return plans[0] if plans else None


# ---- rows ---------------------------------------------------------------------------------------


def opened(rows: Rows, *, token: int | None = 7, left: int = 9, constrained: bool = True) -> int:
    slot = rows.open(wants_logprobs=False, constrained=constrained)
    rows.add_pages(slot, [slot * 2 + 1, slot * 2 + 2])
    rows.activate(slot, position=0, reply_index=1, left=left, token=token)
    return slot


def new_rows() -> Rows:
    return Rows(slots=4, max_pages=8, page_size=4)


def test_a_row_waits_behind_its_step_and_is_then_fed_by_the_host():
    rows = new_rows()
    free, slot = opened(rows, constrained=False), opened(rows)
    first, second = rows.advance(), rows.advance()
    assert first.slot.tolist() == [free, slot]
    assert second.slot.tolist() == [free]
    rows.read(slot, 9)
    third = rows.advance()
    assert third.slot.tolist() == [free, slot]
    assert third.position.tolist() == [2, 1]
    assert third.reply_index.tolist() == [3, 2]
    assert (third.token.tolist()[1], third.from_host.tolist()) == (9, [False, True])


def test_a_row_waits_for_its_first_token_unless_the_host_knows_it():
    rows = new_rows()
    here, elsewhere = opened(rows, token=None), opened(rows, token=0)
    assert rows.active().tolist() == [elsewhere]
    assert (rows.num_decoding, rows.num_awaiting, rows.num_unread) == (2, 1, 1)
    rows.read(here, 3)
    assert rows.active().tolist() == [elsewhere, here]
    assert rows.num_unread == 0


def test_a_row_whose_last_token_is_planned_waits_for_nothing():
    rows = new_rows()
    slot = opened(rows, left=1)
    rows.advance()
    assert not rows.goes_on(slot)
    rows.read(slot, 9)
    assert rows.active().tolist() == []


def test_a_row_that_was_taken_out_stays_out_and_comes_back_only_once_it_is_read():
    rows = new_rows()
    slot = opened(rows)
    rows.advance()
    rows.deactivate(slot)
    assert not rows.goes_on(slot)
    rows.resume(slot)
    assert rows.goes_on(slot)
    assert rows.active().tolist() == []
    rows.read(slot, 9)
    assert rows.active().tolist() == [slot]
    rows.advance()
    rows.deactivate(slot)
    rows.read(slot, 4)
    assert rows.active().tolist() == []
    rows.resume(slot)
    assert rows.advance().token.tolist() == [4]


def test_a_closed_slot_leaves_no_token_to_be_read():
    rows = new_rows()
    slot = opened(rows)
    rows.advance()
    rows.close(slot)
    assert opened(rows, constrained=False) == slot
    assert (rows.num_unread, rows.num_awaiting) == (0, 0)
    rows.read(slot, 9)
    rows.advance()
    assert rows.advance().from_host.tolist() == [False]


def test_nothing_merely_goes_on_beside_a_row_that_waits_or_has_just_been_read():
    rows = new_rows()
    opened(rows, constrained=False)
    rows.advance()
    assert rows.steady_for > 0
    slot = opened(rows)
    assert rows.steady_for == 0
    rows.advance()
    assert rows.steady_for == 0
    rows.read(slot, 9)
    assert rows.steady_for == 0


def test_a_row_that_waits_is_as_urgent_as_one_that_rides():
    rows = new_rows()
    slot = opened(rows)
    assert rows.slack_s(0.0) == inf
    rows.set_target(slot, now=10.0, tpot_s=2.0)
    assert rows.slack_s(11.0) == 1.0
    rows.advance()
    assert rows.active().tolist() == []
    assert rows.slack_s(11.0) == 3.0
    rows.read(slot, 9)
    assert rows.slack_s(11.0) == 3.0


# ---- one worker ---------------------------------------------------------------------------------


def test_no_step_is_planned_for_a_row_alone_until_its_token_is_known():
    worker = Worker()
    worker.on(prefill(constrained("a")))
    first = worker.launch()
    assert goes(worker) is None
    worker.complete(first, 11)
    second = worker.launch()
    assert (second.decode.token.tolist(), second.decode.from_host.tolist()) == ([11], [True])
    assert goes(worker) is None
    worker.complete(second, 12)
    assert worker.launch().decode.token.tolist() == [12]


def test_other_rows_ride_in_every_step():
    worker = Worker()
    worker.on(prefill(task("free", range(3), max_tokens=20)))
    worker.complete(worker.launch(), 5)
    worker.on(prefill(constrained("a", range(50, 53))))
    plans = [worker.launch() for _ in range(2)]
    assert [named(plan) for plan in plans] == [["free", "a"], ["free"]]
    worker.complete(plans.pop(0), 6, 11)
    rides = []
    for token in range(12, 18):
        plans.append(worker.launch())
        rides.append(named(plans[-1]))
        worker.complete(plans.pop(0), *[token] * 2)
    assert rides == [["free", "a"], ["free"]] * 3


def test_a_reply_ends_with_what_ends_it():
    worker = Worker()
    worker.on(prefill(constrained("a")))
    worker.complete(worker.launch(), 11)
    outputs = worker.complete(worker.launch(), VOCABULARY)
    assert at(outputs, 1, Finished).reply_len == 2
    assert worker.is_empty()


@pytest.mark.parametrize("owner", [None, D0], ids=["here", "for its owner"])
def test_a_prompt_whose_grammar_leaves_nothing_is_refused_and_frees_all(owner):
    worker = Worker()
    worker.on(prefill(work := constrained("a"), owner))
    if owner is not None:
        worker.on(Granted(work.id, owner, 0, None))
    outputs = worker.complete(worker.launch(), 0, stuck_chunks=(0,))
    assert at(outputs, -1, Refused).reason == DEAD_END
    assert worker.is_empty()


def test_a_row_whose_grammar_leaves_nothing_is_refused_and_the_others_go_on():
    worker = Worker()
    worker.on(prefill(constrained("a")))
    worker.on(prefill(task("b", range(20, 23), max_tokens=9)))
    worker.complete(worker.launch(), 11, 12)
    plan = worker.launch()
    place = named(plan).index("a")
    outputs = worker.complete(plan, 13, 14, stuck_rows=(place,))
    refused = [o for o in outputs if isinstance(o, Refused)]
    assert [(str(one.task.turn), one.reason) for one in refused] == [("a", DEAD_END)]
    assert named(worker.launch()) == ["b"]


def test_what_a_cancelled_row_samples_feeds_nobody_who_has_its_slot():
    worker = Worker(max_rows=1)
    worker.on(prefill(gone := constrained("gone")))
    worker.complete(worker.launch(), 11)
    left = worker.launch()
    worker.on(Cancel(gone.id))
    worker.on(prefill(constrained("next", range(30, 33))))
    chunk = worker.launch()
    assert named(chunk) == ["next"]
    worker.complete(left, 12)
    assert goes(worker) is None
    worker.complete(chunk, 13)
    assert worker.launch().decode.token.tolist() == [13]


@pytest.mark.parametrize("follows", [True, False])
def test_a_prompt_is_cut_as_small_beside_a_row_that_waits_as_beside_one_that_rides(follows: bool):
    worker = Worker(max_chunk_tokens=100)
    work = constrained("a") if follows else task("a", range(5), max_tokens=20)
    worker.on(prefill(replace(work, slo=Slo(None, 0.004))))
    worker.complete(worker.launch(), 11)
    worker.launch()
    worker.on(prefill(task("long", range(100, 160))))
    (chunk,) = worker.launch().chunks
    assert len(chunk.tokens) < 60


# ---- moves --------------------------------------------------------------------------------------


def leaving(worker: Worker, work: Task) -> list:
    """What a step brings once a row may leave."""
    worker.on(MoveOut(work.id, P0, 1))
    worker.on(Granted(work.id, P0, 0, 1))
    return worker.step()


def announced(outputs: list) -> PagesReady | None:
    messages = [o.message for o in outputs if isinstance(o, ToWorker)]
    whole = [m for m in messages if isinstance(m, PagesReady) and m.reply is not None]
    return whole[0] if whole else None


def test_a_row_may_leave_before_its_first_token_is_known():
    worker = Worker(D0)
    worker.on(prefill(work := constrained("a", range(3))))
    chunk = worker.launch()
    outputs = leaving(worker, work)
    assert kinds(outputs) == ["SendPages", "LastStep"]
    outputs = worker.complete(chunk, 11)
    assert at(outputs, 0, PrefillDone).first.token == 11
    ready = announced(outputs)
    assert ready is not None
    assert (ready.reply, ready.stop) == ((11,), 3)


def test_a_row_leaves_with_the_token_that_it_waits_for():
    worker = Worker(D0)
    worker.on(prefill(work := constrained("a", range(3))))
    worker.complete(worker.launch(), 11)
    step = worker.launch()
    assert isinstance(leaving(worker, work)[0], SendPages)
    ready = announced(worker.complete(step, 12))
    assert ready is not None
    assert (ready.reply, ready.stop) == ((11, 12), 4)


def test_a_row_that_stays_after_all_still_waits_for_its_token():
    worker = Worker(D0)
    worker.on(prefill(work := constrained("a", range(3))))
    worker.complete(worker.launch(), 11)
    step = worker.launch()
    leaving(worker, work)
    worker.on(MoveAbort(work.id, 1, "test"))
    assert goes(worker) is None
    worker.complete(step, 12)
    plan = worker.launch()
    assert (plan.decode.token.tolist(), plan.decode.from_host.tolist()) == ([12], [True])


# ---- a fleet ------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("prefill_workers", [0, 1])
def test_no_row_has_two_samples_that_are_unread(depth: int, prefill_workers: int):
    fleet = FakeFleet(Shape(depth=depth, prefill_workers=prefill_workers, decode_workers=2))
    fleet.run()
    for i in range(6):
        how: dict[str, Any] = FOLLOWED if i % 3 else {"max_tokens": 20}
        fleet.submit(make_turn(f"t{i}", range(10 * i, 10 * i + 5), **how))
    most: dict[bool, int] = {True: 0, False: 0}
    while fleet.round():
        for worker in fleet.workers.values():
            for name, unread in _unread(worker.launched).items():
                follows = fleet.replies[name.turn].turn.sampling.grammar is not None
                most[follows] = max(most[follows], unread)
    fleet.check_empty()
    assert most == {True: 1, False: depth}


def _unread(steps: Any) -> dict[TaskId, int]:
    sampled: dict[TaskId, int] = {}
    for plan, _ in steps:
        ends = [name for name, c in zip(plan.chunk_tasks, plan.chunks, strict=True) if c.sample]
        for name in (*plan.decode_tasks, *ends):
            sampled[name] = sampled.get(name, 0) + 1
    return sampled


def test_a_turn_at_a_dead_end_fails_once_and_is_not_tried_again():
    fleet = FakeFleet(Shape(prefill_workers=1))
    fleet.run()
    reply = fleet.submit(make_turn("a", range(5), **FOLLOWED))
    fleet.run_until(lambda: len(reply.samples) > 2)
    worker = fleet.workers[D0]
    fleet.run_until(lambda: bool(worker.launched))
    plan, result = worker.launched.pop()
    worker.launched.append((plan, result._replace(stuck_rows=(0,))))
    fleet.run()
    fleet.check_empty()
    assert reply.end is not None
    assert isinstance(reply.end.outcome, Failed)
    assert reply.end.outcome.code == DEAD_END
    assert not [one for one in fleet.decisions if one.kind == "retry"]
    assert len(reply.tokens) > 2
