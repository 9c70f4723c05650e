"""Many curves at once say what one says alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.curves import after, mean_up_to, quantile
from predictor.edges import EDGES
from serving.forecast.survival import Survival

K = 24


def curve(seed: int, last: int) -> np.ndarray:
    """A curve over K intervals that reaches 0 at edge `last`, if that is one of them."""
    falls = np.random.default_rng(seed).uniform(0.3, 1, K)
    alive = np.concatenate([[1.0], np.cumprod(falls)])
    alive[last:] = 0
    return alive


def alone(alive: np.ndarray) -> Survival:
    return Survival((*alive.tolist(), *[0.0] * (len(EDGES) - len(alive))))


curves = st.lists(
    st.builds(curve, st.integers(0, 10**6), st.integers(1, K)), min_size=1, max_size=4
)


@settings(max_examples=60)
@given(curves, st.integers(1, EDGES[K]))
def test_means(many, limit):
    found = mean_up_to(np.array(many), np.full(len(many), limit, np.int32))
    assert found == pytest.approx([alone(one).expected(limit) for one in many], rel=1e-9)


@settings(max_examples=60)
@given(curves, st.floats(0.05, 0.95))
def test_quantiles(many, q):
    found = quantile(np.array(many), q)
    assert found == pytest.approx([alone(one).quantile(q) for one in many])


def test_a_curve_that_stays_up_says_its_last_edge():
    alive = np.full((1, K + 1), 0.9)
    alive[0, 0] = 1
    assert quantile(alive, 0.9).tolist() == [EDGES[K]]


@settings(max_examples=60)
@given(curves, st.integers(0, 2 * EDGES[K]))
def test_what_remains_after_some_tokens(many, came):
    whole = np.array([alone(one).alive for one in many])
    found = after(whole, np.full(len(many), came))
    wanted = np.array([alone(one).after(came).alive for one in many])
    assert found[:, :-1] == pytest.approx(wanted[:, :-1], abs=1e-9)
