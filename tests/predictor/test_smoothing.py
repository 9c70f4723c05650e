"""What an earlier curve and a new reading say together."""

import numpy as np
import pytest

from predictor.smoothing import LEAST_MASS, UNSMOOTHED, Smoothing, fold

BAYES = Smoothing(1.0, 1.0)


def masses(alive: np.ndarray) -> list[float]:
    """The chance to end in each interval of one curve, and to outlive the last edge."""
    return (-np.diff([*alive.tolist(), 0.0])).tolist()


def test_a_past_that_does_not_count_leaves_readings_alone():
    reading = np.array([[1.0, 0.5, 0.2], [1.0, 1.0, 0.0]])
    past = np.array([[1.0, 0.4, 0.1], [1.0, 0.0, 0.0]])
    assert fold(reading, past, UNSMOOTHED).tolist() == reading.tolist()


def test_a_past_that_hardly_counts_hardly_changes_readings():
    reading, past = np.array([[1.0, 0.5, 0.2]]), np.array([[1.0, 0.1, 0.05]])
    assert fold(reading, past, Smoothing(1.0, 1e-6)) == pytest.approx(reading, abs=1e-5)


def test_with_exponents_of_one_it_is_bayes_rule():
    reading, past = np.array([[1.0, 0.5, 0.2]]), np.array([[1.0, 0.4, 0.1]])
    # The masses are 0.5 0.3 0.2 and 0.6 0.3 0.1, their products 0.30 0.09 0.02.
    wanted = [0.30 / 0.41, 0.09 / 0.41, 0.02 / 0.41]
    assert masses(fold(reading, past, BAYES)[0]) == pytest.approx(wanted)


def test_exponents_temper_each_side():
    reading, past = np.array([[1.0, 0.2]]), np.array([[1.0, 0.5]])
    # Even pasts cancel; of the reading's 0.8 and 0.2 the square roots remain, as 2 to 1.
    folded = fold(reading, past, Smoothing(0.5, 0.7))
    assert folded == pytest.approx(np.array([[1.0, 1 / 3]]))
    # The other way about: even readings, and of the past the cubes, as 64 to 1.
    folded = fold(past, reading, Smoothing(0.5, 3.0))
    assert folded == pytest.approx(np.array([[1.0, 1 / 65]]))


def test_each_reply_is_folded_by_itself():
    reading = np.array([[1.0, 0.5, 0.2], [1.0, 0.9, 0.1]])
    past = np.array([[1.0, 0.4, 0.1], [1.0, 0.3, 0.3]])
    alone = [fold(reading[i : i + 1], past[i : i + 1], BAYES)[0].tolist() for i in range(2)]
    assert fold(reading, past, BAYES) == pytest.approx(np.array(alone))


def test_two_equal_sharp_curves_agree():
    sharp = np.array([[1.0, 1.0, 1.0, 0.0, 0.0]])
    assert fold(sharp, sharp, BAYES) == pytest.approx(sharp, abs=1e-8)


def test_no_curve_forbids_what_the_other_says():
    early, late = np.array([[1.0, 0.0, 0.0, 0.0]]), np.array([[1.0, 1.0, 1.0, 0.0]])
    assert masses(fold(early, late, BAYES)[0]) == pytest.approx(
        [0.5, LEAST_MASS / 2, 0.5, LEAST_MASS / 2], rel=1e-3
    )


@pytest.mark.parametrize("exponents", [(0.0, 1.0), (-1.0, 0.0), (1.0, -0.1), (float("nan"), 0.0)])
def test_readings_count_and_the_past_does_not_count_against_itself(exponents):
    with pytest.raises(ValueError, match="exponents"):
        Smoothing(*exponents)
