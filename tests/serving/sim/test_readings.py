"""Readings: the oracle's curve falls at the end; an erring head is off as asked, and knows it."""

import numpy as np
import pytest

from predictor.curves import quantile
from predictor.edges import EDGES
from serving.sim.readings import ErringHead, Oracle
from serving.sim.replies import Replies


def replies_of(length: int, count: int = 1) -> Replies:
    replies = Replies()
    for _ in range(count):
        replies.add(length)
    return replies


@pytest.mark.parametrize(("at", "left"), [(0, 100), (60, 40), (99, 1)])
def test_the_oracle_knows_what_is_left(at: int, left: int):
    (curve,) = Oracle(replies_of(100)).read([0], [at])
    assert curve.shape == (len(EDGES) - 1,)
    assert curve.tolist() == [float(edge < left) for edge in EDGES[:-1]]


def test_an_erring_heads_curves_are_curves():
    alive = ErringHead(replies_of(500, 30), sigma=0.8, seed=1).read(range(30), [7] * 30)
    assert (alive[:, 0] == 1).all()
    assert (np.diff(alive, axis=1) <= 0).all()
    assert (alive >= 0).all()


@pytest.mark.parametrize("q", [0.1, 0.5, 0.9])
def test_an_erring_head_is_calibrated(q: float):
    count = 4000
    alive = ErringHead(replies_of(500, count), sigma=0.6, seed=2).read(range(count), [100] * count)
    covered = (quantile(np.asarray(alive, np.float64), q) >= 400).mean()
    assert covered == pytest.approx(q, abs=0.03)


def test_an_error_lasts_but_for_a_tenth():
    count = 3000
    head = ErringHead(replies_of(5000, count), sigma=0.5, seed=3)

    def error(at: int) -> np.ndarray:
        alive = np.asarray(head.read(range(count), [at] * count), np.float64)
        return np.log(quantile(alive, 0.5) / (5000 - at))

    assert np.corrcoef(error(0), error(0))[0, 1] == pytest.approx(1.0)
    assert np.corrcoef(error(0), error(20))[0, 1] == pytest.approx(0.9, abs=0.02)


def test_readings_depend_on_seed_turn_and_place_alone():
    one = ErringHead(replies_of(500, 3), sigma=0.5, seed=1)
    again = ErringHead(replies_of(500, 3), sigma=0.5, seed=1)
    other = ErringHead(replies_of(500, 3), sigma=0.5, seed=2)
    together = one.read([0, 1, 2], [5, 6, 7])
    assert (together[1] == again.read([1], [6])[0]).all()
    assert (together != other.read([0, 1, 2], [5, 6, 7])).any(axis=1).all()
    assert (together[1] != again.read([1], [26])[0]).any()


def test_a_head_without_an_error_is_the_oracle():
    with pytest.raises(ValueError, match="a head errs by more than 0"):
        ErringHead(replies_of(1), sigma=0.0, seed=0)
