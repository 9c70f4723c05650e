"""What was observed lately corrects a model: soon, within bounds, and where it was observed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.costs.correction import (
    HIGHEST,
    LEAST,
    LOWEST,
    WINDOW,
    Corrected,
    Correction,
    Kind,
    step_bucket,
)
from serving.costs.costs import Estimate, Link
from serving.messages import StepTime
from tests.serving.costs.test_roofline import ONE

BUCKET = step_bucket(16, 0)


def observed(ratios, bucket=BUCKET) -> Correction:
    correction = Correction()
    for ratio in ratios:
        correction.observe(bucket, 0.01, 0.01 * ratio)
    return correction


def test_nothing_is_corrected_before_enough_was_seen():
    assert observed([1.5] * (LEAST - 1)).factor(BUCKET) == 1
    assert observed([1.5] * LEAST).factor(BUCKET) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("ratio", "factor"), [(0.1, LOWEST), (9.0, HIGHEST), (0.8, 0.8), (5.0, 5.0)]
)
def test_a_factor_is_clamped(ratio, factor):
    assert observed([ratio] * 20).factor(BUCKET) == pytest.approx(factor)


def test_what_a_window_ago_was_seen_is_forgotten():
    correction = observed([0.7] * 500 + [1.4] * (WINDOW // 2 + 1))
    assert correction.factor(BUCKET) == pytest.approx(1.4)
    assert observed([0.7] * 500 + [1.4] * (WINDOW // 2 - 1)).factor(BUCKET) == pytest.approx(0.7)


def test_a_hiccup_changes_nothing():
    assert observed([1.2] * 30 + [400.0] * 5).factor(BUCKET) == pytest.approx(1.2)


def test_the_median_of_an_even_window_lies_between():
    assert observed([1.0] * 4 + [1.4] * 4).factor(BUCKET) == pytest.approx(1.2)


def test_times_that_are_none_say_nothing():
    correction = Correction()
    for predicted, seen in ((0.0, 1.0), (1.0, 0.0), (float("nan"), 1.0)):
        for _ in range(LEAST):
            correction.observe(BUCKET, predicted, seen)
    assert correction.factor(BUCKET) == 1


def test_a_bucket_not_seen_takes_its_kinds_factor_and_no_other_kinds():
    correction = observed([1.5] * 20)
    assert correction.factor(step_bucket(1, 0)) == pytest.approx(1.5)
    assert correction.factor(step_bucket(16, 32)) == 1
    assert correction.kind_factor(Kind.DECODE) == pytest.approx(1.5)


def test_a_bucket_that_was_seen_keeps_to_itself():
    correction = observed([1.5] * 60)
    for _ in range(LEAST):
        correction.observe(step_bucket(1, 0), 1.0, 0.9)
    assert correction.factor(step_bucket(1, 0)) == pytest.approx(0.9)
    assert correction.factor(BUCKET) == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (step_bucket(17, 0), step_bucket(32, 0)),
        (step_bucket(0, 129), step_bucket(0, 256)),
        (step_bucket(5, 33), step_bucket(8, 64)),
    ],
)
def test_work_of_like_size_shares_a_bucket(one, other):
    assert one == other


def test_a_power_of_two_ends_its_bucket():
    buckets = [
        step_bucket(16, 0),
        step_bucket(17, 0),
        step_bucket(16, 64),
        step_bucket(16, 65),
        step_bucket(0, 64),
        step_bucket(1, 0),
        step_bucket(2, 0),
    ]
    assert len(set(buckets)) == len(buckets)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=200))
def test_the_factor_is_the_clamped_median_of_the_window(ratios):
    last = sorted(ratios[-WINDOW:])
    median = (last[len(last) // 2] + last[(len(last) - 1) // 2]) / 2
    expected = min(max(median, LOWEST), HIGHEST) if len(ratios) >= LEAST else 1
    assert observed(ratios).factor(BUCKET) == pytest.approx(expected)


def test_the_error_is_the_spread_of_the_ratios():
    steady = Corrected(ONE, observed([1.5] * 40)).decode(16, 100)
    shaky = Corrected(ONE, observed([1.0, 1.5, 2.0] * 20)).decode(16, 100)
    assert steady.error == pytest.approx(0, abs=1e-9)
    assert shaky.error == pytest.approx(0.5 / 1.5)


def test_what_the_clamp_leaves_is_an_error():
    assert Corrected(ONE, observed([24.0] * 40)).decode(16, 100).error == pytest.approx(2.0)


def test_without_observations_the_models_own_word_stands():
    costs = Corrected(ONE, Correction())
    assert costs.decode(16, 100) == ONE.decode(16, 100)
    assert costs.prefill(8, 9) == ONE.prefill(8, 9)
    assert costs.kv_bytes_per_token == ONE.kv_bytes_per_token
    assert costs.step_model() == ONE.step_model()


def test_each_kind_of_step_is_corrected_by_its_own_and_transfers_by_none():
    correction = Correction()
    kinds = {
        step_bucket(16, 0): 1.1,
        step_bucket(0, 16): 1.2,
        step_bucket(16, 16): 1.3,
    }
    for bucket, ratio in kinds.items():
        for _ in range(LEAST):
            correction.observe(bucket, 1.0, ratio)
    costs, link = Corrected(ONE, correction), Link(1.0, 10.0)
    assert costs.decode(16, 99).seconds == pytest.approx(1.1 * ONE.decode(16, 99).seconds)
    assert costs.prefill(16, 9).seconds == pytest.approx(1.2 * ONE.prefill(16, 9).seconds)
    mixed = ONE.mixed(16, 99, 16, 9).seconds
    assert costs.mixed(16, 99, 16, 9).seconds == pytest.approx(1.3 * mixed)
    assert costs.transfer(1000, link) == ONE.transfer(1000, link)
    base, plane = ONE.step_model(), costs.step_model()
    assert plane.base_s == pytest.approx(1.1 * base.base_s)
    assert plane.per_token_s == pytest.approx(1.1 * base.per_token_s)


def test_a_model_that_is_off_by_a_factor_is_right_after_a_window():
    correction = Correction()
    costs = Corrected(ONE, correction)
    for step in range(WINDOW):
        noise = 1 + 0.1 * (-1) ** step
        base = ONE.decode(16, 100).seconds
        correction.observe(step_bucket(16, 0), base, 1.7 * base * noise)
    truth = 1.7 * ONE.decode(16, 100).seconds
    assert costs.decode(16, 100).seconds == pytest.approx(truth, rel=0.02)
    ahead = costs.decode_ahead(16, 84, 2)
    assert ahead == [costs.decode(16, 84).seconds, costs.decode(16, 100).seconds]


@given(
    st.lists(
        st.builds(
            StepTime,
            st.sampled_from([0, 1, 2, 3]),
            st.sampled_from([0, 4]),
            st.just(0),
            st.sampled_from([0.0, 1.0, 2.0]),
            st.sampled_from([0.0, 1.5, 3.0]),
        ),
        max_size=200,
    )
)
def test_many_observations_at_once_are_as_many_single_ones(steps: list[StepTime]):
    one, other = Correction(), Correction()
    for rows, new_len, _, predicted_s, observed_s in steps:
        one.observe(step_bucket(rows, new_len), predicted_s, observed_s)
    other.observe_all(steps)
    for rows in (0, 1, 2, 3):
        for new_len in (0, 4):
            bucket = step_bucket(rows, new_len)
            assert one.correct(bucket, Estimate(1.0, 0.1)) == other.correct(
                bucket, Estimate(1.0, 0.1)
            )


def test_steps_that_are_wrong_beyond_correction_are_told_once_a_time():
    correction = observed([9.0] * (WINDOW - 1))
    assert correction.beyond() == [], "too few to say so"
    correction.observe(BUCKET, 0.01, 0.09)
    assert correction.beyond() == [(Kind.DECODE, pytest.approx(9.0))]
    for ratio, told in (
        *((9.0, False), (7.9, False), (8.1, False), (1.0, False)),  # near the bound is not back
        *((0.1, True), (0.2, False), (0.1, False), (1.0, False), (8.1, True)),
    ):
        for _ in range(WINDOW):
            assert correction.beyond() == []
            correction.observe(BUCKET, 1.0, ratio)
        found = [(Kind.DECODE, pytest.approx(ratio))] if told else []
        assert correction.beyond() == found


def test_each_kind_of_step_is_told_by_itself():
    correction = observed([9.0] * WINDOW)
    for _ in range(WINDOW):
        correction.observe(step_bucket(0, 9), 1.0, 10.0)
        correction.observe(step_bucket(2, 9), 1.0, 8.0)
    assert [kind for kind, _ in correction.beyond()] == [Kind.DECODE, Kind.PREFILL]
