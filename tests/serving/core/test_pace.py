"""As many targets are lost on one side as on the other, and within bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.pace import LEAST, MOST, RATE, Pace


def test_a_lost_target_changes_it_by_little_and_one_of_the_other_kind_takes_that_back():
    pace = Pace()
    assert pace.share == 1.0
    pace.tighten()
    assert pace.share == pytest.approx(1 - RATE)
    pace.loosen()
    assert pace.share == pytest.approx(1.0)
    pace.loosen()
    assert pace.share > 1.0


@given(st.lists(st.booleans(), max_size=2000))
def test_the_order_of_losses_does_not_matter_between_the_bounds(slow: list[bool]):
    pace = Pace()
    for lost in slow:
        (pace.tighten if lost else pace.loosen)()
        assert LEAST <= pace.share <= MOST
    if 0 < len(slow) < 200:  # too few to reach a bound
        tightened = 2 * sum(slow) - len(slow)
        assert pace.share == pytest.approx((1 - RATE) ** tightened)


@pytest.mark.parametrize("knee", [0.9, 1.1])
def test_it_settles_where_as_many_are_lost_on_either_side(knee: float):
    """Replies are too slow above some share, first tokens late below: it stays around there."""
    pace = Pace()
    seen = [pace.share]
    for _ in range(1000):
        (pace.tighten if pace.share > knee else pace.loosen)()
        seen.append(pace.share)
    assert seen[-1] == pytest.approx(knee, abs=2 * RATE)
    assert all(abs(share - knee) < 2 * RATE for share in seen[300:])


def test_losses_that_no_pace_mends_end_at_a_bound():
    pace = Pace()
    for _ in range(1000):
        pace.tighten()
    assert pace.share == LEAST
    for _ in range(2000):
        pace.loosen()
    assert pace.share == MOST
