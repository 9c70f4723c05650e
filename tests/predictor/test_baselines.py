"""Predictors without a model, on records small enough to count."""

from dataclasses import replace

import numpy as np
import pytest

from predictor.baselines import constant_median, median_by_position, replies_of, survivors
from predictor.curves import quantile
from predictor.edges import EDGES
from predictor.records import Records
from tests.predictor.test_records import made


def replies(*lengths: int, cut: int = 0) -> Records:
    """A record at every place of replies of these lengths; the last `cut` of them are cut off."""
    generated = [t for length in lengths for t in range(length)]
    remaining = [length - t for length in lengths for t in range(length)]
    number = [i for i, length in enumerate(lengths) for _ in range(length)]
    return replace(
        made(0, len(generated)),
        generated=np.array(generated, np.int32),
        remaining=np.array(remaining, np.int32),
        reply=np.array(number, np.int32),
        censored=np.array(number) >= len(lengths) - cut,
    )


def at(*generated: int) -> Records:
    return replace(made(1, len(generated)), generated=np.array(generated, np.int32))


def test_a_reply_counts_once():
    assert replies_of(replies(3, 5)).generated.tolist() == [0, 0]


def test_the_constant_says_the_median_record():
    assert constant_median(replies(5), at(0, 100)).tolist() == [3, 3]


def test_places_are_told_apart_as_finely_as_edges():
    known = replies(2, 2, 40)
    first, second, late, beyond = median_by_position(known, at(0, 1, 30, 1000))
    assert (first, second) == (2, 1)
    assert 8 <= late <= 15
    assert beyond <= 8


def test_survivors_condition_on_what_has_come():
    curves = survivors(replies(2, 2, 2, 10), at(0, 2, 9), horizon=64)
    assert curves[:, EDGES.index(2)] == pytest.approx([0.25, 1, 0])
    assert quantile(curves, 0.5).tolist() == [2, 7, 1]  # 8, to the edges' grain


def test_replies_that_were_cut_off_have_not_ended():
    curves = survivors(replies(4, 4, 4, cut=2), at(0), horizon=16)
    assert curves[0, EDGES.index(3)] == 1
    assert curves[0, EDGES.index(4)] == pytest.approx(2 / 3)
