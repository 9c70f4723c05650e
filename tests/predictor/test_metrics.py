"""Figures that can be counted by hand."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from predictor.metrics import (
    coverage,
    interval,
    mean_absolute_error,
    place_weights,
    position_deciles,
    progress_deciles,
    rank_correlation,
    report,
    resampled_errors,
)
from predictor.positions import sampled_places
from tests.predictor.test_records import FAMILIES, made

COUNT = 100


def records(generated, remaining, limit=10_000, censored=False):
    count = len(generated)
    return replace(
        made(0, count),
        generated=np.array(generated, np.int32),
        remaining=np.array(remaining, np.int32),
        limit=np.full(count, limit, np.int32),
        censored=np.full(count, censored),
        family=(np.arange(count) % 2).astype(np.int32),
    )


def test_errors_are_in_tokens():
    some = records([0, 0], [10, 20])
    assert mean_absolute_error(some, np.array([13.0, 15.0])) == 4


def test_nobody_is_blamed_for_what_the_limit_cut_off():
    some = records([0, 0], [10, 10], limit=10, censored=True)
    assert mean_absolute_error(some, np.array([500.0, 10.0])) == 0
    assert coverage(some, np.array([9.0, 500.0])) == 0.5


def test_ranks():
    some = records([0] * 4, [1, 2, 3, 4])
    assert rank_correlation(some, np.array([10.0, 20.0, 30.0, 40.0])) == 1
    assert rank_correlation(some, np.array([40.0, 30.0, 20.0, 10.0])) == -1


def test_tenths_of_a_reply():
    some = records([0, 9, 10, 99], [100, 91, 90, 1])
    assert progress_deciles(some).tolist() == [0, 0, 1, 9]


def test_tenths_of_all_places_hold_equally_many():
    some = records(list(range(COUNT)), [1] * COUNT)
    assert np.bincount(position_deciles(some)).tolist() == [10] * 10


def test_a_report_leaves_out_groups_that_are_too_small():
    some = records(list(range(COUNT)), [COUNT - i for i in range(COUNT)])
    middle = some.remaining.astype(np.float64)
    found = report(some, middle, middle, ("even", "odd"), 20)
    assert found["all"] == {
        "records": 100,
        "mae": 0,
        "mae_uncapped": 0,
        "mae_interval": [0, 0],
        "tau": 1,
        "covered_q90": 1,
    }
    assert set(found["family"]) == {"even", "odd"}
    assert found["progress"] == {}


def test_a_groups_error_is_also_given_without_what_was_capped():
    some = records([0] * 60, [10] * 60)
    some = replace(some, family=np.zeros(60, np.int32), censored=np.arange(60) < 30)
    found = report(some, np.where(some.censored, 14.0, 11.0), None, ("only",), 20)
    assert found["family"]["only"]["mae"] == 2.5
    assert found["family"]["only"]["mae_uncapped"] == 1
    assert found["uncapped"]["mae"] == 1


def test_early_places_are_recorded_more_often_and_can_count_like_others():
    """Whole replies of 60 tokens, recorded as they are collected; a token counts like any other."""
    random = Random(1)
    places = [sampled_places(60, 20, random) for _ in range(2000)]
    generated = np.concatenate(places)
    some = records(generated, 60 - generated)
    assert np.average(some.remaining, weights=place_weights(some, 20)) == pytest.approx(30.5, abs=1)
    assert some.remaining.mean() > 45
    wrong_early = np.where(generated == 0, 0.0, some.remaining)
    found = report(some, wrong_early, wrong_early, FAMILIES, 20)["places"]
    assert found["mae"] == pytest.approx(60 / 60, rel=0.1)
    assert found["covered_q90"] == pytest.approx(1 - 1 / 60, abs=2e-3)


def drawn_by(session: list[int], error: list[float]) -> np.ndarray:
    some = replace(
        records([0] * len(error), [10] * len(error)), session=np.array(session, np.int32)
    )
    return resampled_errors(some, 10 + np.array(error, np.float64))


def test_sessions_are_drawn_whole():
    assert drawn_by([7] * 4, [1, 2, 3, 6]) == pytest.approx(3)  # the only session, always
    found = drawn_by([1, 1, 2], [0, 0, 9])
    assert set(np.round(found, 6)) == {0, 3, 9}  # twice the first, once each, twice the second
    assert (found == 0).mean() == pytest.approx(0.25, abs=0.05)


def test_draws_are_the_same_for_all_predictors():
    error = np.random.default_rng(0).random(50)
    session = list(range(50))
    assert drawn_by(session, list(2 * error)) == pytest.approx(2 * drawn_by(session, list(error)))


def test_the_interval_is_that_of_the_mean():
    error = np.random.default_rng(1).exponential(size=400)
    low, high = interval(drawn_by(list(range(400)), list(error)))
    wide = 2 * 1.96 * error.std() / np.sqrt(400)
    assert low < error.mean() < high
    assert high - low == pytest.approx(wide, rel=0.1)
