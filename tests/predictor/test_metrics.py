"""Figures that can be counted by hand."""

from dataclasses import replace

import numpy as np

from predictor.metrics import (
    coverage,
    mean_absolute_error,
    position_deciles,
    progress_deciles,
    rank_correlation,
    report,
)
from tests.predictor.test_records import made

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
    found = report(some, middle, middle, ("even", "odd"))
    assert found["all"] == {"records": 100, "mae": 0, "tau": 1, "covered_q90": 1}
    assert set(found["family"]) == {"even", "odd"}
    assert found["progress"] == {}
