"""Waiting times against the formulas of textbooks."""

from math import exp

import numpy as np
import pytest

from serving.plan.queue import FULLEST, erlang_c, fullest, in_time

ALIKE = np.full(10, 0.1)


def test_erlang_c():
    assert erlang_c(1, 0.7) == pytest.approx(0.7)  # M/M/1 waits when it is busy
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert erlang_c(10, 8.0) == pytest.approx(0.409, abs=1e-3)  # tables


def test_waits_of_one_worker_follow_pollaczek_and_khinchine():
    # Service of 0.1 s always, half of the time busy: who waits does so for 0.1 s on average.
    assert in_time(ALIKE, 1, 0.5, 0.3) == pytest.approx(1 - 0.5 * exp(-0.2 / 0.1))


def test_a_prompt_longer_than_the_target_is_late():
    assert in_time(np.array([0.1, 0.1, 0.1, 9.0]), 1, 0.0, 1.0) == 0.75
    assert fullest(np.array([0.1, 9.0]), 8, 1.0, 0.9) == 0.0


def test_the_fullest_queue_is_just_in_time():
    busy = fullest(ALIKE, 1, 0.3, 0.9)
    assert in_time(ALIKE, 1, busy, 0.3) == pytest.approx(0.9, abs=1e-6)
    assert fullest(ALIKE, 1, 100.0, 0.9) == FULLEST


def test_pools_may_be_fuller():
    shares = [fullest(ALIKE, workers, 0.3, 0.9) for workers in (1, 2, 8, 32)]
    assert shares == sorted(shares)
    assert shares[0] < 0.7 < 0.95 < shares[-1]
