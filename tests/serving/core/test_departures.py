"""A row leaves a worker message by message: asked, copying, stopped, gone; or it stays."""

import pytest

from serving.core.plan import SendPages
from serving.core.worker_task import Stage
from serving.messages import (
    Ack,
    LastStep,
    MoveAbort,
    MoveGoesOn,
    Refused,
    Tick,
)
from tests.support.leaving import MOVE, ROW, Source, gone, ready
from tests.support.one_worker import D0, LIMITS, P0, at, kinds, launched


def test_a_row_that_is_asked_decodes_on_until_it_is_granted():
    source = Source()
    assert source.ask() == []
    assert kinds(source.turn()) == ["Launch", "Tokens"]


def test_full_pages_go_a_few_a_step_and_the_last_ones_with_the_stop():
    source = Source()
    source.ask()
    source.grant()
    first, second = source.turn(), source.turn()
    assert kinds(first) == ["Launch", "SendPages", "PagesReady", "Tokens"]
    (pages,) = ready(first)
    assert (pages.first_page, pages.num_pages, pages.stop, pages.reply) == (0, 1, 4, None)
    assert pages.move == MOVE
    # The second full page is the last: with it the row stops, and what is behind it is copied.
    assert kinds(second) == [
        "Launch",
        "SendPages",
        "PagesReady",
        "SendPages",
        "LastStep",
        "Tokens",
        "PagesReady",
    ]
    last = ready(second)[1]
    assert (last.first_page, last.num_pages) == (2, 1)
    assert last.stop == ROW + len(last.reply or ()) - 1
    assert source.step() == []


def test_pages_that_the_destination_holds_stay():
    source = Source()
    source.ask()
    source.grant(held_len=6)
    (pages, last) = ready(source.turn())
    assert (pages.first_page, last.first_page) == (1, 2)


def test_a_grant_may_come_before_the_row_is_asked():
    source = Source()
    assert source.grant() == []
    source.ask()
    assert "SendPages" in kinds(source.turn())


@pytest.mark.parametrize("move", [MOVE - 1, MOVE + 1])
def test_a_grant_of_another_move_counts_for_nothing(move: int):
    source = Source()
    source.grant(move=move)
    source.ask()
    source.grant(move=move)
    assert kinds(source.turn()) == ["Launch", "Tokens"]


def test_the_announcement_waits_for_the_steps_in_flight():
    """Two steps are launched when the row stops: the tokens of both go with it."""
    source = Source()
    source.ask()
    before = source.launch()
    source.grant(held_len=8)
    outputs = source.step()
    assert kinds(outputs) == ["Launch", "SendPages", "LastStep"]
    assert source.num_decoding == 0, "the step just launched is its last"
    assert ready(source.end(before)) == []
    (last,) = ready(source.end(launched(outputs)))
    assert (last.reply, last.stop) == ((33, 33, 33), ROW + 2)
    assert last.computed, "the steps before its copy are over"


def told_after(seconds: float, *, ahead: int) -> float:
    """In how many seconds the last tokens are to come, that long after the first step's launch."""
    source = Source()
    source.ask()
    for _ in range(ahead):
        source.launch()
    source.grant(held_len=8)
    source.now += seconds
    told = at(source.step(), 2, LastStep)
    assert (told.task, told.move) == (source.work.id, MOVE)
    return told.in_s


def test_the_destination_is_told_when_the_last_tokens_come():
    one, two = told_after(0.0, ahead=0), told_after(0.0, ahead=1)
    assert two == pytest.approx(2 * one, rel=0.02)  # a step of one token more
    assert told_after(0.0001, ahead=1) == pytest.approx(two - 0.0001)


def test_the_destination_is_told_anew_after_each_step_but_the_last():
    source = Source()
    source.ask()
    before = source.launch()
    source.grant(held_len=8)
    outputs = source.step()
    first = at(outputs, 2, LastStep)
    source.now += 0.4 * first.in_s  # the step was quicker than predicted
    told = source.end(before)
    assert kinds(told) == ["Tokens", "LastStep"]
    again = at(told, 1, LastStep)
    assert (again.task, again.move) == (first.task, first.move)
    assert again.in_s == pytest.approx(first.in_s / 2, rel=0.25)
    assert kinds(source.end(launched(outputs))) == ["Tokens", "PagesReady"]


def test_the_row_decodes_on_behind_a_large_copy():
    """Its destination is busy with that copy for a while."""
    source = Source(move_pages=2)
    source.ask()
    source.grant()
    first = source.turn()
    assert kinds(first) == ["Launch", "SendPages", "PagesReady", "Tokens"]
    assert ready(first)[0].num_pages == 2
    second = source.turn()
    assert [len(o.pages) for o in second if isinstance(o, SendPages)] == [1]
    assert ready(second)[-1].reply is not None


def test_a_row_that_is_gone_holds_its_pages_until_all_is_confirmed():
    source = Source()
    source.ask()
    source.grant()
    sent = [pages.transfer for _ in range(2) for pages in ready(source.turn())]
    assert source.num_held > 0
    assert source.batcher.report().running == 0, "its slot is free at once"
    for transfer in sent:
        assert not source.is_empty()
        source.on(Ack(P0, source.work.id, transfer))
    assert source.is_empty()


def test_what_nobody_confirms_is_given_up_at_its_deadline_and_told():
    source = gone()
    source.now = LIMITS.transfer_timeout_s
    assert source.on(Tick()) == [Refused(D0, source.work.id, "transfer_failed", ROW)]
    assert source.is_empty()


def test_the_last_pages_have_as_long_as_those_of_a_prompt_however_long_the_copies_took():
    timeout_s = LIMITS.transfer_timeout_s
    source = Source()
    source.ask()
    source.grant(held_len=8)
    plan = source.launch()
    source.now = timeout_s - 0.01
    assert ready(source.end(plan))[-1].reply is not None
    source.now = timeout_s
    assert source.on(Tick()) == []
    source.now = 2 * timeout_s - 0.01
    assert source.on(Tick()) == [Refused(D0, source.work.id, "transfer_failed", ROW)]


def test_a_grant_and_each_confirmation_are_signs_of_life_that_the_coordinator_hears_of():
    timeout_s = LIMITS.transfer_timeout_s
    source = Source()
    source.ask()
    source.now = 0.9 * timeout_s
    assert source.grant() == [MoveGoesOn(D0, source.work.id, MOVE)]
    sent = []
    for count in range(2, 5):
        sent += [pages.transfer for pages in ready(source.turn())]
        source.now = 0.9 * count * timeout_s
        assert source.on(Tick()) == []
        if count < 4:
            ack = Ack(P0, source.work.id, sent[count - 2])
            assert source.on(ack) == [MoveGoesOn(D0, source.work.id, MOVE)]
    assert len(sent) == 3, "the row is gone, and one of its payloads was not confirmed"
    source.now = 3.7 * timeout_s
    assert source.on(Tick()) == [Refused(D0, source.work.id, "transfer_failed", ROW)]


def test_a_confirmation_of_a_row_that_stays_is_no_sign_of_life():
    source = Source()
    source.ask()
    source.grant()
    (pages,) = ready(source.turn())
    source.on(MoveAbort(source.work.id, MOVE, "no_room"))
    assert source.on(Ack(P0, source.work.id, pages.transfer)) == []


def at_an_edge() -> Source:
    """A row that waits for a page: its KV ends where its last one does."""
    source = Source()
    holdings = source.batcher.holdings
    (entry,) = holdings.tasks.values()
    assert entry.slot is not None
    while holdings.rows.position(entry.slot) < 4 * LIMITS.page_size:
        source.turn()
    holdings.rows.pause(entry.slot)
    return source


def copies(source: Source) -> list[int]:
    """How many pages go out at each look, the last ones with the stop."""
    looks = [source.batcher.departures.advance(0.0, source.now) for _ in range(5)]
    source.announced = [pages for look in looks for pages in ready(look)]
    assert all(output.pages for look in looks for output in look if isinstance(output, SendPages))
    return [len(o.pages) for look in looks for o in look if isinstance(o, SendPages)]


def test_a_row_that_waits_for_a_page_takes_its_last_one_along():
    source = at_an_edge()
    source.ask()
    source.grant()
    (entry,) = source.batcher.holdings.tasks.values()
    assert copies(source) == [1, 1, 1, 1]
    (last,) = [pages for pages in source.announced if pages.reply is not None]
    assert not last.computed, "a step of others runs before its copy"
    assert entry.stage is Stage.SENDING, "it is announced"
    assert source.num_held == 4, "until it is confirmed"


def test_a_row_all_of_which_is_there_already_goes_with_its_next_token():
    source = at_an_edge()
    source.ask()
    source.grant(held_len=4 * LIMITS.page_size)
    assert copies(source) == []
    (entry,) = source.batcher.holdings.tasks.values()
    assert entry.slot is not None
    assert source.batcher.holdings.extend(entry, 5)
    source.batcher.holdings.rows.resume(entry.slot)
    assert [m.reply is not None for _ in range(2) for m in ready(source.turn())] == [True]
