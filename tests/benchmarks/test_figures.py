"""Repeats to figures: values that can be worked out by hand."""

import pytest

from benchmarks.figures import figure, percentile, ratio


def test_a_figure_is_the_median_and_how_far_the_repeats_lie_apart():
    assert figure([3.0, 1.0, 10.0]) == {"median": 3.0, "min": 1.0, "max": 10.0, "repeats": 3}


def test_an_even_number_of_repeats_has_its_median_in_the_middle():
    assert figure([1.0, 2.0, 4.0, 100.0])["median"] == 3.0


def test_ratios_are_taken_within_a_round():
    # The machine ran at half speed in the second round; the ratio of the medians would be 0.375.
    assert ratio([60.0, 30.0, 20.0], [100.0, 50.0, 80.0])["median"] == pytest.approx(0.6)


def test_rounds_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match=r"longer|shorter"):
        ratio([1.0, 2.0], [1.0])


def test_no_repeats_make_no_figure():
    with pytest.raises(ValueError, match="at least one"):
        figure([])


@pytest.mark.parametrize(
    ("share", "expected"), [(0, 1.0), (0.5, 3.0), (1, 5.0), (0.25, 2.0), (0.9, 4.6)]
)
def test_percentiles_lie_between_neighbours(share: float, expected: float):
    assert percentile([5.0, 3.0, 1.0, 4.0, 2.0], share) == pytest.approx(expected)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_impossible_percentiles_are_refused(values: list[float], share: float):
    with pytest.raises(ValueError, match="no percentile"):
        percentile(values, share)
