"""Would a task have room, and would it if some rows left? The answer, and then what happens."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.holdings import Holdings
from serving.core.pages import PagePool
from serving.core.room import Room
from serving.core.worker_task import WorkerTask
from serving.policy.admit import Admit
from tests.support.accounts import holdings, over
from tests.support.aside_scene import kept, opened, row
from tests.support.fake_costs import LinearCosts
from tests.support.rules import batcher_rules


def room(one: Holdings) -> Room:
    return Room(one.pool, one.rows, one.pace, quantile=0.5)


def fits(one: Holdings, task: WorkerTask, *gone: WorkerTask) -> bool:
    match = room(one).match(task)
    verdict, _ = room(one).verdict(task, match, one.by_slot.values(), gone)
    return isinstance(verdict, Admit)


def test_pages_that_another_holds_too_are_not_left_by_one():
    pool = PagePool(num_pages=6, page_size=4)
    own, other, both = (pool.allocate(1) or [] for _ in range(3))
    pool.name(both[0], b"shared")
    pool._hold(both[0])
    assert pool.left_by([[*own, *both]], but=()) == 1
    assert pool.left_by([[*own, *both], [*other, *both]], but=()) == 3
    assert pool.left_by([[*own, *both], [*other, *both]], but=both) == 2
    assert pool.left_by([], but=()) == 0


def test_what_a_task_would_take_over_from_a_row_that_leaves_is_not_room_for_it():
    one = kept()
    first = row(one, "first", range(8), replied=29, began=0.0, most=30)  # all ten pages
    again = opened("again", [*range(8), *range(300, 332)], most=1)  # ten pages, two of them its
    large = opened("large", [*range(8), *range(300, 333)], most=1)
    assert not one.pool.available
    assert not fits(one, again)
    assert fits(one, again, first)
    assert not fits(one, large, first)


def test_pages_that_it_takes_over_from_nobody_are_room_for_it_only_once():
    one = kept()
    over(one, "before", range(8))
    row(one, "row", range(100, 108), replied=15, began=0.0, most=16)  # six pages of ten
    assert fits(one, opened("again", [*range(8), *range(300, 307)], most=1))
    assert not fits(one, opened("large", [*range(8), *range(300, 311)], most=1))


def test_who_leaves_gives_its_slot():
    one = kept()
    rows = [row(one, f"row {i}", [100 * i], replied=1, began=0.0, most=2) for i in range(4)]
    coming = opened("coming", [900], most=1)
    assert not fits(one, coming)
    assert fits(one, coming, rows[0])


def test_who_leaves_makes_steps_shorter():
    costs = LinearCosts(base_s=1.0, row_s=0.4)
    one = holdings(replace(batcher_rules(keep_pace=True), costs=costs), costs)
    rows = [row(one, f"row {i}", [100 * i], replied=1, began=0.0, most=2) for i in range(2)]
    coming = opened("coming", [900], most=2)
    assert not fits(one, coming)  # each may take two seconds for a token
    assert fits(one, coming, rows[0])


@pytest.mark.parametrize("quantile", [0.1, 0.9])
@given(data=st.data())
def test_who_is_said_to_have_room_once_rows_have_left_has_it(quantile: float, data: Any):
    one = kept(stand_aside=None, reserve_quantile=quantile)
    rows: list[WorkerTask] = []
    for i in range(data.draw(st.integers(1, 3))):
        tokens = range(100 * i, 100 * i + data.draw(st.integers(1, 8)))
        if not fits(one, opened(f"row {i}", tokens)):
            break
        rows.append(row(one, f"row {i}", tokens, replied=1, began=0.0))
    share = data.draw(st.sampled_from(range(len(rows))))
    begin = rows[share].tokens[: data.draw(st.integers(0, 8))]
    coming = opened("coming", [*begin, *range(900, 900 + data.draw(st.integers(1, 30)))])
    gone = [entry for entry in rows if data.draw(st.booleans())]
    match = room(one).match(coming)
    asked = Room(one.pool, one.rows, one.pace, quantile=quantile)
    said, _ = asked.verdict(coming, match, one.by_slot.values(), gone)
    for entry in gone:
        one.retire(entry)
    one.tasks[coming.task.id] = coming
    one.let_wait(coming, 0.0)
    assert (one.admit_next(0.0) is coming) is isinstance(said, Admit)
