"""Beliefs along a reply: what was believed moves with the tokens that come."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.conformal import CLASSES, LEVELS, Calibration
from predictor.curves import after
from predictor.edges import EDGES
from predictor.reading import PLAIN, Reader
from predictor.smoothing import UNSMOOTHED, Smoothing, fold

BAYES = replace(PLAIN, smoothing=Smoothing(1.0, 1.0))
LATER = Calibration((tuple((np.linspace(0, 1, LEVELS) ** 2).tolist()),) * CLASSES)
"""Says of every chance to end that it is smaller."""
E = 25
GRID = np.array(EDGES[:E])


def sharp(remaining: int) -> np.ndarray:
    """A curve [1, E] that is sure of the interval in which `remaining` lies."""
    return (remaining > GRID)[None].astype(float)


def chance(alive: np.ndarray, remaining: int) -> float:
    """What one curve [1, E] gives to the interval in which `remaining` lies."""
    right = int(np.searchsorted(GRID, remaining))
    return float(alive[0, right - 1] - alive[0, right])


def test_a_first_reading_is_taken_as_it_is():
    reading = np.array([[1.0, 0.6, 0.1], [1.0, 0.7, 0.3]])
    past = np.array([[1.0, 0.2, 0.0], [1.0, 0.2, 0.1]])
    came = np.array([0, 1])
    believed = BAYES.believe(reading, past, came)
    assert believed[0].tolist() == reading[0].tolist()
    assert believed[1] == pytest.approx(fold(reading, after(past, came), BAYES.smoothing)[1])
    assert believed[1] != pytest.approx(reading[1])


def test_without_smoothing_the_past_is_forgotten():
    reading, past = np.array([[1.0, 0.6, 0.1]]), np.array([[1.0, 0.2, 0.0]])
    assert PLAIN.believe(reading, past, np.array([1])).tolist() == reading.tolist()


@pytest.mark.parametrize("remaining", [2, 3, 4])
def test_the_past_moves_by_just_the_tokens_that_came(remaining: int):
    """Up to six tokens before the end intervals are single tokens: one too many would show."""
    reading, past = sharp(remaining), sharp(remaining + 2)
    assert chance(BAYES.believe(reading, past, np.array([2])), remaining) > 0.999
    for wrong in (1, 3):
        assert chance(BAYES.believe(reading, past, np.array([wrong])), remaining) < 0.501


def test_a_past_of_its_own_place_is_right_for_a_vague_reading():
    vague = np.array([np.linspace(1, 0, E)])
    believed = BAYES.believe(vague, sharp(5), np.array([3]))
    assert [chance(believed, remaining) > 0.99 for remaining in (1, 2, 3)] == [False, True, False]


@settings(max_examples=15)
@given(st.integers(1, 200), st.integers(2, 30), st.sampled_from([0.3, 0.8, 1.0]))
def test_who_counts_down_exactly_keeps_saying_it(length: int, stride: int, exponent: float):
    reader = replace(PLAIN, smoothing=Smoothing(1.0, exponent))
    belief = sharp(length)
    for place in range(stride, length, stride):
        belief = reader.believe(sharp(length - place), belief, np.array([stride]))
        assert chance(belief, length - place) > 0.99


def test_a_belief_is_no_curve_that_was_bent():
    reader = Reader(Smoothing(1.0, 1.0), LATER)
    reading, past = np.array([[1.0, 0.6, 0.1]]), np.array([[1.0, 0.2, 0.1]])
    found = reader.believe(reading, past, np.array([1]))
    assert found.tolist() == BAYES.believe(reading, past, np.array([1])).tolist()


def test_stated_curves_are_bent():
    belief = np.array([[1.0, 0.75, 0.5, 0.0]])
    stated = Reader(UNSMOOTHED, LATER).state(belief, np.array([30]), 0.0)
    assert stated == pytest.approx(np.array([[1.0, 1 - 0.25**2, 1 - 0.5**2, 0.0]]))


def test_parts_are_switched_off_one_by_one():
    reader = Reader(Smoothing(0.5, 0.5), LATER)
    assert reader.switched(smoothing=True, calibration=True) == reader
    assert reader.switched(smoothing=False, calibration=True) == Reader(UNSMOOTHED, LATER)
    assert reader.switched(smoothing=True, calibration=False) == replace(
        PLAIN, smoothing=Smoothing(0.5, 0.5)
    )
