"""What is computed and what is moved in a conversation? Only what is new, counted by hand."""

from dataclasses import replace

import pytest

from serving.core.batcher import Batcher
from serving.messages import Completed, Dropped, WorkerId
from tests.support.fake_fleet import FakeFleet, Reply
from tests.support.shape import Shape
from tests.support.turns import make_turn

COLOCATED = Shape(decode_workers=2, max_model_len=128, num_pages=100)
DISAGGREGATED = replace(COLOCATED, prefill_workers=2, prefill_pages=100)
SHAPES = pytest.mark.parametrize("shape", [COLOCATED, DISAGGREGATED], ids=["colocated", "pd"])
P0, D0 = WorkerId("p0"), WorkerId("d0")


def pages(tokens: int) -> int:
    return -(-tokens // 4)


def talk(fleet: FakeFleet, name: str, prompt: list[int], **turn: object) -> Reply:
    """One turn to its end."""
    reply = fleet.submit(make_turn(name, prompt, **turn))  # type: ignore[arg-type]
    fleet.run()
    fleet.check_empty()
    return reply


def start(shape: Shape) -> FakeFleet:
    fleet = FakeFleet(shape)
    fleet.run()
    return fleet


def moved(fleet: FakeFleet, sender: str, to: str) -> int:
    """Pages that one worker has sent to another so far."""
    sends = fleet.workers[WorkerId(sender)].sent
    return sum(len(send.pages) for send in sends if send.to == to)


@SHAPES
@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
def test_from_turn_two_on_only_new_tokens_are_computed(shape: Shape, chunk_tokens: int):
    fleet = start(replace(shape, chunk_tokens=chunk_tokens))
    history: list[int] = []
    held_len = 0
    for i, new in enumerate([7, 1, 4, 2, 5, 3, 8, 1]):
        prompt = [*history, *range(10 * i, 10 * i + new)]
        reply = talk(fleet, f"t{i}", prompt, max_tokens=5 + i % 4, seed=i)
        assert reply.computed == len(prompt) - held_len
        held_len = len(prompt) + len(reply.tokens) - 1
        history = [*prompt, *reply.tokens]
    ran = sum(worker.executor.tokens_run for worker in fleet.workers.values())
    assert ran <= held_len + 8 * 2, "more than every token once and what rows over-ran"


@SHAPES
def test_a_reply_of_one_token_is_reused_like_any_other(shape: Shape):
    fleet = start(shape)
    first = talk(fleet, "a", [1, 2, 3, 4, 5], max_tokens=1)
    second = talk(fleet, "b", [1, 2, 3, 4, 5, *first.tokens, 9, 9], max_tokens=1)
    assert second.computed == 3


@SHAPES
def test_a_history_that_was_rewritten_is_reused_up_to_the_change(shape: Shape):
    fleet = start(replace(shape, decode_workers=1))
    prompt = list(range(20))
    talk(fleet, "a", prompt)
    changed = [*prompt[:13], 99, *prompt[14:]]
    assert talk(fleet, "b", changed, session="other").computed == 20 - 12


@SHAPES
def test_a_cancelled_reply_is_reused_as_far_as_it_came(shape: Shape):
    fleet = start(shape)
    prompt = list(range(9))
    reply = fleet.submit(make_turn("a", prompt, max_tokens=40))
    while len(reply.samples) < 6:
        fleet.round()
    fleet.cancel(reply.turn.id, kept=6)
    fleet.run()
    fleet.check_empty()
    assert reply.end is not None
    assert reply.end.outcome == Dropped("client_left")
    second = talk(fleet, "b", [*prompt, *reply.tokens[:6], 1, 2])
    # The row ran on until it was told; a page that it filled beyond token 6 has another name.
    assert second.computed <= 3 + shape.page_size
    owners = {d.choice for d in fleet.decisions if d.kind == "place"}
    assert len(owners) == 1, "the session was found again by its tokens"


def test_a_hand_off_moves_exactly_the_pages_that_the_owner_lacks():
    fleet = start(DISAGGREGATED)
    first = talk(fleet, "a", list(range(10)), max_tokens=7)
    assert moved(fleet, "p0", "d0") == pages(10)
    assert moved(fleet, "d0", "p0") == 0
    # The owner holds 10 + 7 - 1 = 16 tokens; the prefill worker still has the 10 it computed.
    prompt = [*range(10), *first.tokens, 1, 2, 3]
    talk(fleet, "b", prompt, max_tokens=2)
    sender = "p0" if moved(fleet, "p0", "d0") > pages(10) else "p1"
    known = 10 if sender == "p0" else 0
    assert moved(fleet, "d0", sender) == pages(16) - known // 4
    before = pages(10) if sender == "p0" else 0
    assert moved(fleet, sender, "d0") == before + pages(len(prompt)) - 16 // 4


def test_nothing_is_pulled_that_the_prefill_worker_has():
    fleet = start(replace(DISAGGREGATED, prefill_workers=1))
    system = list(range(12))
    talk(fleet, "a", [*system, 1], max_tokens=3)
    busy = fleet.submit(make_turn("busy", [*system, 3], max_tokens=40))
    fleet.run_until(lambda: bool(busy.samples))
    other = talk(fleet, "b", [*system, 2], max_tokens=3)
    owners = [d.choice for d in fleet.decisions if d.kind == "place"]
    assert owners == ["d0", "d0", "d1"], "the prefix decides until the load does"
    assert other.computed == 1
    assert moved(fleet, "d1", "p0") == 0
    assert moved(fleet, "p0", "d1") == pages(13)


def test_a_system_prompt_at_the_owner_does_not_travel_again():
    fleet = start(replace(DISAGGREGATED, prefill_workers=1, decode_workers=1))
    system = list(range(12))
    talk(fleet, "a", [*system, 1], max_tokens=3)
    before = moved(fleet, "p0", "d0")
    talk(fleet, "b", [*system, 2], max_tokens=3)
    assert moved(fleet, "p0", "d0") - before == 1


@pytest.mark.parametrize("history", range(1, 10))
@pytest.mark.parametrize("new", range(1, 6))
def test_every_page_edge_of_history_and_append_moves_the_right_pages(history: int, new: int):
    shape = replace(DISAGGREGATED, prefill_workers=1, decode_workers=1, chunk_tokens=3)
    fleet = start(shape)
    first = talk(fleet, "a", list(range(history)), max_tokens=3)
    there, back = moved(fleet, "p0", "d0"), moved(fleet, "d0", "p0")
    held = history + 3 - 1
    prompt = [*range(history), *first.tokens, *range(50, 50 + new)]
    assert talk(fleet, "b", prompt, max_tokens=2).computed == len(prompt) - held
    assert moved(fleet, "p0", "d0") - there == pages(len(prompt)) - held // 4
    assert moved(fleet, "d0", "p0") - back == pages(held) - history // 4


@SHAPES
def test_a_turn_that_scores_its_prompt_computes_all_of_it(shape: Shape):
    fleet = start(shape)
    prompt = list(range(13))
    talk(fleet, "a", prompt)
    scored = talk(fleet, "b", prompt, prompt_logprobs=0, logprobs=0)
    assert scored.computed == 13
    assert scored.prompt is not None
    assert len(scored.prompt) == 13
    assert talk(fleet, "c", prompt).computed < 13


@SHAPES
def test_tenants_do_not_share_pages(shape: Shape):
    fleet = start(shape)
    prompt = list(range(13))
    talk(fleet, "a", prompt, salt="x")
    assert talk(fleet, "b", prompt, salt="y").computed == 13
    assert talk(fleet, "c", prompt, salt="x").computed == 1


@SHAPES
def test_a_stop_token_that_comes_first_is_the_whole_reply(shape: Shape):
    fleet = start(shape)
    prompt = list(range(5))
    token = talk(fleet, "a", prompt, max_tokens=1).tokens[0]
    reply = talk(fleet, "b", prompt, stop_ids=(token,))
    assert reply.tokens == [token]
    assert reply.end is not None
    assert reply.end.outcome == Completed(reply.reason)
    assert reply.reason == "stop"


@SHAPES
def test_a_stop_token_outranks_the_length_when_both_fall_on_one_token(shape: Shape):
    fleet = start(shape)
    prompt = list(range(5))
    tokens = talk(fleet, "a", prompt, max_tokens=3).tokens
    last = next(t for t in reversed(tokens) if tokens.index(t) == 2)
    reply = talk(fleet, "b", prompt, max_tokens=3, stop_ids=(last,))
    assert (len(reply.tokens), reply.reason) == (3, "stop")


@SHAPES
def test_a_conversation_stays_with_its_owner(shape: Shape):
    fleet = start(shape)
    others = [talk(fleet, f"o{i}", [60 + i] * 3) for i in range(3)]
    first = talk(fleet, "a", [1, 2, 3])
    talk(fleet, "b", [1, 2, 3, *first.tokens, 4])
    placed = {d.turn: d.choice for d in fleet.decisions if d.kind == "place"}
    assert placed["a"] == placed["b"]  # type: ignore[index]
    assert len({placed[o.turn.id] for o in others}) == 2


def test_the_owner_never_computes_a_prompt_while_prefill_workers_live():
    fleet = start(DISAGGREGATED)
    for i in range(6):
        fleet.submit(make_turn(f"t{i}", list(range(i, i + 15)), max_tokens=4))
    fleet.run()
    for name in ("d0", "d1"):
        assert fleet.workers[WorkerId(name)].executor.largest_step <= DISAGGREGATED.max_rows


def test_held_pages_are_zero_but_the_cache_is_full_after_a_conversation():
    fleet = start(COLOCATED)
    talk(fleet, "a", list(range(17)))
    batcher: Batcher = fleet.workers[D0].batcher
    report = batcher.report()
    assert (report.pages_used, report.pages_cached) == (0, pages(17 + 8 - 1))
    assert (report.running, report.waiting, report.waiting_tokens) == (0, 0, 0)


def test_where_pages_run_out_a_conversation_that_goes_on_outlives_single_questions():
    """Its pages are older than those of the last questions, but only it has ever come back."""
    fleet = start(Shape(decode_workers=1, max_model_len=64, num_pages=21))
    replies: list[Reply] = []
    for i in range(12):
        replies.append(talk(fleet, f"talk {i}", [1] * 17, max_tokens=1, session="talk"))
        for other in range(4):
            talk(fleet, f"ask {i} {other}", [100 + 4 * i + other] * 17, max_tokens=1)
    assert replies[-1].computed == 1
