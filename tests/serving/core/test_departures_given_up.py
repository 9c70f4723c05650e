"""A row that was to leave stays at its worker, ends there, or is lost with it."""

from serving.core.plan import DropTransfer, SendPages
from serving.messages import (
    Cancel,
    Finished,
    MoveAbort,
    MoveFailed,
    Refused,
    Tick,
    TransferFailed,
    WorkerLost,
)
from serving.request import FinishReason
from tests.support.leaving import MOVE, Source, gone
from tests.support.one_worker import D0, LIMITS, P0, at, kinds, launched


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
