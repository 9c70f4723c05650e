"""The agenda: in order of time, equal times as entered, never back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.sim.agenda import Agenda, Moment


@given(st.lists(st.integers(0, 5), max_size=20))
def test_things_are_done_by_time_and_then_as_entered(times: list[int]):
    agenda = Agenda()
    done: list[tuple[float, int]] = []
    for i, time in enumerate(times):
        agenda.at(float(time), lambda i=i: done.append((agenda.now, i)))
    assert len(agenda) == len(times)
    while (do := agenda.next()) is not None:
        do()
    assert done == sorted((float(time), i) for i, time in enumerate(times))


def test_what_is_entered_meanwhile_finds_its_place():
    agenda, done = Agenda(), []

    def first() -> None:
        done.append("a")
        agenda.at(1.5, lambda: done.append("b"))

    agenda.at(1.0, first)
    agenda.at(2.0, lambda: done.append("c"))
    while (do := agenda.next()) is not None:
        do()
    assert done == ["a", "b", "c"]


@pytest.mark.parametrize("time", [0.5, float("nan")])
def test_nothing_is_done_in_the_past(time: float):
    agenda = Agenda()
    agenda.at(1.0, lambda: None)
    agenda.next()
    with pytest.raises(ValueError, match=r"it is 1\.0 s"):
        agenda.at(time, lambda: None)


def test_a_place_among_equals_can_be_kept_before_it_is_known_what_is_to_be_done():
    agenda, done = Agenda(), []
    agenda.at(1.0, lambda: done.append("a"))
    kept = agenda.moment(1.0)
    agenda.at(1.0, lambda: done.append("c"))
    agenda.enter(kept, lambda: done.append("b"))
    agenda.enter(Moment(1.0, -1.0, 99), lambda: done.append("entered long ago"))
    while (do := agenda.next()) is not None:
        do()
    assert done == ["entered long ago", "a", "b", "c"]
