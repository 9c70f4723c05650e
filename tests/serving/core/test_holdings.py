"""Pages and slots of one worker: admission, growth, release, and what comes back from the host."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.holdings import BatcherLimits, Holdings
from serving.core.own_decisions import OwnDecisions
from serving.core.rules import BatcherRules
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.costs.costs import Costs
from serving.messages import Role
from serving.request import Slo
from tests.support.one_worker import P0, decode, prefill, task
from tests.support.rules import batcher_rules, corrected
from tests.support.shape import Shape

SHAPE = Shape(max_model_len=40, num_pages=11)  # ten pages of four tokens


def holdings(
    rules: BatcherRules | None = None, costs: Costs | None = None, **limits: int
) -> Holdings:
    own, rules = replace(SHAPE.limits(Role.BOTH), **limits), rules or batcher_rules()
    return Holdings(own, rules, costs or rules.costs, OwnDecisions(P0))


def told(kept: Holdings, kind: str) -> list[tuple[str, Any]]:
    """Reasons and details of the decisions of a kind that were made since this was last asked."""
    made = kept._decisions.take()
    return [(decision.reason, decision.details) for decision in made if decision.kind == kind]


def queued(kept: Holdings, name: str, tokens, **more) -> WorkerTask:
    entry = open_task(prefill(task(name, tokens, **more)), 4)
    kept.tasks[entry.task.id] = entry
    kept.queue.add(entry)
    return entry


def admitted(kept: Holdings, name: str, tokens, **more) -> WorkerTask:
    entry = queued(kept, name, tokens, **more)
    assert kept.admit_next(0.0) is entry
    return entry


def computed(kept: Holdings, entry: WorkerTask) -> WorkerTask:
    """The KV of all its tokens is there."""
    entry.kv_len = len(entry.tokens)
    entry.stage = Stage.DECODE
    kept.name_full_pages(entry)
    return entry


def over(kept: Holdings, name: str, tokens, **more) -> None:
    """A task comes, is computed and leaves its pages."""
    kept.retire(computed(kept, admitted(kept, name, tokens, **more)))
    kept.take_evicted(())
    kept.check()


# ---- admission and growth -----------------------------------------------------------------------


def test_a_pool_that_holds_no_conversation_of_full_length_is_refused():
    with pytest.raises(ValueError, match="do not hold one conversation"):
        BatcherLimits(10, 4, 40, 1, 1, 1, 1.0, 1, 0)
    BatcherLimits(11, 4, 40, 1, 1, 1, 1.0, 1, 0)


def test_pages_for_the_prompt_are_held_and_those_for_the_reply_promised():
    kept = holdings()
    entry = admitted(kept, "a", range(9), forecast=8)
    assert (len(entry.pages), kept.promised) == (3, 2)
    computed(kept, entry)
    entry.tokens += [1] * 4
    assert kept.extend(entry, 4)
    assert kept.promised == 1


def test_what_is_promised_is_not_given_to_another():
    kept = holdings()
    admitted(kept, "a", range(12), forecast=16, max_tokens=16)  # 3 pages, 4 promised
    queued(kept, "b", range(50, 62), forecast=4)  # 3 pages and 1: 3 are left
    assert kept.admit_next(0.0) is None
    kept.check()


def test_nobody_overtakes_a_task_that_waits_for_room():
    kept = holdings()
    admitted(kept, "a", range(20), forecast=4)
    queued(kept, "large", range(50, 70), forecast=4)
    queued(kept, "small", [99], forecast=0)
    assert kept.admit_next(0.0) is None


def test_a_task_that_moves_here_never_waits_and_never_overtakes():
    kept = holdings()
    mover = open_task(decode(task("m", range(8)), P0, move=1), 4)
    admitted(kept, "a", range(30), forecast=8)
    assert kept.admit_at_once(mover) == "no_room"
    queued(kept, "b", range(50, 70))
    assert kept.admit_at_once(mover) == "busy"
    assert mover.task.id not in kept.tasks


def test_a_row_that_comes_back_before_its_old_copies_are_confirmed_is_refused():
    kept = holdings()
    old = computed(kept, admitted(kept, "m", range(8)))
    old.stage = Stage.SENDING
    assert kept.admit_at_once(open_task(decode(old.task, P0, move=2), 4)) == "busy"


def test_a_row_short_of_pages_takes_them_from_the_one_whose_loss_costs_least():
    kept = holdings(max_rows=3)
    first = computed(kept, admitted(kept, "first", range(16), forecast=0))
    second = computed(kept, admitted(kept, "second", range(50, 66), forecast=0))
    third = computed(kept, admitted(kept, "third", range(70, 78), forecast=0))
    for row in (first, second):
        assert row.slot is not None
        kept.rows.activate(row.slot, position=16, reply_index=1, left=9, token=1)
    assert kept.grow() == [third]
    kept.take_evicted(())
    assert (third.stage, third.pages, third.slot) == (Stage.GONE, [], None)
    assert (len(first.pages), len(second.pages)) == (5, 5)
    kept.check()


def victim(kept: Holdings, *lengths: int, reuse: bool = True) -> int:
    """Say which of the rows of these lengths is stopped, so that the first may grow."""
    rows = [
        computed(kept, admitted(kept, str(i), range(100 * i, 100 * i + length), forecast=0))
        for i, length in enumerate(lengths)
    ]
    for row in rows:
        row.reuse = reuse
    slot = rows[0].slot
    assert slot is not None
    assert not kept.pool.available
    kept.rows.activate(slot, position=lengths[0], reply_index=1, left=9, token=1)
    (stopped,) = kept.grow()
    kept.take_evicted(())
    kept.check()
    return rows.index(stopped)


def test_whose_loss_costs_least_is_said_by_the_costs_that_are_corrected():
    assert victim(holdings(), 16, 16, 8) == 2
    assert victim(holdings(costs=corrected({16: 1.0, 8: 2.0})), 16, 16, 8) == 1


def test_a_row_that_host_memory_would_hold_is_priced_by_what_fetching_it_takes():
    """Four whole pages are fetched sooner than one and three tokens more, which are computed."""
    assert victim(holdings(num_pages=12), 20, 16, 7) == 2
    assert victim(holdings(num_pages=12, host_pages=20), 20, 16, 7) == 1


def test_what_host_memory_has_no_room_for_is_priced_by_computing_it():
    assert victim(holdings(num_pages=12, host_pages=1), 20, 16, 7) == 2


def test_where_computing_is_faster_than_fetching_a_row_is_priced_by_that():
    slow = replace(batcher_rules(), host_link=replace(batcher_rules().host_link, latency_s=1.0))
    kept = holdings(slow, num_pages=12, host_pages=20)
    assert victim(kept, 20, 16, 7) == 2


def test_a_row_that_is_never_continued_is_priced_by_computing_it():
    kept = holdings(num_pages=12, host_pages=20)
    assert victim(kept, 20, 16, 7, reuse=False) == 2


def test_a_row_that_outgrows_its_reserve_is_promised_no_more_than_it_has_said():
    kept = holdings()
    entry = computed(kept, admitted(kept, "a", range(8), forecast=0, max_tokens=30))
    assert entry.slot is not None
    entry.tokens += [1, 1]
    kept.rows.activate(entry.slot, position=8, reply_index=1, left=9, token=1)
    kept.grow()
    assert len(entry.pages) == 3
    assert entry.reserved_pages == 3, "two tokens said, two more expected: 12 in all"


# ---- what is left behind ------------------------------------------------------------------------


def test_a_prompt_continues_in_the_pages_that_were_left_down_to_the_last_token():
    kept = holdings()
    over(kept, "a", range(10))
    entry = admitted(kept, "b", [*range(10), 77])
    assert (entry.kv_len, entry.matched_len) == (10, 10)


def test_the_last_token_of_a_cached_prompt_is_computed():
    kept = holdings()
    over(kept, "a", range(8))
    assert admitted(kept, "b", range(8)).kv_len == 4


def test_a_task_without_reuse_sees_nothing():
    kept = holdings()
    over(kept, "a", range(8))
    entry = open_task(replace(prefill(task("b", range(12))), reuse=False), 4)
    kept.tasks[entry.task.id] = entry
    kept.queue.add(entry)
    assert kept.admit_next(0.0) is entry
    assert entry.kv_len == 0


@pytest.mark.parametrize(("sound", "found"), [(4, 4), (5, 5), (8, 8), (10, 10), (None, 12)])
def test_what_is_not_known_to_be_sound_is_not_found(sound: int | None, found: int):
    kept = holdings()
    over(kept, "a", range(4))
    entry = admitted(kept, "b", range(12))
    entry.stage, entry.kv_len, entry.unsure_from = Stage.PREFILL, 12, sound
    kept.name_full_pages(entry)
    kept.retire(entry)
    kept.check()
    assert admitted(kept, "c", range(13)).kv_len == found


# ---- host memory --------------------------------------------------------------------------------


def crowded(kept: Holdings) -> None:
    """A prompt of three pages is over, and another of ten has evicted it."""
    over(kept, "a", range(12))
    over(kept, "crowd", range(100, 140))


def test_evicted_pages_are_offered_to_the_host():
    kept = holdings(host_pages=20)
    over(kept, "a", range(12))
    crowd = admitted(kept, "crowd", range(100, 136), forecast=0)
    pages, slots = kept.take_evicted(())
    assert len(pages) == len(slots) == 2
    assert set(pages) <= set(crowd.pages)
    assert kept.take_evicted(()) == ((), ())


def test_without_host_memory_nothing_is_offered():
    kept = holdings()
    over(kept, "a", range(12))
    admitted(kept, "crowd", range(100, 136), forecast=0)
    assert kept.take_evicted(()) == ((), ())


def test_a_prompt_that_returns_takes_its_pages_back():
    kept = holdings(host_pages=20)
    crowded(kept)
    entry = admitted(kept, "b", [*range(12), 7])
    assert entry.restored is not None
    slots, pages = entry.restored
    assert list(slots) == [kept.host._slot_of[name] for name in entry.names[1:4]]
    assert list(pages) == entry.pages[:3]
    assert (entry.kv_len, entry.matched_len) == (12, 0)


def test_what_a_stopped_row_leaves_goes_to_the_host_and_comes_back():
    kept = holdings(num_pages=12, host_pages=20)
    assert victim(kept, 20, 16, 7) == 1
    crowd = computed(kept, admitted(kept, "crowd", range(500, 512), forecast=0))
    kept.take_evicted(())
    (small,) = (task for task in kept.tasks.values() if task.kv_len == 7)
    for gone in (crowd, small):
        kept.retire(gone)
    again = admitted(kept, "again", [*range(100, 116), 7], forecast=0)
    assert again.restored is not None
    assert again.kv_len == 16


def test_pages_that_are_still_in_the_pool_are_not_copied():
    kept = holdings(host_pages=20)
    crowded(kept)
    computed(kept, admitted(kept, "b", range(5)))  # its first page is held
    kept.take_evicted(())
    entry = admitted(kept, "c", [*range(12), 7])
    assert entry.restored is not None
    assert list(entry.restored[1]) == entry.pages[1:3]
    assert entry.kv_len == 12


def test_the_last_token_of_a_prompt_on_the_host_is_computed():
    kept = holdings(host_pages=20)
    crowded(kept)
    entry = admitted(kept, "b", range(12))
    assert entry.kv_len == 8


def test_a_prompt_that_is_scored_is_run_as_a_whole():
    kept = holdings(host_pages=20)
    crowded(kept)
    entry = admitted(kept, "b", [*range(12), 7], prompt_logprobs=0)
    assert (entry.kv_len, entry.restored) == (0, None)


def test_what_is_faster_computed_is_not_fetched():
    slow = replace(batcher_rules(), host_link=replace(batcher_rules().host_link, latency_s=1.0))
    kept = holdings(slow, host_pages=20)
    crowded(kept)
    assert admitted(kept, "b", [*range(12), 7]).restored is None


def test_what_is_faster_computed_is_said_by_the_costs_that_are_corrected():
    link = replace(batcher_rules().host_link, latency_s=0.00145)  # 1.5 ms, and 2.2 to compute it
    rules = replace(batcher_rules(), host_link=link)
    for costs, fetched in ((None, True), (corrected({12: 0.5}), False)):
        kept = holdings(rules, costs, host_pages=20)
        crowded(kept)
        assert (admitted(kept, "b", [*range(12), 7]).restored is not None) == fetched


def test_slots_about_to_be_fetched_do_not_give_way_to_what_is_evicted_for_it():
    kept = holdings(host_pages=3)
    crowded(kept)
    held = dict(kept.host._slot_of)
    entry = admitted(kept, "b", [*range(12), 7])
    assert entry.restored is not None
    assert len(kept._evicted) == 4, "it takes pages of the other one"
    assert kept.take_evicted(entry.restored[0]) == ((), ())
    assert dict(kept.host._slot_of) == held


# ---- what is told of it -------------------------------------------------------------------------


def test_an_admission_says_what_was_given_and_set_aside():
    kept = holdings()
    admitted(kept, "a", range(6), forecast=8)
    assert told(kept, "admit") == [("alone", {"cached_len": 0, "pages": 2, "reserved": 2})]
    admitted(kept, "b", range(3), forecast=4)
    assert told(kept, "admit") == [("fits", {"cached_len": 0, "pages": 1, "reserved": 1})]


@pytest.mark.parametrize(
    ("reason", "limits", "length", "forecast"),
    [
        ("slots", {"max_rows": 1}, 4, 0),
        ("pages", {}, 36, 0),
        ("growth", {}, 8, 30),
    ],
)
def test_a_task_that_waits_for_room_is_told_of_once(reason, limits, length, forecast):
    kept = holdings(**limits)
    first = computed(kept, admitted(kept, "a", range(100, 120), forecast=0))
    queued(kept, "b", range(length), forecast=forecast, max_tokens=30)
    for _ in range(3):
        assert kept.admit_next(0.0) is None
    assert told(kept, "defer") == [(reason, {"waiting": 1})]
    kept.retire(first)
    assert kept.admit_next(0.0) is not None
    assert told(kept, "defer") == []


def test_a_task_that_overtakes_older_ones_says_why():
    kept = holdings(batcher_rules(order_window=2))
    queued(kept, "long", range(32))
    urgent = queued(kept, "urgent", range(4))
    urgent.task = replace(urgent.task, slo=Slo(0.002, None))
    assert kept.admit_next(0.0) is urgent
    assert told(kept, "order") == [("deadlines", {"passed_over": 1})]
    kept.retire(computed(kept, urgent))
    kept.take_evicted(())
    assert kept.admit_next(0.0) is not None
    assert told(kept, "order") == []


def test_who_is_in_time_only_if_it_goes_first_is_said_by_the_costs_that_are_corrected():
    for costs, first in ((None, "long"), (corrected({4: 2.0}), "urgent")):
        kept = holdings(batcher_rules(order_window=2), costs)
        queued(kept, "long", range(32))
        urgent = queued(kept, "urgent", range(4))
        urgent.task = replace(urgent.task, slo=Slo(0.006, None))  # both take 5.6 ms, or twice that
        started = kept.admit_next(0.0)
        assert started is not None
        assert started.task.id.turn == first


@pytest.mark.parametrize(("host_pages", "outcome"), [(0, "dropped"), (20, "offloaded")])
def test_evictions_are_counted_by_session_and_by_what_became_of_the_pages(host_pages, outcome):
    kept = holdings(host_pages=host_pages)
    over(kept, "a", range(8))
    over(kept, "b", range(50, 54))
    admitted(kept, "crowd", range(100, 136), forecast=0)
    kept.take_evicted(())
    assert told(kept, "evict") == []
    kept._decisions.tell_evicted()
    kept._decisions.tell_evicted()
    evicted = [d for d in kept._decisions.take() if d.kind == "evict"]
    assert {d.session for d in evicted} <= {"session of a", "session of b"}
    assert {d.reason for d in evicted} == {outcome}
    pages: list[Any] = [d.details["pages"] for d in evicted]
    assert sum(pages) == 2  # ten pages: nine for the crowd


def test_whose_pages_are_worth_least_is_said_by_the_costs_that_are_corrected():
    for costs, first in ((None, "longer"), (corrected({16: 1.0, 20: 1.5}), "shorter")):
        kept = holdings(costs=costs)
        over(kept, "longer", range(20))
        over(kept, "shorter", range(50, 66))
        admitted(kept, "crowd", range(100, 108), forecast=0)  # one page is free
        kept.take_evicted(())
        kept._decisions.tell_evicted()
        evicted = [d.session for d in kept._decisions.take() if d.kind == "evict"]
        assert evicted == [f"session of {first}"]


@pytest.mark.parametrize(("latency_s", "reason"), [(0.0, "fetch_faster"), (1.0, "compute_faster")])
def test_host_memory_is_weighed_against_computing(latency_s, reason):
    link = replace(batcher_rules().host_link, latency_s=latency_s)
    kept = holdings(replace(batcher_rules(), host_link=link), host_pages=20)
    crowded(kept)
    told(kept, "restore")
    admitted(kept, "b", [*range(12), 7])
    ((why, details),) = told(kept, "restore")
    assert why == reason
    assert details["tokens"] == 12
    assert (details["fetch_s"] < details["compute_s"]) == (reason == "fetch_faster")
