"""The grid on which remaining lengths are known."""

from itertools import pairwise

import pytest

from predictor.edges import EDGES, MAX_TOKENS, intervals_up_to


def test_edges_ascend_from_nothing_to_the_most_and_no_step_is_longer_than_a_third_of_a_doubling():
    assert (EDGES[0], EDGES[-1]) == (0, MAX_TOKENS)
    assert all(right > left for left, right in pairwise(EDGES))
    assert all(right / left < 1.3 for left, right in pairwise(EDGES) if left > 10)


@pytest.mark.parametrize(("horizon", "last"), [(1, 1), (2, 2), (4096, 4096), (4097, 5161)])
def test_the_last_interval_holds_the_horizon(horizon, last):
    assert EDGES[intervals_up_to(horizon)] == last


@pytest.mark.parametrize("horizon", [0, MAX_TOKENS + 1])
def test_a_horizon_off_the_grid_is_refused(horizon):
    with pytest.raises(ValueError, match="horizon"):
        intervals_up_to(horizon)
