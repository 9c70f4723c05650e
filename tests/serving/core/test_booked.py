"""What is booked at a worker, and what of it runs before a turn that comes now."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.booked import NOTHING, Booked, Work
from serving.request import TurnId

A, B, C = TurnId("a"), TurnId("b"), TurnId("c")


def booked() -> Booked:
    made = Booked()
    made.add(A, Work(1, 1.0), 2.0)
    made.add(B, Work(10, 4.0), inf)
    made.add(C, Work(100, 8.0), 3.0)
    return made


def test_late_ones_are_behind_a_turn_that_is_not():
    made = booked()
    assert made.total == Work(111, 13.0)
    assert made.before(9.0, 1.9) == Work(111, 13.0)
    assert made.before(9.0, 2.0) == Work(110, 12.0)
    assert made.before(9.0, 5.0) == Work(10, 4.0)
    assert made.before(4.0, 5.0) == Work(111, 13.0), "a late turn waits for all"


def test_nothing_is_left_of_what_is_gone_late_or_not():
    made = booked()
    made.before(9.0, 2.5)
    for turn in (A, C, B, A):
        made.remove(turn)
    assert (len(made), made.total, made.before(9.0, 99.0)) == (0, NOTHING, NOTHING)


def test_a_turn_is_booked_once_at_a_time():
    made = booked()
    with pytest.raises(ValueError, match="booked already"):
        made.add(A, Work(1, 1.0), 2.0)
    made.remove(A)
    made.add(A, Work(2, 2.0), 2.0)
    assert made.before(9.0, 2.0) == Work(110, 12.0)


OPS = st.tuples(st.sampled_from("abcde"), st.booleans(), st.integers(1, 9), st.integers(0, 20))


@given(st.lists(OPS, max_size=40))
def test_it_is_what_a_look_at_each_turn_says(ops):
    made, known = Booked(), dict[TurnId, tuple[int, float]]()
    for now, (name, adds, tokens, due) in enumerate(ops):
        turn = TurnId(name)
        if adds and turn not in known:
            known[turn] = tokens, float(due)
            made.add(turn, Work(tokens, float(tokens)), float(due))
        elif not adds:
            known.pop(turn, None)
            made.remove(turn)
        expected = sum(tokens for tokens, due in known.values() if due > now)
        assert made.before(now + 1.0, float(now)) == Work(expected, float(expected))


def test_what_is_gone_is_forgotten_also_where_nobody_asks():
    made = Booked()
    made.add(A, Work(1, 1.0), 5.0)
    for number in range(100):
        turn = TurnId(str(number))
        made.add(turn, Work(1, 1.0), 5.0)
        made.remove(turn)
    assert len(made._due) <= 4
    assert made.before(9.0, 5.0) == NOTHING
