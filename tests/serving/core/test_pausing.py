"""Rows that need a page when none is left wait for a reply that is about to end."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.awaited import Awaited
from serving.core.departures import Departures
from serving.core.holdings import Holdings
from serving.core.rules import BatcherRules
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.messages import MoveOut, TransferId, WorkerId
from tests.support.accounts import admitted, computed, holdings, queued, told
from tests.support.fake_fleet import FakeFleet
from tests.support.one_worker import P0, decode, task
from tests.support.rules import COSTS, batcher_rules
from tests.support.shape import Shape
from tests.support.sharp_lengths import sharp
from tests.support.turns import make_turn

D0, D1 = WorkerId("d0"), WorkerId("d1")
LONG = 60


def decoding(kept: Holdings, name: str, tokens, **more: Any) -> WorkerTask:
    """A row of these tokens decodes, with no page beyond theirs."""
    row = computed(kept, admitted(kept, name, tokens, forecast=0, max_tokens=LONG, **more))
    assert row.slot is not None
    kept.rows.activate(row.slot, position=row.kv_len, reply_index=1, left=LONG, token=1)
    row.tokens.append(1)
    return row


def expected(row: WorkerTask, tokens: int) -> None:
    """From now on so many tokens of the row are expected."""
    row.task = replace(row.task, remaining=sharp(tokens), replied=row.replied)


def pool_of_ten(rules: BatcherRules | None = None) -> tuple[Holdings, list[int]]:
    """Ten pages of four tokens, and one more that is taken, to be released by the test."""
    kept = holdings(rules, max_rows=3, num_pages=12)
    spare = kept.pool.allocate(1)
    assert spare is not None
    return kept, spare


def full_pool(
    ends_in: int, rules: BatcherRules | None = None, **of_short: Any
) -> tuple[Holdings, WorkerTask, WorkerTask, list[int]]:
    """One row has filled its four pages, the other has room for three tokens more in its six."""
    kept, spare = pool_of_ten(rules)
    short = decoding(kept, "short", range(16), **of_short)
    other = decoding(kept, "other", range(50, 71))
    expected(short, LONG)
    expected(other, ends_in)
    assert kept.pool.available == 0
    return kept, short, other, spare


def last_page(
    ends_in: int, rules: BatcherRules | None = None, **of_first: Any
) -> tuple[Holdings, WorkerTask, WorkerTask]:
    """A page is left: one row has filled its own, the other has room for a token and then ends."""
    kept, spare = pool_of_ten(rules)
    first = decoding(kept, "first", range(16), **of_first)
    soon = decoding(kept, "soon", range(50, 73))
    expected(first, LONG)
    expected(soon, ends_in)
    kept.pool.release(spare)
    return kept, first, soon


def active(kept: Holdings) -> list[int]:
    return kept.rows.active().tolist()


def test_a_row_waits_for_a_reply_that_ends_before_its_pages_do_and_then_goes_on():
    kept, short, other, spare = full_pool(ends_in=2)
    for _ in range(2):
        assert kept.grow(0.0) == []
        assert active(kept) == [other.slot]
    ((reason, details),) = told(kept, "pause")
    assert reason == "reply_ends"
    assert details["lost_steps"] < details["saved_steps"]
    kept.retire(other)
    kept.take_offloaded()
    assert kept.grow(0.0) == []
    kept.take_offloaded()
    assert active(kept) == [short.slot]
    assert len(short.pages) == 5
    kept.pool.release(spare)
    kept.check()


def test_where_nobody_is_to_wait_one_gives_way_and_no_page_is_kept():
    at_once = batcher_rules(wait_for_pages=False)
    kept, _, other, _ = full_pool(ends_in=2, rules=at_once)
    assert kept.grow(0.0) == [other]
    kept, first, soon = last_page(ends_in=4, rules=at_once)
    assert kept.grow(0.0) == []
    assert (len(first.pages), len(soon.pages)) == (5, 6)


def test_it_does_not_wait_for_a_reply_that_outlives_its_pages():
    kept, short, other, _ = full_pool(ends_in=6)
    assert kept.grow(0.0) == [other]
    assert active(kept) == [short.slot]


def test_of_rows_that_wait_the_oldest_goes_on_first():
    kept, spare = pool_of_ten()
    young = decoding(kept, "young", range(12))
    old = decoding(kept, "old", range(30, 42))
    young.task = replace(young.task, arrived=1.0)
    other = decoding(kept, "other", range(60, 74))
    expected(other, 1)
    assert kept.grow(0.0) == []
    assert active(kept) == [other.slot]
    assert [reason for reason, _ in told(kept, "pause")] == ["reply_ends"] * 2
    kept.pool.release(spare)
    assert kept.grow(0.0) == []
    assert active(kept) == [other.slot, old.slot]
    assert young.slot is not None
    assert kept.rows.is_paused(young.slot)


def test_the_last_page_is_kept_for_the_row_that_ends_with_it():
    kept, long, soon = last_page(ends_in=4)
    assert kept.grow(0.0) == []
    assert active(kept) == [soon.slot]
    assert told(kept, "pause") == [("first_to_end", {"kept": 1})]
    kept.rows.advance()
    assert kept.grow(0.0) == []
    assert active(kept) == [soon.slot]
    assert (len(long.pages), len(soon.pages)) == (4, 7)


def test_no_more_is_kept_than_the_row_needs_that_ends_first():
    kept = holdings(max_rows=3, num_pages=13)
    spare = kept.pool.allocate(2)
    assert spare is not None
    long = decoding(kept, "long", range(16))
    soon = decoding(kept, "soon", range(50, 73))
    expected(long, LONG)
    expected(soon, 4)
    kept.pool.release(spare)
    assert kept.grow(0.0) == []
    assert active(kept) == [long.slot, soon.slot]
    assert (len(long.pages), len(soon.pages)) == (5, 6)


def test_all_rows_stand_still_while_the_kv_of_a_victim_is_computed_again():
    kept, short, other, _ = full_pool(ends_in=2)
    assert short.slot is not None
    restore_s = COSTS.prefill(other.kv_len, 0).seconds

    def lost() -> tuple[float, float]:
        chosen = kept._shortage.victim(kept.by_slot.values(), 0)
        assert chosen.task is other
        running = len(kept.rows.active())
        step_s = COSTS.decode(running, kept.rows.kv_tokens()).seconds
        return chosen.loss_steps, restore_s * running / step_s

    both, restored_by_both = lost()
    kept.rows.pause(short.slot)
    one, restored_by_one = lost()
    assert restored_by_both != pytest.approx(restored_by_one)
    assert both - restored_by_both == pytest.approx(one - restored_by_one)  # until it is back


def test_the_last_page_goes_to_who_asks_where_nobody_ends_with_it():
    kept, first, second = last_page(ends_in=LONG)
    assert kept.grow(0.0) == []
    assert active(kept) == [first.slot, second.slot]
    assert (len(first.pages), len(second.pages)) == (5, 6)


def test_no_page_is_kept_for_a_row_of_a_worse_priority():
    kept, first, soon = last_page(ends_in=4, priority=-1)
    assert kept.grow(0.0) == []
    assert (len(first.pages), len(soon.pages)) == (5, 6)


def test_a_row_of_a_better_priority_waits_for_nobody():
    kept, short, other, _ = full_pool(ends_in=2, priority=-1)
    assert kept.grow(0.0) == [other]
    assert active(kept) == [short.slot]


def test_while_a_row_waits_nobody_is_admitted_and_nobody_moves_here():
    kept, short, other, spare = full_pool(ends_in=2)
    assert kept.grow(0.0) == []
    kept.pool.release(spare)
    mover = open_task(decode(task("m", [99]), P0, move=1), 4)
    assert kept.admit_at_once(mover) == "no_room"
    waiting = queued(kept, "small", [99], forecast=0)
    assert kept.admit_next(0.0) is None
    assert told(kept, "defer") == [("pages", {"waiting": 1})]
    assert kept.grow(0.0) == []
    assert kept.rows.num_paused == 0
    expected(short, 4)
    kept.retire(other)
    kept.take_offloaded()
    assert kept.admit_next(0.0) is waiting


def test_a_row_that_ends_while_it_waits_waits_no_more():
    kept, short, other, _ = full_pool(ends_in=2)
    assert kept.grow(0.0) == []
    kept.retire(short)
    kept.take_offloaded()
    assert kept.grow(0.0) == []
    assert kept.rows.num_paused == 0
    assert active(kept) == [other.slot]


def leaving(kept: Holdings, row: WorkerTask) -> Departures:
    """The destination has room for a row."""
    departures = Departures(P0, kept, Awaited(30.0, lambda: 0), lambda: TransferId(P0, 1))
    departures.ask(row, MoveOut(row.task.id, D1, 1), held_len=0, now=0.0)
    return departures


def test_a_row_moves_away_while_it_waits():
    kept, short, other, spare = full_pool(ends_in=2)
    assert kept.grow(0.0) == []
    departures = leaving(kept, short)
    for _ in range(3):
        assert kept.grow(0.0) == []
        departures.advance(0.0, 0.0)
    assert short.stage is Stage.SENDING
    assert kept.rows.num_paused == 0
    kept.pool.release(spare)
    assert kept.grow(0.0) == []
    assert active(kept) == [other.slot]


def test_a_row_whose_move_is_called_off_waits_on():
    kept, short, _, spare = full_pool(ends_in=2)
    short.tokens.pop()  # it is still on the device: the row is stopped, and not yet gone
    assert kept.grow(0.0) == []
    departures = leaving(kept, short)
    for _ in range(3):
        departures.advance(0.0, 0.0)
    assert kept.rows.num_paused == 0
    departures.abort(short.task.id, "test")
    assert kept.grow(0.0) == []
    assert short.slot is not None
    assert kept.rows.is_paused(short.slot)
    kept.pool.release(spare)
    assert kept.grow(0.0) == []
    assert not kept.rows.is_paused(short.slot)


# ---- whole deployments --------------------------------------------------------------------------


def most_paused(fleet: FakeFleet) -> int:
    """Run to the end; returns the most rows that waited on a worker at once."""
    most = 0
    while fleet.round():
        waiting = [worker.batcher.holdings.rows.num_paused for worker in fleet.workers.values()]
        most = max(most, *waiting)
    fleet.complete_all()
    return most


@pytest.mark.parametrize("prefill_workers", [0, 1])
def test_whoever_waits_says_every_token_once(prefill_workers: int):
    """The fleet compares every token with an oracle, and the accounts after every call."""
    shape = Shape(prefill_workers=prefill_workers, max_model_len=40, num_pages=12, reserve_tokens=0)
    waited = 0
    for seed in range(12):
        fleet = FakeFleet(shape, seed=seed)
        fleet.run()
        for i in range(8):
            fleet.submit(make_turn(f"t{i}", [i] * 5, max_tokens=3 + 4 * i, seed=i, logprobs=0))
        waited += most_paused(fleet) > 0
    assert waited > 3, "hardly anybody waited: the test shows little"
