"""The bad cases that the scheduler's specification names, one test each.

Where the rest of them stand: a stage of every path in which a turn is cancelled or a worker lost in
test_stages; moves whose destination is full or fills up, whose row ends midway, whose copies break
in test_moves; whose row is preempted, or is never called off, in test_move_losses; messages that
come when their move is over in test_late_messages; a transfer that
breaks in test_invariants; a reserve that proves too small, and a full pool, in test_progress;
messages about tasks that are gone, one by one, in test_handoff; contradictory targets and prompts
without a token in tests/serving/api.
"""

from dataclasses import replace

import pytest

from serving.messages import Dropped, Role, WorkerId
from serving.request import TurnId
from tests.support.fake_fleet import FakeFleet, Reply
from tests.support.shape import Shape
from tests.support.turns import make_turn

P0, D0, D1 = (WorkerId(name) for name in ("p0", "d0", "d1"))
A = TurnId("a")
COLOCATED = Shape(decode_workers=2, max_model_len=128, num_pages=80, prefill_pages=80)
REMOTE = replace(COLOCATED, prefill_workers=1)
SHAPES = pytest.mark.parametrize("shape", [COLOCATED, REMOTE], ids=["colocated", "remote"])
HISTORY = list(range(20))


def submit(fleet: FakeFleet, name: str, tokens: list[int], **more: object) -> Reply:
    return fleet.submit(make_turn(name, tokens, **more))  # type: ignore[arg-type]


def talk(fleet: FakeFleet, name: str, tokens: list[int], **more: object) -> Reply:
    """Ask and wait for the whole reply."""
    reply = submit(fleet, name, tokens, **more)
    fleet.complete_all()
    return reply


def owners(fleet: FakeFleet, name: str) -> list[str]:
    return [d.choice for d in fleet.decisions if d.kind == "place" and d.turn == name]


def retries(fleet: FakeFleet) -> list[str]:
    return [d.reason for d in fleet.decisions if d.kind == "retry"]


# ---- the owner ----------------------------------------------------------------------------------


@SHAPES
def test_an_owner_that_has_evicted_the_history_computes_it_again(shape: Shape):
    fleet = FakeFleet.started(replace(shape, route="local"))
    first = talk(fleet, "a", HISTORY, session="s")
    for worker in fleet.workers.values():
        worker.batcher.holdings.pool.clear_cached()
    fleet.advance(0.0)  # whatever a worker does next tells what is gone
    fleet.run()
    prompt = [*HISTORY, *first.tokens, 1]
    again = talk(fleet, "c", prompt, session="s")
    assert again.computed == len(prompt)


@SHAPES
def test_an_eviction_sends_an_appended_turn_to_a_prefill_worker_again(shape: Shape):
    fleet = FakeFleet.started(replace(shape, route="local", decode_workers=1, num_pages=33))
    first = talk(fleet, "a", HISTORY, session="s")
    prompt = [*HISTORY, *first.tokens, 1]
    second = talk(fleet, "b", prompt, session="s")
    assert second.computed <= 2, "appended at its owner, which holds the history"
    talk(fleet, "large", [90] * 100, max_tokens=28, session="other")  # takes all pages
    prompt += [*second.tokens, 1]
    talk(fleet, "c", prompt, session="s")
    reasons = [d.reason for d in fleet.decisions if d.kind == "route" and d.turn == "c"]
    assert reasons == ["history_lost" if shape.prefill_workers else "no_prefill_worker"]


@SHAPES
def test_a_turn_whose_owner_is_full_waits_there_and_completes(shape: Shape):
    fleet = FakeFleet.started(replace(shape, num_pages=33, reserve_tokens=1000))
    first = talk(fleet, "a", HISTORY, session="s")
    home = WorkerId(owners(fleet, "a")[0])
    submit(fleet, "large", [90] * 60, max_tokens=60, session="s")
    fleet.run_until(lambda: bool(fleet.replies[TurnId("large")].samples))
    reply = submit(fleet, "b", [*HISTORY, *first.tokens, 1], max_tokens=60, session="s")
    fleet.run_until(lambda: fleet.workers[home].batcher.report().waiting == 1)
    for _ in range(50):
        fleet.round()
    assert not reply.samples
    fleet.complete_all()
    assert owners(fleet, "b") == [home]


@pytest.mark.parametrize("role", [Role.PREFILL, None])
@SHAPES
def test_sessions_of_a_draining_owner_are_placed_anew(shape: Shape, role: Role | None):
    fleet = FakeFleet.started(shape)
    first = talk(fleet, "a", HISTORY, session="s")
    fleet.set_role(D0, role)
    fleet.run()
    talk(fleet, "b", [*HISTORY, *first.tokens, 1], session="s")
    assert (owners(fleet, "a"), owners(fleet, "b")) == (["d0"], ["d1"])


@pytest.mark.parametrize("rounds", range(0, 60, 4))
@SHAPES
def test_a_turn_survives_its_owner_draining_at_any_time(shape: Shape, rounds: int):
    fleet = FakeFleet.started(replace(shape, tick_rounds=20))
    submit(fleet, "a", HISTORY, max_tokens=30)
    for _ in range(rounds):
        fleet.round()
    fleet.set_role(D0, None)
    fleet.complete_all()
    assert retries(fleet) == []


@pytest.mark.parametrize("rounds", range(0, 60, 4))
def test_a_turn_survives_its_prefill_worker_draining_at_any_time(rounds: int):
    fleet = FakeFleet.started(replace(REMOTE, prefill_workers=2))
    submit(fleet, "a", HISTORY, max_tokens=9)
    for _ in range(rounds):
        fleet.round()
    fleet.set_role(P0, Role.DECODE)
    fleet.complete_all()
    assert retries(fleet) == []
    assert fleet.coordinator.fleet.workers[P0].role is Role.DECODE


# ---- transfers ----------------------------------------------------------------------------------


def asked_to_pull() -> FakeFleet:
    """The owner holds a history that the prefill worker asks for."""
    fleet = FakeFleet.started(REMOTE)
    first = talk(fleet, "first", HISTORY)
    fleet.workers[P0].batcher.holdings.pool.clear_cached()
    submit(fleet, "a", [*HISTORY, *first.tokens, 1, 2, 3])
    return fleet


@pytest.mark.parametrize("late", [False, True])
def test_a_hand_off_that_never_completes_begins_anew(late: bool):
    fleet = FakeFleet.started(REMOTE)
    fleet.held.add(("p0", "d0"))
    reply = submit(fleet, "a", HISTORY)
    fleet.run()
    assert len(reply.samples) == 1, "the first token needs no transfer"
    fleet.advance(REMOTE.transfer_timeout_s + 1)
    fleet.run_until(lambda: retries(fleet) == ["transfer_failed"])
    fleet.held.clear()
    if not late:
        fleet.drop("p0", "d0")
    fleet.complete_all()


@pytest.mark.parametrize("late", [False, True])
def test_a_pull_that_never_completes_is_computed_instead(late: bool):
    fleet = asked_to_pull()
    fleet.held.add(("d0", "p0"))
    fleet.run_until(lambda: ("d0", "p0") in fleet.channels)
    fleet.held.clear()
    fleet.run_until(lambda: ("p0", "d0") in fleet.channels)  # it asks
    fleet.held.add(("d0", "p0"))
    fleet.run()
    fleet.advance(REMOTE.transfer_timeout_s + 1)
    fleet.run_until(lambda: bool(fleet.replies[A].samples))
    fleet.held.clear()
    if not late:
        fleet.drop("d0", "p0")
    fleet.run()
    fleet.advance(REMOTE.transfer_timeout_s + 1)
    fleet.complete_all()
    assert fleet.replies[A].computed == fleet.replies[A].turn.prompt_len


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("copied", [0, 3, 100])
def test_a_move_that_never_completes_ends_by_its_deadlines(late: bool, copied: int):
    """It breaks before its stop, and the row stays; or behind it, and the turn begins anew."""
    fleet = FakeFleet.started(COLOCATED)
    submit(fleet, "a", HISTORY, max_tokens=100)
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 9)
    fleet.move(A, D1)
    sent = fleet.workers[D0].sent
    fleet.run_until(lambda: bool(sent))
    fleet.held.add(("d0", "d1"))
    if copied == 100:
        fleet.run()
    else:
        fleet.run_until(lambda: len(sent) >= copied)
    for _ in range(4):
        fleet.advance(COLOCATED.transfer_timeout_s + 1)
        for _ in range(40):
            fleet.round()
    fleet.held.clear()
    if not late:
        fleet.drop("d0", "d1")
    fleet.complete_all()


@pytest.mark.parametrize("seed", range(5))
def test_transfers_and_confirmations_that_come_twice_count_once(seed: int):
    fleet = FakeFleet.started(replace(REMOTE, chunk_tokens=5), seed=seed)
    fleet.twice = True
    first = talk(fleet, "first", HISTORY, max_tokens=9)
    fleet.workers[P0].batcher.holdings.pool.clear_cached()
    submit(fleet, "a", [*HISTORY, *first.tokens, *range(30, 40)], max_tokens=60)
    fleet.run_until(lambda: len(fleet.replies[A].samples) > 4)
    (home,) = owners(fleet, "a")
    fleet.move(A, D1 if home == "d0" else D0)
    fleet.complete_all()
    assert retries(fleet) == []
    assert [d.kind for d in fleet.decisions if d.kind.startswith("move")] == ["move", "moved"]


@pytest.mark.parametrize("path", ["hand-off", "pull", "move"])
def test_a_transfer_that_completes_after_its_turn_was_cancelled_is_let_go(path: str):
    fleet = asked_to_pull() if path == "pull" else FakeFleet.started(REMOTE)
    way = {"hand-off": ("p0", "d0"), "pull": ("d0", "p0"), "move": ("d0", "d1")}[path]
    if path != "pull":
        submit(fleet, "a", HISTORY, max_tokens=60)
    if path == "move":
        fleet.run_until(lambda: len(fleet.replies[A].samples) > 4)
        fleet.move(A, D1)
    sender = fleet.workers[WorkerId(way[0])]
    before = len(sender.sent)
    fleet.run_until(lambda: len(sender.sent) > before)
    fleet.held.add(way)
    for _ in range(30):
        fleet.round()
    fleet.cancel(A)
    fleet.run()
    assert way in fleet.channels, "nothing came late: the test shows nothing"
    fleet.held.clear()
    fleet.run()
    fleet.check_empty()
    end = fleet.replies[A].end
    assert end is not None
    assert isinstance(end.outcome, Dropped)


# ---- sessions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["s", None])
@pytest.mark.parametrize("kept", [0, 3, 8, 13, 25])
@SHAPES
def test_a_history_that_was_shortened_is_reused_as_far_as_it_goes(
    shape: Shape, kept: int, key: str | None
):
    fleet = FakeFleet.started(shape)
    first = talk(fleet, "a", HISTORY, session=key)
    prompt = [*[*HISTORY, *first.tokens][:kept], 77, 78]
    again = talk(fleet, "b", prompt, session=key)
    assert again.computed <= 2 + kept % shape.page_size
    if key is not None or kept >= shape.page_size:
        assert owners(fleet, "b") == owners(fleet, "a")


@pytest.mark.parametrize("changed", [0, 3, 8, 13, 25])
@SHAPES
def test_a_history_that_was_edited_is_reused_up_to_the_change(shape: Shape, changed: int):
    fleet = FakeFleet.started(shape)
    first = talk(fleet, "a", HISTORY, session="s")
    prompt = [*HISTORY, *first.tokens, 77]
    prompt[changed] = 99
    again = talk(fleet, "b", prompt, session="s")
    assert again.computed == len(prompt) - changed // shape.page_size * shape.page_size


@pytest.mark.parametrize("key", ["s", None])
@SHAPES
def test_two_turns_of_one_session_at_once_both_complete_at_its_owner(shape: Shape, key: str | None):
    fleet = FakeFleet.started(shape)
    first = talk(fleet, "a", HISTORY, session=key)
    history = [*HISTORY, *first.tokens]
    replies = [submit(fleet, f"b{i}", [*history, i], session=key, seed=i) for i in range(2)]
    fleet.complete_all()
    assert all(reply.computed <= 1 + shape.page_size for reply in replies)
    assert owners(fleet, "b0") == owners(fleet, "b1") == owners(fleet, "a")
    third = talk(fleet, "c", [*history, 1, *replies[1].tokens, 5], session=key)
    assert third.computed <= 1 + shape.page_size
    assert fleet.coordinator.sessions.owned_by(WorkerId(owners(fleet, "a")[0])) == 1


# ---- lengths ------------------------------------------------------------------------------------


@SHAPES
def test_a_prompt_that_is_cached_to_its_end_still_computes_its_last_token(shape: Shape):
    fleet = FakeFleet.started(shape)
    talk(fleet, "a", HISTORY, max_tokens=1)
    again = talk(fleet, "b", HISTORY, max_tokens=1)
    assert 1 <= again.computed <= shape.page_size
    assert again.end is not None
    assert again.end.cached_len == len(HISTORY) - again.computed


@pytest.mark.parametrize("prefill_workers", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_replies_ten_times_longer_than_predicted_complete_in_a_pool_made_for_the_prediction(
    prefill_workers: int, seed: int
):
    shape = Shape(prefill_workers=prefill_workers, max_model_len=64, num_pages=24, reserve_tokens=5)
    fleet = FakeFleet.started(shape, seed=seed)
    for i in range(4):
        submit(fleet, f"t{i}", [i] * 8, max_tokens=50, seed=i)
    fleet.complete_all()
    assert "preempted" in retries(fleet), "the pool was large enough: the test shows nothing"


def test_the_coordinator_plans_on_with_a_reply_that_has_outlived_its_forecast():
    fleet = FakeFleet.started(
        replace(COLOCATED, reserve_tokens=5, rebalance="predicted", tick_rounds=20)
    )
    for i in range(4):
        submit(fleet, f"t{i}", [i] * 8, max_tokens=60, seed=i)
    fleet.run_until(lambda: all(len(r.samples) > 50 for r in fleet.replies.values()))
    assert all(live.expected_left > 0 for live in fleet.coordinator._turns.values())
    fleet.complete_all()
