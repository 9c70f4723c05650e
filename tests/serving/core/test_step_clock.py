"""Steps of one worker run one after another: how long each took, and was to take."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.step_clock import REPORT_STEPS, StepClock
from serving.costs.correction import LEAST
from serving.messages import StepTime, WorkerId
from tests.support.fake_costs import LinearCosts

COSTS = LinearCosts(base_s=1.0, new_s=0.1, row_s=0.5)


def clock() -> StepClock:
    return StepClock(WorkerId("w"), COSTS)


def launch(times: StepClock, now: float, *, rows: int = 2, new_len: int = 0) -> None:
    times.launched(now, rows=rows, kv_tokens=0, new_len=new_len, held_back=0, cached_len=0)


def test_a_step_takes_from_its_launch_or_from_the_end_of_the_one_before():
    times = clock()
    launch(times, 10.0)  # 10 to 13, then the device is free
    launch(times, 11.0)  # runs from 13
    assert times.ended(13.0) is None
    times.ended(15.0)
    launch(times, 20.0)
    times.ended(24.0)
    assert [step.observed_s for step in times._times] == [3.0, 2.0, 4.0]


@pytest.mark.parametrize(("rows", "new_len", "seconds"), [(2, 0, 2.0), (2, 10, 3.0), (0, 10, 2.0)])
def test_each_kind_of_step_is_predicted_by_its_own_cost(rows: int, new_len: int, seconds: float):
    times = clock()
    launch(times, 0.0, rows=rows, new_len=new_len)
    assert times.in_flight_s(0.0) == pytest.approx(seconds)


def test_what_is_in_flight_shrinks_as_time_passes_and_never_below_nothing():
    times = clock()
    assert times.in_flight_s(5.0) == 0.0
    launch(times, 0.0)
    launch(times, 0.0)
    assert times.in_flight_s(0.5) == pytest.approx(3.5)
    times.ended(2.0)
    assert times.in_flight_s(2.5) == pytest.approx(1.5)
    assert times.in_flight_s(9.0) == 0.0


def test_times_seen_elsewhere_correct_predictions_and_are_not_reported():
    times = clock()
    times.correct([StepTime(2, 0, 0, 2.0, 6.0)] * LEAST)
    assert times.corrected.decode(2, 0).seconds == pytest.approx(6.0)
    launch(times, 0.0)
    assert times.in_flight_s(0.0) == pytest.approx(6.0)
    assert times._times == []


def test_times_are_reported_in_batches_with_the_model_s_own_prediction():
    times = clock()
    reports = []
    for i in range(2 * REPORT_STEPS):
        launch(times, 10.0 * i)
        reports.append(times.ended(10.0 * i + 3.0))
    told = {i: report for i, report in enumerate(reports) if report is not None}
    assert list(told) == [REPORT_STEPS - 1, 2 * REPORT_STEPS - 1]
    last = told[2 * REPORT_STEPS - 1]
    assert last.worker == "w"
    assert last.steps == (StepTime(2, 0, 0, 2.0, 3.0),) * REPORT_STEPS


def test_a_report_says_what_was_believed_of_its_last_step_and_how_far_that_is_off():
    """The step itself has not corrected what was believed of it."""
    times, reports = clock(), []
    for i in range(2 * REPORT_STEPS):
        launch(times, 100.0 * i)
        took = 90.0 if i == REPORT_STEPS - 1 else 4.0 if i % 2 else 3.0
        reports.append(times.ended(100.0 * i + took))
    first = reports[REPORT_STEPS - 1]
    assert (first.corrected_s, first.error) == pytest.approx((3.0, 0.5 / 3.0))
    assert first.steps[-1] == StepTime(2, 0, 0, 2.0, 90.0)


def test_a_report_says_the_model_s_own_error_before_anything_has_corrected_it():
    times = StepClock(WorkerId("w"), replace(COSTS, error=0.25))
    for i in range(REPORT_STEPS - 1):
        launch(times, 10.0 * i)
        assert times.ended(10.0 * i + 3.0) is None
    launch(times, 1000.0, rows=0, new_len=10)
    report = times.ended(1002.0)
    assert report is not None
    assert (report.corrected_s, report.error) == (2.0, 0.25)


def test_predictions_follow_what_is_observed():
    times = clock()
    for i in range(20):
        launch(times, 10.0 * i)
        times.ended(10.0 * i + 3.0)
    launch(times, 1000.0)
    assert times.in_flight_s(1000.0) == pytest.approx(3.0)
    assert times.corrected.decode(2, 0).seconds == pytest.approx(3.0)


@given(before=st.integers(0, REPORT_STEPS - 1), steps=st.integers(1, 3 * REPORT_STEPS))
def test_steps_that_go_on_are_timed_at_once_as_one_by_one(before: int, steps: int):
    one, other = clock(), clock()
    for times in (one, other):
        for i in range(before):
            launch(times, float(i), rows=3, new_len=5 * (i % 2))
            times.ended(i + 0.5)
        times.launched(20.0, 2, 7, 0, 0, 0)
        times.launched(20.0, 2, 9, 0, 0, 0)
    ends = [23.0 + 2.0 * i + (i % 3) for i in range(steps)]
    reports = []
    for i, end in enumerate(ends):
        report = one.ended(end)
        if report is not None:
            reports.append((i, report))
        one.launched(end, 2, 11 + 2 * i, 0, 0, 0)
    assert other.go_on(ends, 2, 11) == reports
    for now in (ends[-1], ends[-1] + 1.0):
        assert other.in_flight_s(now) == one.in_flight_s(now)
    assert other._times == one._times
    assert other.corrected.decode(2, 50) == one.corrected.decode(2, 50)
