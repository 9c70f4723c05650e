"""How far workers lie apart: means within a second, over the seconds in which both reported."""

import pytest

from benchmarks.balance_child import _spread
from serving.messages import WorkerId

A, B = WorkerId("a"), WorkerId("b")


def test_the_spread_is_that_of_the_workers_means_within_a_second():
    values = [(0.1, A, 1.0), (0.2, A, 3.0), (0.9, B, 4.0), (1.5, A, 2.0), (1.6, B, 2.0)]
    spread = _spread(values)
    # Second 0: means 2 and 4, so 3 with deviation 1 and 4/3 at most; second 1: level.
    assert spread["mean"] == pytest.approx(2.5)
    assert spread["std"] == pytest.approx(0.5)
    assert spread["max_over_mean"] == pytest.approx((4 / 3 + 1) / 2)


def test_a_second_in_which_a_worker_was_silent_does_not_count():
    assert _spread([(0.1, A, 1.0), (0.2, B, 1.0), (5.0, A, 9.0)])["mean"] == 1.0
