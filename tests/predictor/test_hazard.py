"""Likelihoods of replies that ended and of those that were cut off, against sums by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from predictor.edges import EDGES
from predictor.hazard import alive_at_edges, logits_of, survival_nll
from serving.forecast.survival import Survival

K = 20
logits = st.lists(st.floats(-4, 4), min_size=K, max_size=K).map(lambda z: jnp.array([z]))


def nll(z: jax.Array, remaining: int, *, censored: bool) -> float:
    return float(survival_nll(z, jnp.array([remaining]), jnp.array([censored]))[0])


def curve_of(z: jax.Array) -> Survival:
    alive = np.asarray(alive_at_edges(z))[0].astype(np.float64)
    return Survival((*np.minimum.accumulate(alive).tolist(), *[0.0] * (len(EDGES) - K - 1)))


@settings(max_examples=50)
@given(logits)
def test_the_chances_to_end_in_the_intervals_and_to_outlive_all_are_one(z):
    ends = [np.exp(-nll(z, EDGES[i + 1], censored=False)) for i in range(K)]
    outlives = np.exp(-nll(z, EDGES[K], censored=True))
    assert sum(ends) + outlives == pytest.approx(1, rel=1e-4)


@settings(max_examples=50)
@given(logits, st.integers(1, EDGES[K]))
def test_a_reply_that_was_cut_off_is_as_likely_as_its_curve_says_to_go_on(z, cut):
    likely = np.exp(-nll(z, cut, censored=True))
    assert likely == pytest.approx(curve_of(z).still_running(cut), rel=1e-3, abs=1e-6)


def test_all_lengths_of_an_interval_are_alike():
    z = jnp.linspace(-2.0, 2.0, K)[None, :]
    left, right = EDGES[12], EDGES[13]
    assert right - left > 2
    assert nll(z, left + 1, censored=False) == nll(z, right, censored=False)
    assert nll(z, left, censored=False) != nll(z, left + 1, censored=False)


def test_a_censored_reply_says_nothing_of_what_would_have_come():
    z = jnp.zeros((1, K))
    cut = EDGES[10]
    gradient = jax.grad(lambda z: survival_nll(z, jnp.array([cut]), jnp.array([True]))[0])(z)[0]
    assert (gradient[:10] > 0).all()  # it went on: less hazard there
    assert (gradient[10:] == 0).all()


def test_a_reply_that_ended_raises_the_hazard_where_it_did():
    z = jnp.zeros((1, K))
    end = EDGES[11]
    gradient = jax.grad(lambda z: survival_nll(z, jnp.array([end]), jnp.array([False]))[0])(z)[0]
    assert gradient[10] < 0
    assert (gradient[:10] > 0).all()
    assert (gradient[11:] == 0).all()


@settings(max_examples=30)
@given(logits)
def test_a_curve_gives_its_logits_back(z):
    alive = np.asarray(alive_at_edges(z), np.float64)
    assert logits_of(alive) == pytest.approx(np.asarray(z), abs=1e-2)
