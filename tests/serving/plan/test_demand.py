"""Demands that a person can count."""

from math import inf
from random import Random

import pytest

from serving.plan.cache import Bound, Rest, Rests
from serving.plan.demand import TurnWork, demand_of
from serving.workload.session import SessionShape, Span, TurnShape, Workload, WorkloadError

SYSTEM = Span(1, 10)


def sessions(*shapes: SessionShape) -> Workload:
    return Workload("by hand", shapes, {})


def one_turn(start_s: float, *, new: int = 90, shared: tuple[Span, ...] = ()) -> SessionShape:
    return SessionShape(f"at {start_s}", start_s, (TurnShape(0.0, None, shared, new, 100),))


def test_means_of_a_workload():
    first = TurnShape(0.0, None, (SYSTEM,), 90, 100)
    later = TurnShape(4.0, None, (), 50, 300)
    demand = demand_of(
        sessions(SessionShape("a", 0.0, (first, later)), SessionShape("b", 2.0, (first,)))
    )
    # The second session finds the system prompt of the first.
    assert demand.turns == (TurnWork(100, 0, 100), TurnWork(50, 200, 300), TurnWork(90, 10, 100))
    assert demand.turns_per_s == 0.5 * 3 / 2  # one session in 2 s, 1.5 turns each
    assert demand.new == 240 / 3
    assert demand.reply == 500 / 3
    assert demand.longest == 550
    # Rows decode for as long as their replies: 100, 300 and 100 tokens.
    assert demand.footprint == (100 * 200 + 300 * 550 + 100 * 200) / 500
    assert demand.context == (100 * 150 + 300 * 400 + 100 * 150) / 500
    # 200 tokens rest for 4 s, once in two sessions.
    assert demand.rests == Rests((Rest(4.0, 200),), 0.25)
    assert demand.rests.idle_tokens == 200 * 4 * 0.25


@pytest.mark.parametrize(
    ("text", "cached"),
    [
        pytest.param((Span(1, 10), Span(2, 20)), 30, id="all of it, but its own token"),
        pytest.param((Span(1, 10), Span(3, 20)), 10, id="its beginning"),
        pytest.param((Span(1, 6), Span(2, 20)), 6, id="a shorter beginning"),
        pytest.param((Span(2, 20),), 0, id="something from the middle"),
    ],
)
def test_what_other_sessions_sent_is_cached(text: tuple[Span, ...], cached: int):
    known = one_turn(0.0, shared=(Span(1, 10), Span(2, 20)))
    assert demand_of(sessions(known, one_turn(1.0, shared=text))).turns[1].cached == cached


def test_a_conversation_may_be_cut():
    turns = (TurnShape(0.0, None, (), 100, 50), TurnShape(1.0, 60, (), 5, 50))
    demand = demand_of(sessions(SessionShape("a", 0.0, turns), one_turn(1.0)))
    assert demand.turns[1] == TurnWork(5, 60, 50)


def test_a_prompt_that_is_all_known_still_computes_a_token():
    turns = (TurnShape(0.0, None, (), 100, 50), TurnShape(1.0, 60, (), 0, 50))
    demand = demand_of(sessions(SessionShape("a", 0.0, turns), one_turn(1.0)))
    assert demand.turns[1] == TurnWork(1, 59, 50)


def test_sessions_that_begin_at_once_have_no_rate():
    with pytest.raises(WorkloadError, match="begin at different times"):
        demand_of(sessions(one_turn(0.0), one_turn(0.0)))


RESTS = Rests((Rest(10.0, 100), Rest(30.0, 300)), per_s=2.0)


def test_memory_keeps_what_comes_back_soon():
    assert RESTS.idle_tokens == 2 * (10 * 100 + 30 * 300) / 2
    assert RESTS.keep_s(10_000, 1.0) == inf
    # Kept for t <= 10 s, both hold 400 t: 4,000 tokens in all.
    assert RESTS.keep_s(2_000, 1.0) == 5.0
    # Beyond, the first holds its 1,000, the other 300 t.
    assert RESTS.keep_s(7_000, 1.0) == 20.0
    assert RESTS.keep_s(14_000, 2.0) == 20.0
    assert RESTS.keep_s(0, 1.0) == 0.0
    assert (RESTS.found(5.0), RESTS.found(20.0), RESTS.found(inf)) == (0.0, 0.25, 1.0)


def test_bounds_lie_above_what_is_found():
    bounds = RESTS.bounds()
    # (4,000; 0.25) lies below the line from nothing to (10,000; 1).
    assert bounds == [Bound(0.0, 1e-4)]
    soon = Rests((Rest(1.0, 500), Rest(100.0, 500)), per_s=1.0)
    # Kept for 1 s: 1,000 x 1 / 2 tokens find half; for 100 s: 101 x 500 / 2 find all.
    first, second = soon.bounds()
    assert first == Bound(0.0, 0.5 / 500)
    assert second.constant + second.per_token * 500 == pytest.approx(0.5)
    assert second.constant + second.per_token * 25_250 == pytest.approx(1.0)


def test_what_comes_back_at_once_is_found_without_room():
    (bound,) = Rests((Rest(0.0, 300), Rest(100.0, 100)), per_s=1.0).bounds()
    assert bound.constant == 0.75
    assert bound.constant + bound.per_token * 100 * 100 / 2 == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [3, 30, 150])
def test_bounds_lie_above_what_is_found_after_any_time(seed: int, count: int):
    noise = Random(f"{seed} {count}")
    rests = tuple(Rest(noise.lognormvariate(3, 2), noise.randint(100, 20000)) for _ in range(count))
    some = Rests(rests, per_s=2.0)
    for kept_s in (rest.think_s for rest in rests):
        # At rate scale 1; the room that keeps all for just so long, and a grain.
        room = 2.0 * sum(rest.tokens * min(rest.think_s, kept_s) for rest in rests) / count
        assert some.keep_s(room * (1 + 1e-9), 1.0) >= kept_s
        assert some.found(kept_s) <= min(c + s * room for c, s in some.bounds()) + 1e-9


def test_no_rest_needs_no_memory():
    none = Rests((), 0.0)
    assert none.keep_s(0, 1.0) == inf
    assert none.found(inf) == 1.0
    assert none.bounds() == []
