"""The filter along replies, against beliefs worked out by hand."""

import numpy as np
import pytest

from predictor.head import BIN_TOKENS
from predictor.trail import filtered, passed


def numbers(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_a_first_reading_is_believed():
    said = np.array([[0.2, 0.5, 0.3]])
    assert filtered(said, numbers(4), numbers(0)) == pytest.approx(said)


def test_each_token_moves_a_reply_one_bin_down_with_the_chance_of_its_share_of_the_bin():
    share = 1 / BIN_TOKENS
    once = passed(np.array([[0.0, 0.0, 1.0]]), numbers(1))
    assert once == pytest.approx(np.array([[0, share, 1 - share]]))
    twice = passed(np.array([[0.0, 0.0, 1.0]]), numbers(2))
    assert twice == pytest.approx(passed(once, numbers(1)))


def test_a_reply_does_not_get_longer_while_time_passes():
    later = passed(np.array([[0.0, 1.0, 0.0]]), numbers(50))
    assert later[0, 2] == 0
    assert later[0, 0] > later[0, 1]


def test_a_reading_is_multiplied_with_what_was_believed():
    said = np.array([[0.0, 0.5, 0.5], [0.25, 0.25, 0.5]])
    prior = passed(said[:1], numbers(1))[0]
    joint = prior * said[1]
    found = filtered(said, numbers(7, 7), numbers(0, 1))
    assert found[1] == pytest.approx(joint / joint.sum())


def test_replies_are_kept_apart_and_readings_taken_in_order():
    said = np.random.default_rng(0).dirichlet(np.ones(3), 5)
    reply, generated = numbers(2, 1, 2, 1, 2), numbers(20, 0, 0, 3, 1)
    together = filtered(said, reply, generated)
    for number in (1, 2):
        own = np.flatnonzero(reply == number)
        own = own[np.argsort(generated[own])]
        alone = filtered(said[own], reply[own], generated[own])
        assert together[own] == pytest.approx(alone)
    assert together[1] == pytest.approx(said[1])
    assert together[2] == pytest.approx(said[2])


def test_readings_that_contradict_each_other_leave_a_belief():
    said = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    found = filtered(said, numbers(0, 0), numbers(0, 1))
    assert np.isfinite(found).all()
    assert found.sum(axis=1) == pytest.approx([1, 1])
