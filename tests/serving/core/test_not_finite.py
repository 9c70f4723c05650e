"""A row that computes no numbers ends its own turn, and leaves nothing that others could find."""

from dataclasses import replace

import pytest

from serving.messages import (
    NOT_FINITE,
    Cancel,
    Completed,
    Failed,
    Finished,
    PrefillDone,
    Refused,
    TaskId,
    Tokens,
    WorkerId,
)
from serving.request import TurnId
from tests.support.fake_client import Reply
from tests.support.fake_executor import NO_NUMBER
from tests.support.fake_fleet import FakeFleet
from tests.support.one_worker import P0, Worker, at, kinds, prefill, task
from tests.support.shape import Shape
from tests.support.turns import make_turn

BAD = 49  # a token that the fake model samples now and then


def again(name: str, tokens: range, worker: Worker) -> int:
    """Return how much of a prompt a new task finds."""
    worker.on(prefill(task(name, tokens)))
    return worker.launch().chunks[0].start


def test_a_chunk_without_numbers_ends_its_turn_and_is_not_found():
    worker = Worker()
    work = task("a", range(12))
    worker.on(prefill(work))
    worker.complete(worker.launch(), 0)
    worker.on(prefill(task("b", range(50, 52))))
    plan = worker.launch()
    assert [len(chunk.tokens) for chunk in plan.chunks] == [4, 2]
    ahead = worker.launch()
    assert ahead.num_decode == 2, "both rows ride on before the result is known"
    out = worker.complete(plan, 7, 8, broken_chunks=(0,))
    assert out[0] == Refused(P0, work.id, NOT_FINITE, 12)
    assert at(out, 1, PrefillDone).task.turn == "b"
    out = worker.complete(ahead, 7, 9)
    assert [event.tasks for event in out if isinstance(event, Tokens)] == [[TaskId(TurnId("b"), 0)]]
    assert again("c", range(12), worker) == 8, "what the step before computed is as good as any"


def test_a_row_without_numbers_ends_its_turn_at_the_token_before():
    worker = Worker()
    for name, tokens in (("a", range(6)), ("b", range(50, 52))):
        worker.on(prefill(task(name, tokens, max_tokens=9)))
    worker.complete(worker.launch(), 6, 52)
    worker.complete(worker.launch(), 7, 53)
    out = worker.complete(worker.launch(), 8, 54, broken_rows=(0,))
    assert out[0] == Refused(P0, TaskId(TurnId("a"), 0), NOT_FINITE, 6)
    assert at(out, 1, Tokens).tasks == [TaskId(TurnId("b"), 0)]
    assert again("c", range(20), worker) == 7, "6 of the prompt, and the token fed before"


def test_a_row_that_has_left_is_not_ended_again():
    worker = Worker()
    work = task("a", range(12))
    worker.on(prefill(work))
    plan = worker.launch()
    worker.on(Cancel(work.id))
    assert worker.complete(plan, 0, broken_chunks=(0,)) == []
    assert again("b", range(12), worker) == 0, "nobody has seen whether it was sound"


@pytest.mark.parametrize("known", [False, True])
def test_others_find_a_chunk_once_it_has_been_computed(known: bool):
    worker = Worker()
    worker.on(prefill(task("a", range(12))))
    plan = worker.launch()
    if known:
        worker.complete(plan, 0)
    worker.on(prefill(task("b", range(12))))
    assert [chunk.start for chunk in worker.launch().chunks] == [8, 8 if known else 0]


def test_the_last_token_may_be_the_end_for_any_reason():
    """A reply that is over is over, whatever its row would have computed next."""
    worker = Worker()
    worker.on(prefill(task("a", range(4), max_tokens=2)))
    worker.complete(worker.launch(), 5)
    out = worker.complete(worker.launch(), 6)
    assert kinds(out) == ["Tokens", "Finished"]
    assert at(out, 1, Finished).reply_len == 2
    assert worker.step() == []


# ---- a whole deployment -------------------------------------------------------------------------

COLOCATED = Shape(decode_workers=2, max_model_len=128, num_pages=80, prefill_pages=80)
REMOTE = replace(COLOCATED, prefill_workers=2, route="pd-full")
MOVING = replace(REMOTE, rebalance="current", tick_rounds=20, reserve_tokens=0)
SHAPES = {"colocated": COLOCATED, "remote": REMOTE, "moving": MOVING}
PROMPTS = [
    list(range(20)),
    [*range(10), BAD, *range(11, 20)],
    [*range(10), BAD, 3],
    [BAD],
    [*range(30), BAD],
    list(range(5)),
]


def deployment(shape: Shape, seed: int) -> FakeFleet:
    fleet = FakeFleet(shape, seed=seed)
    for worker in fleet.workers.values():
        worker.executor.not_finite = frozenset({BAD})
    fleet.run()
    return fleet


def told(reply: Reply) -> int | None:
    """How many tokens the client gets before its turn fails; None if it does not."""
    if BAD in reply.turn.tokens:
        return 0
    fed = reply.expected[:-1]
    return fed.index(BAD) + 1 if BAD in fed else None


def check(fleet: FakeFleet) -> tuple[int, int]:
    """Every turn has ended as it should; returns how many failed in the prompt and in the reply."""
    fleet.check_empty()
    failed = [0, 0]
    for reply in fleet.replies.values():
        assert reply.end is not None
        tokens = told(reply)
        if tokens is None:
            assert isinstance(reply.end.outcome, Completed)
            continue
        assert isinstance(reply.end.outcome, Failed)
        assert reply.end.outcome.code == NOT_FINITE
        assert len(reply.samples) == tokens
        failed[tokens > 0] += 1
    for name, worker in fleet.workers.items():
        pool, device = worker.batcher.holdings.pool, worker.executor
        for page in (*pool._page_of.values(), *pool._part_of):
            _, part = pool._part_of.get(page, (b"", device.kv[page]))
            seen = device.kv[page][: len(part)]
            assert NO_NUMBER not in seen, f"{name} keeps what is no number"
    assert not [d for d in fleet.decisions if d.kind == "retry" and d.reason == NOT_FINITE]
    return failed[0], failed[1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(3))
def test_such_turns_fail_alone_and_what_they_leave_is_sound(shape: str, seed: int):
    fleet = deployment(SHAPES[shape], seed)
    for times in range(2):  # the second time with what the first has left
        for number, tokens in enumerate(PROMPTS):
            turn = make_turn(f"{times} {number}", tokens, max_tokens=40, seed=number)
            fleet.submit(turn)
        fleet.run()
    in_prompt, in_reply = check(fleet)
    assert in_prompt == 8
    assert in_reply >= 2


def test_a_client_that_leaves_takes_nothing_unsound_into_the_cache():
    for seed in range(20):
        fleet = deployment(REMOTE, seed)
        fleet.submit(make_turn("a", PROMPTS[1], max_tokens=4))
        for _ in range(8 + seed):
            fleet.round()
        fleet.cancel(TurnId("a"))
        fleet.run()
        reply = fleet.replies.pop(TurnId("a"))
        assert reply.end is not None
        fleet.submit(make_turn("b", PROMPTS[1], max_tokens=4))
        fleet.run()
        assert check(fleet) == (1, 0)


def test_its_session_may_go_on_where_it_is():
    fleet = deployment(REMOTE, 0)
    fleet.submit(make_turn("a", PROMPTS[1], max_tokens=4, session="s"))
    fleet.run()
    fleet.submit(make_turn("b", range(10), max_tokens=4, session="s"))
    fleet.run()
    check(fleet)
    places = {d.choice for d in fleet.decisions if d.kind == "place"}
    assert places <= {WorkerId("d0"), WorkerId("d1")}
