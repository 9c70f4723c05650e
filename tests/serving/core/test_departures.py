"""A row leaves a worker message by message: asked, copying, stopped, gone; or it stays."""

import pytest

from serving.core.plan import DropTransfer, Launch, SendPages, StepPlan
from serving.core.worker_task import Stage
from serving.messages import (
    Ack,
    Cancel,
    Finished,
    Granted,
    LastStep,
    MoveAbort,
    MoveFailed,
    MoveGoesOn,
    MoveOut,
    PagesReady,
    Refused,
    Task,
    Tick,
    ToWorker,
    TransferFailed,
    WorkerLost,
)
from serving.request import FinishReason
from tests.support.one_worker import D0, LIMITS, P0, Worker, at, kinds, launched, prefill, task

MOVE = 3
ROW = 10  # prompt tokens: two full pages, and a half


class Source(Worker):
    """A worker at which one row decodes; its steps are completed as soon as they are launched."""

    def __init__(self, *, max_tokens: int = 50, move_pages: int = 1) -> None:
        super().__init__(D0, move_pages=move_pages)
        self.work: Task = task("a", range(ROW), max_tokens=max_tokens, forecast=0)
        self.announced: list[PagesReady] = []
        self.on(prefill(self.work))
        while not self.num_decoding:
            self.turn()

    @property
    def num_decoding(self) -> int:
        return len(self.batcher.holdings.rows.active())

    def turn(self) -> list:
        """One step: what is planned beside it, then what its results bring."""
        outputs = self.step()
        plans = [output.plan for output in outputs if isinstance(output, Launch)]
        return outputs + (self.end(plans[0]) if plans else [])

    def end(self, plan: StepPlan) -> list:
        return self.complete(plan, *([33] * (plan.num_decode + len(plan.chunks))))

    def ask(self, move: int = MOVE) -> list:
        return self.on(MoveOut(self.work.id, P0, move))

    def grant(self, held_len: int = 0, move: int = MOVE) -> list:
        return self.on(Granted(self.work.id, P0, held_len, move))


def ready(outputs: list) -> list[PagesReady]:
    messages = [o.message for o in outputs if isinstance(o, ToWorker)]
    return [message for message in messages if isinstance(message, PagesReady)]


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


def gone() -> Source:
    source = Source()
    source.ask()
    source.grant(held_len=8)
    assert ready(source.turn())[-1].reply is not None
    return source


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


# ---- it stays -----------------------------------------------------------------------------------


def failed(reason: str, source: Source, move: int = MOVE) -> MoveFailed:
    return MoveFailed(D0, source.work.id, move, reason)


def test_a_move_that_is_called_off_leaves_the_row_decoding():
    source = Source()
    source.ask()
    source.grant()
    source.turn()
    assert source.on(MoveAbort(source.work.id, MOVE, "no_room")) == [failed("no_room", source)]
    assert kinds(source.turn()) == ["Launch", "Tokens"]


def test_a_row_called_back_at_its_stop_goes_on_where_it_stood():
    source = Source()
    source.ask()
    source.grant(held_len=8)
    outputs = source.step()
    last = at(outputs, 1, SendPages)
    assert source.num_decoding == 0
    assert source.on(MoveAbort(source.work.id, MOVE, "no_room")) == [
        DropTransfer(last.transfer),
        failed("no_room", source),
    ]
    assert source.num_decoding == 1
    source.end(launched(outputs))
    assert kinds(source.turn()) == ["Launch", "Tokens"]


def test_a_request_to_stay_that_is_about_another_move_stops_nothing():
    source = Source()
    source.ask()
    assert source.on(MoveAbort(source.work.id, MOVE - 1, "timeout")) == [
        failed("timeout", source, MOVE - 1)
    ]
    source.grant()
    assert "SendPages" in kinds(source.turn())


def test_a_row_that_is_gone_cannot_stay():
    source = gone()
    assert source.on(MoveAbort(source.work.id, MOVE, "no_room")) == [
        Refused(D0, source.work.id, "moved_away")
    ]


def test_a_row_that_does_not_decode_cannot_leave():
    source = Source()
    source.on(Cancel(source.work.id))
    assert source.ask() == [failed("not_decoding", source)]


def test_a_lost_destination_gives_the_row_back():
    source = Source()
    source.ask()
    assert source.on(WorkerLost(P0)) == [failed("worker_lost", source)]
    assert kinds(source.turn()) == ["Launch", "Tokens"]


def test_a_move_that_takes_too_long_is_given_up():
    source = Source()
    source.ask()
    source.now = LIMITS.transfer_timeout_s
    assert source.on(Tick()) == [failed("timeout", source)]


def test_a_copy_that_breaks_keeps_the_row():
    source = Source()
    source.ask()
    source.grant()
    send = at(source.step(), 1, SendPages)
    broken = TransferFailed(source.work.id, send.transfer, "link_down")
    assert source.on(broken) == [failed("transfer_failed", source)]


def test_a_row_whose_last_token_is_planned_ends_here():
    source = Source(max_tokens=4)
    source.ask()
    plan = source.launch()
    while source.num_decoding:
        source.end(plan)
        plan = source.launch()
    source.grant(held_len=12)
    assert source.step() == [failed("ending", source)]
    outputs = source.end(plan)
    assert outputs[-1] == Finished(D0, source.work.id, FinishReason.LENGTH, 4)
    assert source.is_empty()


def test_a_row_that_ends_while_it_leaves_is_over():
    source = Source(max_tokens=3)
    source.ask()
    outputs = [output for _ in range(3) for output in source.turn()]
    assert "Finished" in kinds(outputs)
    assert source.is_empty()
    assert len(source.batcher.departures) == 0


def test_a_client_that_leaves_takes_the_row_with_it():
    source = Source()
    source.ask()
    source.grant(held_len=8)
    send = at(source.step(), 1, SendPages)
    assert source.on(Cancel(source.work.id)) == [DropTransfer(send.transfer)]
    assert source.is_empty()
