import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.preempt import preempt
from serving.policy.views import HolderView


def holder(arrived: float, *, priority: int = 0) -> HolderView:
    return HolderView(priority=priority, arrived=arrived, pages=1)


def test_the_youngest_gives_up_its_pages():
    assert preempt([holder(1.0), holder(3.0), holder(2.0)]) == 1


def test_a_lower_priority_goes_before_a_younger_arrival():
    assert preempt([holder(1.0, priority=1), holder(3.0)]) == 0


def test_equal_age_is_decided_by_place():
    assert preempt([holder(1.0), holder(1.0)]) == 1


def test_the_only_holder_is_chosen():
    assert preempt([holder(1.0)]) == 0


def test_without_holders_there_is_no_choice():
    with pytest.raises(ValueError, match="empty"):
        preempt([])


@given(
    st.lists(
        st.builds(HolderView, st.integers(0, 2), st.integers(0, 5).map(float), st.integers(1, 9)),
        min_size=2,
        max_size=6,
    )
)
def test_the_oldest_of_the_best_priority_is_safe_while_another_holds_pages(holders):
    best = min(range(len(holders)), key=lambda i: (holders[i].priority, holders[i].arrived, i))
    assert preempt(holders) != best
