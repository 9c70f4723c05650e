import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.windows import Window


def test_an_empty_window_has_no_mean_and_no_rate():
    window = Window(10.0)
    assert window.mean(5.0) is None
    assert window.rate(5.0) == 0.0


def test_a_mean_weighs_each_sum_by_its_count():
    window = Window(10.0)
    window.add(1.0, 6.0, 3)
    window.add(2.0, 4.0, 1)
    assert window.mean(3.0) == 2.5
    assert window.rate(3.0) == 0.4


def test_what_is_as_old_as_the_span_is_forgotten():
    window = Window(10.0)
    window.add(1.0, 6.0, 1)
    window.add(2.0, 4.0, 1)
    assert window.mean(10.9) == 5.0
    assert window.mean(11.0) == 4.0
    assert window.mean(12.0) is None


def test_rounding_leaves_nothing_behind():
    window = Window(1.0)
    for value in (0.1, 0.2, 0.3):
        window.add(0.0, value, 1)
    assert window.rate(5.0) == 0.0
    window.add(5.0, 0.0, 1)
    assert window.mean(5.0) == 0.0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9), st.integers(1, 4)), max_size=30))
def test_it_says_what_a_list_of_the_last_observations_says(added: list[tuple[int, int, int]]):
    window, now = Window(7.0), 0
    seen: list[tuple[int, int, int]] = []
    for later, total, count in added:
        now += later
        window.add(now, total, count)
        seen.append((now, total, count))
        recent = [(t, c) for at, t, c in seen if at > now - 7]
        totals, counts = sum(t for t, _ in recent), sum(c for _, c in recent)
        assert window.mean(now) == pytest.approx(totals / counts)
        assert window.rate(now) == pytest.approx(counts / 7)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(-9, 9), st.integers(1, 4)), max_size=30))
def test_several_observations_at_once_are_as_many_single_ones(added: list[tuple[int, int, int]]):
    one, other, now = Window(7.0), Window(7.0), 0.0
    entries: list[tuple[float, float, int]] = []
    for later, total, count in added:
        now += later
        entries.append((now, total / 3, count))
        one.add(*entries[-1])
    other.add_all(entries)
    assert (other.mean(now), other.rate(now)) == (one.mean(now), one.rate(now))
    assert (other.mean(now + 3), other.rate(now + 3)) == (one.mean(now + 3), one.rate(now + 3))


def test_a_span_that_is_lost_in_the_time_holds_nothing():
    window = Window(1e-12)
    window.add_all([(1e6, 2.0, 1), (1e6 + 1, 3.0, 1)])
    assert window.mean(1e6 + 1) is None
