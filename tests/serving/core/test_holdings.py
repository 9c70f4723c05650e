"""Pages and slots of one worker: admission, growth, release, and what comes back from the host."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.holdings import LOOK_AGAIN
from serving.core.limits import BatcherLimits
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.request import Slo
from tests.support.accounts import admitted, computed, crowded, holdings, over, queued, told
from tests.support.one_worker import P0, decode, prefill, task
from tests.support.rules import batcher_rules

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


def test_what_all_rows_will_need_is_not_given_to_another():
    kept = holdings()
    admitted(kept, "a", range(12), forecast=16, max_tokens=16)  # 3 pages, then 7
    queued(kept, "b", range(50, 62), forecast=16, max_tokens=16)  # the same: 14 at once, of 10
    assert kept.admit_next(0.0) is None
    kept.check()


def test_a_row_that_will_have_ended_by_then_leaves_its_pages_to_others():
    kept = holdings()
    admitted(kept, "a", range(12), forecast=16, max_tokens=16)
    short = queued(kept, "b", range(50, 62), forecast=4)  # 4 and 4 at once, and 7 later
    assert kept.admit_next(0.0) is short
    assert kept.promised == 2


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
    for row in (first, second, third):
        assert row.slot is not None
        kept.rows.activate(row.slot, position=row.kv_len, reply_index=1, left=9, token=1)
    assert kept.grow(0.0) == [third]
    kept.take_offloaded()
    assert (third.stage, third.pages, third.slot) == (Stage.GONE, [], None)
    assert (len(first.pages), len(second.pages)) == (5, 5)
    kept.check()


def test_a_task_put_off_is_looked_at_again_after_some_steps():
    kept = holdings()
    first = computed(kept, admitted(kept, "a", range(12), forecast=16, max_tokens=16))
    waiting = queued(kept, "b", range(50, 62), forecast=16, max_tokens=16)
    assert kept.admit_next(0.0) is None
    first.task = replace(first.task, remaining=task("a", range(12), forecast=0).remaining)
    looks = next(look for look in range(1, 20) if kept.admit_next(0.0) is waiting)
    assert looks == LOOK_AGAIN + 1


def test_a_task_put_off_is_looked_at_again_when_one_ends():
    kept = holdings()
    first = computed(kept, admitted(kept, "a", range(12), forecast=16, max_tokens=16))
    waiting = queued(kept, "b", range(50, 62), forecast=16, max_tokens=16)
    assert kept.admit_next(0.0) is None
    kept.retire(first)
    assert kept.admit_next(0.0) is waiting


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


def test_evicted_pages_are_offered_to_the_host():
    kept = holdings(host_pages=20)
    over(kept, "a", range(12))
    crowd = admitted(kept, "crowd", range(100, 136), forecast=0)
    offloaded = dict(kept.take_offloaded())
    assert len(set(offloaded.values())) == 2
    assert set(offloaded) <= set(crowd.pages)
    assert kept.take_offloaded() == []


def test_without_host_memory_nothing_is_offered():
    kept = holdings()
    over(kept, "a", range(12))
    admitted(kept, "crowd", range(100, 136), forecast=0)
    assert kept.take_offloaded() == []


def test_a_prompt_that_returns_takes_its_pages_back():
    kept = holdings(host_pages=20)
    crowded(kept)
    held = dict(kept.host._kept)
    entry = admitted(kept, "b", [*range(12), 7])
    kept.take_offloaded()
    expected = [(name, held[name][0]) for name in entry.names[1:4]]
    assert list(entry.on_host) == expected
    assert (entry.kv_len, entry.asked_len) == (0, 0)
    assert not kept.host.find(entry.names[1:4]), "what is fetched leaves"
    assert kept.fetch(entry, 2) == tuple(slot for _, slot in expected[:2])
    kept.check()
    entry.stage = Stage.FETCHING
    kept.retire(entry)
    assert kept.host.find(entry.names[3:4]) == 1, "what it has not asked for stays"
    kept.check()


def test_pages_that_are_still_in_the_pool_are_not_copied():
    kept = holdings(host_pages=20)
    crowded(kept)
    computed(kept, admitted(kept, "b", range(5)))  # its first page is held
    kept.take_offloaded()
    entry = admitted(kept, "c", [*range(12), 7])
    assert [name for name, _ in entry.on_host] == entry.names[2:4]
    assert (entry.kv_len, entry.asked_len) == (4, 4)


def test_the_last_token_of_a_prompt_on_the_host_is_computed():
    kept = holdings(host_pages=20)
    crowded(kept)
    entry = admitted(kept, "b", range(12))
    assert len(entry.on_host) == 2


def test_a_prompt_that_is_scored_is_run_as_a_whole():
    kept = holdings(host_pages=20)
    crowded(kept)
    entry = admitted(kept, "b", [*range(12), 7], prompt_logprobs=0)
    assert (entry.kv_len, len(entry.on_host)) == (0, 0)


def test_what_is_fetched_is_no_work_for_the_queue():
    """The one that fetches is short enough to be in time, and would not be if it computed all."""
    kept = holdings(batcher_rules(order="on-time"), host_pages=20)
    crowded(kept)
    queued(kept, "long", range(200, 232))  # 4.2 ms
    back = queued(kept, "back", [*range(12), 7])  # 1.1 ms and 0.3 to fetch, or 2.3
    back.task = replace(back.task, slo=Slo(0.002, None))
    started = kept.admit_next(0.0)
    assert started is not None
    assert started.task.id.turn == "back"


def test_when_caches_are_dropped_host_memory_is_too():
    kept = holdings(host_pages=20)
    crowded(kept)
    kept.drop_cached()
    assert (kept.pool.num_cached, len(kept.host)) == (0, 0)
    assert not admitted(kept, "b", [*range(12), 7]).on_host


def test_who_has_pages_in_host_memory_is_still_awaited():
    kept = holdings(host_pages=20)
    crowded(kept)
    (session,) = kept.host.groups
    assert session not in kept.pool.groups
    list(kept.idle.rank({}, kept.host.groups))
    assert len(kept.idle) >= 1
    list(kept.idle.rank({}, ()))
    assert len(kept.idle) == 0


def test_slots_about_to_be_fetched_do_not_give_way_to_what_is_evicted_for_it():
    kept = holdings(host_pages=3)
    crowded(kept)
    cached = kept.pool.num_cached
    entry = admitted(kept, "b", [*range(12), 7])
    assert cached - kept.pool.num_cached == 4, "it takes pages of the other one"
    assert kept.take_offloaded() == []
    assert kept.host.offer(b"next", None) is None
    slots = kept.fetch(entry, 3)
    assert len(slots) == 3
    assert kept.host.offer(b"next", None) in slots


# ---- what is told of it -------------------------------------------------------------------------


def test_an_admission_says_what_was_given_and_set_aside():
    kept = holdings()
    admitted(kept, "a", range(6), forecast=8)
    assert told(kept, "admit") == [("alone", {"cached_len": 0, "pages": 2, "reserved": 2})]
    admitted(kept, "b", range(3), forecast=4)
    # In four tokens 3 and 2 pages, of which 2 and 1 are there.
    assert told(kept, "admit") == [("fits", {"cached_len": 0, "pages": 1, "reserved": 2})]


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
    first = computed(kept, admitted(kept, "a", range(100, 120), forecast=8))
    queued(kept, "b", range(length), forecast=forecast, max_tokens=30)
    for _ in range(3):
        assert kept.admit_next(0.0) is None
    assert told(kept, "defer") == [(reason, {"waiting": 1})]
    kept.retire(first)
    assert kept.admit_next(0.0) is not None
    assert told(kept, "defer") == []


def paced(kept, name: str, tokens, *, tpot_s: float | None, **more) -> WorkerTask:
    entry = queued(kept, name, tokens, **more)
    entry.task = replace(entry.task, slo=Slo(None, tpot_s))
    return entry


def test_a_row_waits_that_would_make_steps_too_long_for_most():
    """A step takes 1 ms, 0.1 ms a row and 0.01 ms a token: 1.14 ms with one, 1.28 with both."""
    for keep_pace, tpot_s, waits in (
        (True, 0.00127, True),
        (True, 0.00129, False),
        (True, None, False),
        (False, 0.00127, False),
    ):
        kept = holdings(batcher_rules(keep_pace=keep_pace))
        first = paced(kept, "a", range(4), tpot_s=tpot_s)
        assert kept.admit_next(0.0) is first, "it is alone"
        second = paced(kept, "b", range(10, 14), tpot_s=tpot_s)
        assert (kept.admit_next(0.0) is None) == waits
        assert told(kept, "defer") == ([("pace", {"waiting": 1})] if waits else [])
        if waits:
            kept.retire(computed(kept, first))
            kept.take_offloaded()
            assert kept.admit_next(0.0) is second


def test_a_reply_under_way_is_kept_out_by_no_pace():
    kept = holdings(batcher_rules(keep_pace=True))
    paced(kept, "a", range(4), tpot_s=0.00127)
    kept.admit_next(0.0)
    lost = paced(kept, "b", range(10, 14), tpot_s=0.00127)
    lost.task = replace(lost.task, replied=1)
    assert kept.admit_next(0.0) is lost


def test_who_waits_for_pace_is_kept_no_place():
    """Another that is in time only if it goes first is chosen when there is room again."""
    kept = holdings(batcher_rules(order="on-time", keep_pace=True))
    first = paced(kept, "a", range(4), tpot_s=0.00127)
    kept.admit_next(0.0)
    paced(kept, "b", range(10, 26), tpot_s=0.00127)
    assert kept.admit_next(0.0) is None
    urgent = paced(kept, "c", range(50, 54), tpot_s=0.00127)
    urgent.task = replace(urgent.task, slo=Slo(0.0015, 0.00127))
    kept.retire(computed(kept, first))
    kept.take_offloaded()
    assert kept.admit_next(0.0) is urgent


def test_a_task_that_overtakes_older_ones_says_why():
    kept = holdings(batcher_rules(order="on-time"))
    queued(kept, "long", range(32))
    urgent = queued(kept, "urgent", range(4))
    urgent.task = replace(urgent.task, slo=Slo(0.002, None))
    assert kept.admit_next(0.0) is urgent
    assert told(kept, "order") == [("deadlines", {"passed_over": 1})]
    kept.retire(computed(kept, urgent))
    kept.take_offloaded()
    assert kept.admit_next(0.0) is not None
    assert told(kept, "order") == []


@pytest.mark.parametrize(("host_pages", "outcome"), [(0, "dropped"), (20, "offloaded")])
def test_evictions_are_counted_by_session_and_by_what_became_of_the_pages(host_pages, outcome):
    kept = holdings(host_pages=host_pages)
    over(kept, "a", range(8))
    over(kept, "b", range(50, 54))
    admitted(kept, "crowd", range(100, 136), forecast=0)
    kept.take_offloaded()
    assert told(kept, "evict") == []
    kept._decisions.tell_evicted()
    kept._decisions.tell_evicted()
    evicted = [d for d in kept._decisions.take() if d.kind == "evict"]
    assert {d.session for d in evicted} <= {"session of a", "session of b"}
    assert {d.reason for d in evicted} == {outcome}
    pages: list[Any] = [d.details["pages"] for d in evicted]
    assert sum(pages) == 2  # ten pages: nine for the crowd


def test_a_page_that_host_memory_has_already_is_not_copied_and_not_dropped():
    slow = replace(batcher_rules(), host_link=replace(batcher_rules().host_link, latency_s=1.0))
    kept = holdings(slow, host_pages=40)
    crowded(kept)
    over(kept, "b", [*range(12), 7])  # computed again, beside its copy
    kept._decisions.tell_evicted()
    kept._decisions.take()
    admitted(kept, "crowd again", range(200, 236), forecast=0)
    session = "session of b"
    copied = {page for page, _ in kept.take_offloaded()}
    kept._decisions.tell_evicted()
    evicted = [d for d in kept._decisions.take() if d.kind == "evict" and d.session == session]
    became = {d.reason: d.details["pages"] for d in evicted}
    assert became == {"offloaded": 2, "dropped": 1}, "but for its part-filled page"
    assert len(copied) == 6, "those of the first crowd"


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
