"""Invariants 1, 2 and 3 of ARCHITECTURE.md, under whatever hypothesis comes up with.

Every policy of routing and rebalancing, targets, host memory, moves, changes of role, lost workers
and broken transfers. The fleet compares every token with the oracle, counts ends, and checks pages
after each event; at rest nothing is held, and the coordinator knows what can be found where.
"""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from serving.messages import Completed, Failed, WorkerId
from serving.request import Turn
from tests.support.fake_fleet import FakeFleet
from tests.support.fake_model import GRAMMAR
from tests.support.host_scenarios import host_scenarios
from tests.support.moving_scenarios import moving_scenarios
from tests.support.scenarios import (
    Scenario,
    calm_scenarios,
    faulty_scenarios,
    play,
)
from tests.support.shape import Shape
from tests.support.turns import make_turn

SLOW_INPUT = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
BRIEF = settings(deadline=None, suppress_health_check=SLOW_INPUT)
PHASES = (Phase.explicit, Phase.generate)  # a shrunk scenario takes minutes to find
QUICK = settings(BRIEF, max_examples=30, phases=PHASES)
HOSTED = settings(QUICK, max_examples=15)  # long histories take longer
LONG = settings(BRIEF, max_examples=1000, phases=PHASES)


@QUICK
@given(calm_scenarios())
def test_every_turn_completes_with_the_oracles_tokens(scenario: Scenario):
    play(scenario)


@QUICK
@given(faulty_scenarios())
def test_every_turn_ends_once_and_nothing_leaks_whatever_fails(scenario: Scenario):
    play(scenario)


@QUICK
@given(moving_scenarios())
def test_rows_that_move_all_the_time_say_the_same_and_leave_nothing(scenario: Scenario):
    play(scenario)


@HOSTED
@given(host_scenarios(calm=True))
def test_every_turn_completes_with_the_oracles_tokens_out_of_host_memory(scenario: Scenario):
    play(scenario)


@HOSTED
@given(host_scenarios())
def test_nothing_leaks_in_host_memory_whatever_fails(scenario: Scenario):
    play(scenario)


@pytest.mark.slow
@LONG
@given(calm_scenarios())
def test_every_turn_completes_at_length(scenario: Scenario):
    play(scenario)


@pytest.mark.slow
@LONG
@given(faulty_scenarios())
def test_every_turn_ends_once_at_length(scenario: Scenario):
    play(scenario)


@pytest.mark.slow
@LONG
@given(moving_scenarios())
def test_rows_that_move_all_the_time_say_the_same_at_length(scenario: Scenario):
    play(scenario)


@pytest.mark.slow
@LONG
@given(host_scenarios(calm=True))
def test_every_turn_completes_out_of_host_memory_at_length(scenario: Scenario):
    play(scenario)


@pytest.mark.slow
@LONG
@given(host_scenarios())
def test_nothing_leaks_in_host_memory_at_length(scenario: Scenario):
    play(scenario)


# ---- the same turns under one condition at a time -----------------------------------------------

SYSTEM = list(range(10))
TURNS = [
    make_turn(
        f"t{i}",
        [*SYSTEM, *range(20 + i, 30 + 2 * i)],
        max_tokens=6 + i,
        seed=i - 2,
        logprobs=0 if i % 2 else None,
        prompt_logprobs=0 if i == 3 else None,
        stop_ids=(1, 2, 3) if i % 3 else (),
        grammar=GRAMMAR if i % 3 == 2 else None,
    )
    for i in range(6)
]
CONDITIONS = {
    **{f"chunks_of_{n}": Shape(chunk_tokens=n) for n in (1, 2, 3, 5, 7, 100)},
    "chunks_alone": Shape(chunk_rows=1),
    "one_row": Shape(max_rows=1),
    "one_step_ahead_of_nothing": Shape(depth=1),
    "three_steps_ahead": Shape(depth=3),
    "pages_of_one": Shape(page_size=1, num_pages=200, prefill_pages=200),
    "pages_of_16": Shape(page_size=16, num_pages=30, prefill_pages=30),
    "tiny_pool": Shape(num_pages=17, reserve_tokens=0),
    "tiny_pool_full_reserve": Shape(num_pages=17, reserve_tokens=100),
    "two_decode_workers": Shape(decode_workers=2),
}
FLEETS = {
    f"{name}-{prefill}p": replace(shape, prefill_workers=prefill)
    for name, shape in CONDITIONS.items()
    for prefill in (0, 2)
}


def run(shape: Shape, turns: list[Turn], *, seed: int = 0) -> FakeFleet:
    """Run turns to their end; the fleet compares every token with the oracle."""
    fleet = FakeFleet(shape, seed=seed)
    fleet.run()
    for turn in turns:
        fleet.submit(turn)
    fleet.run()
    fleet.check_empty()
    for turn in turns:
        end = fleet.replies[turn.id].end
        assert end is not None
        assert isinstance(end.outcome, Completed)
    return fleet


@pytest.mark.parametrize("shape", FLEETS.values(), ids=FLEETS.keys())
def test_tokens_do_not_depend_on_how_they_are_computed(shape: Shape):
    run(shape, TURNS)


@pytest.mark.parametrize("prefill_workers", [0, 1])
def test_a_cached_prefix_changes_what_is_computed_and_nothing_else(prefill_workers: int):
    shape = Shape(prefill_workers=prefill_workers, num_pages=100, prefill_pages=100)
    fleet = run(shape, TURNS[:1])
    again = fleet.submit(replace(TURNS[0], id=TURNS[1].id))
    fleet.run()
    fleet.check_empty()
    assert again.computed < TURNS[0].prompt_len
    assert again.tokens == fleet.replies[TURNS[0].id].tokens


def test_neighbours_change_nothing():
    alone = run(Shape(), TURNS[:1]).replies[TURNS[0].id].tokens
    assert run(Shape(max_rows=6), TURNS).replies[TURNS[0].id].tokens == alone


@pytest.mark.parametrize("victim", ["p0", "d0", "d1"])
@pytest.mark.parametrize("silently", [True, False])
@pytest.mark.parametrize("rounds", range(5, 160, 31))
def test_turns_survive_the_loss_of_a_worker_at_any_time(victim: str, silently: bool, rounds: int):
    fleet = FakeFleet(Shape(prefill_workers=2, decode_workers=2))
    fleet.run()
    for turn in TURNS:
        fleet.submit(turn)
    for _ in range(rounds):
        fleet.round()
    fleet.lose(WorkerId(victim), silently=silently)
    fleet.run()
    fleet.check_empty()
    for reply in fleet.replies.values():
        assert reply.end is not None
        assert isinstance(reply.end.outcome, Completed)


@pytest.mark.parametrize("breaks_at", ["sender", "receiver"])
@pytest.mark.parametrize("number", range(1, 13))
def test_turns_survive_any_broken_transfer(breaks_at: str, number: int):
    fleet = FakeFleet(Shape(prefill_workers=1, decode_workers=2, chunk_tokens=5))
    fleet.run()
    sends: list[object] = []

    def breaks(send: object) -> str | None:
        sends.append(send)
        return breaks_at if len(sends) == number else None

    fleet.break_transfer = breaks
    for turn in TURNS:
        fleet.submit(turn)
    fleet.run()
    fleet.advance(fleet.shape.transfer_timeout_s + 1)
    fleet.run()
    fleet.check_empty()
    assert len(sends) > number
    for reply in fleet.replies.values():
        assert reply.end is not None
        assert isinstance(reply.end.outcome, Completed)


def test_a_link_that_never_works_fails_the_turn_and_leaks_nothing():
    fleet = FakeFleet(Shape(prefill_workers=1, max_attempts=3))
    fleet.run()
    fleet.break_transfer = lambda send: "sender"
    reply = fleet.submit(TURNS[0])
    fleet.run()
    fleet.check_empty()
    assert reply.end is not None
    assert isinstance(reply.end.outcome, Failed)


@pytest.mark.parametrize("prefill_workers", [0, 1])
@pytest.mark.parametrize("rounds", range(0, 130, 8))
def test_a_turn_may_be_cancelled_at_any_time(prefill_workers: int, rounds: int):
    shape = Shape(prefill_workers=prefill_workers, chunk_tokens=5)
    fleet = FakeFleet(shape)
    fleet.run()
    for turn in TURNS[:3]:
        fleet.submit(turn)
    for _ in range(rounds):
        fleet.round()
    fleet.cancel(TURNS[1].id, kept=len(fleet.replies[TURNS[1].id].samples))
    fleet.run()
    fleet.check_empty()


def test_a_cancelled_turn_is_off_its_worker_as_soon_as_that_hears_of_it():
    fleet = FakeFleet(Shape(max_model_len=64))
    fleet.run()
    fleet.submit(make_turn("a", [1], max_tokens=60))
    fleet.run_until(lambda: len(fleet.replies[make_turn("a", [1]).id].samples) > 5)
    fleet.cancel(make_turn("a", [1]).id)
    batcher = fleet.workers[WorkerId("d0")].batcher
    fleet.run_until(lambda: ("client", "coordinator") not in fleet.channels)
    fleet.run_until(lambda: ("coordinator", "d0") not in fleet.channels)
    assert batcher.holdings.pool.num_held == 0


def test_pages_of_a_lost_confirmation_come_back_within_the_timeout():
    fleet = FakeFleet(Shape(prefill_workers=1))
    fleet.run()
    fleet.lose_ack = lambda ack: True
    for turn in TURNS:
        fleet.submit(turn)
    fleet.run()
    pool = fleet.workers[WorkerId("p0")].batcher.holdings.pool
    assert pool.num_held > 0
    fleet.advance(fleet.shape.transfer_timeout_s)
    fleet.run()
    fleet.check_empty()
