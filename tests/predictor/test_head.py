"""The heads under their one interface."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from predictor.curves import quantile
from predictor.edges import EDGES, intervals_up_to
from predictor.head import (
    BIN_TOKENS,
    BinsHead,
    HazardHead,
    Head,
    PointHead,
    Weights,
    bin_curves,
    num_bins,
    num_parameters,
)

F, HORIZON = 5, 300
HEADS = {
    "hazard": HazardHead((16,), HORIZON),
    "point": PointHead((16,), HORIZON),
    "bins": BinsHead((16,), HORIZON),
}


def fitted(head: Head, x: jax.Array, remaining: jax.Array, censored: jax.Array) -> Weights:
    optimizer = optax.adam(0.01)
    weights = head.init(jax.random.key(0), F)

    def mean(weights: Weights) -> jax.Array:
        return head.loss(weights, x, remaining, censored).mean()

    @jax.jit
    def step(state: tuple[Weights, optax.OptState], _: None):
        weights, moments = state
        updates, moments = optimizer.update(jax.grad(mean)(weights), moments)
        return (optax.apply_updates(weights, updates), moments), None

    (weights, _), _ = jax.lax.scan(step, (weights, optimizer.init(weights)), None, length=1500)
    return weights


@pytest.mark.parametrize("name", HEADS)
def test_curves_fall_from_one_and_reach_the_horizon(name):
    head = HEADS[name]
    weights = head.init(jax.random.key(1), F)
    alive = np.asarray(head.alive(weights, jax.random.normal(jax.random.key(2), (7, F))))
    assert alive.shape == (7, intervals_up_to(HORIZON) + 1)
    assert (alive[:, 0] == 1).all()
    assert (np.diff(alive, axis=1) <= 0).all()
    assert (alive >= 0).all()


@pytest.mark.parametrize("name", HEADS)
def test_a_head_learns_what_its_features_tell(name):
    head = HEADS[name]
    kind = jnp.arange(200) % 2
    x = jax.nn.one_hot(kind, F)
    remaining = jnp.where(kind == 0, 10, 100)
    weights = fitted(head, x, remaining, jnp.zeros(200, bool))
    alive = np.asarray(head.alive(weights, jax.nn.one_hot(jnp.arange(2), F)))
    medians = [EDGES[int((row > 0.5).sum())] for row in alive]
    assert medians[0] <= 13
    assert 80 <= medians[1] <= 128


def test_only_the_hazard_head_knows_that_replies_were_cut_off():
    """Half of the replies are cut at 20; the others last 100: uncut ones last 100 or more."""
    x = jnp.zeros((200, F))
    censored = jnp.arange(200) % 2 == 0
    remaining = jnp.where(censored, 20, 100)
    alive = {
        name: np.asarray(head.alive(fitted(head, x, remaining, censored), x[:1]))[0]
        for name, head in HEADS.items()
    }
    at_80 = EDGES.index(81)
    assert alive["hazard"][at_80] > 0.9
    assert alive["hazard"][EDGES.index(20)] > 0.95


@pytest.mark.parametrize("number", [0.2, 1.0, 13.4, 101.6, 102.0, 290.0])
def test_the_median_of_a_point_heads_curve_is_its_number(number: float):
    head = PointHead((), HORIZON)
    weights = {"Dense_0": {"kernel": jnp.zeros((F, 1)), "bias": jnp.array([number / HORIZON])}}
    alive = np.asarray(head.alive(weights, jnp.zeros((1, F))), np.float64)
    assert quantile(alive, 0.5)[0] == pytest.approx(max(number, 1), abs=1)


def test_a_bins_mass_is_spread_evenly_over_it():
    curves = bin_curves(HORIZON)
    assert curves.shape == (num_bins(HORIZON), intervals_up_to(HORIZON) + 1)
    assert curves[0, EDGES.index(4)] == 1 - 4 / BIN_TOKENS
    assert curves[1, EDGES.index(16)] == 1
    assert curves[1, EDGES.index(20)] == 1 - 4 / BIN_TOKENS
    assert (curves[:, -1] <= 1).all()
    assert (curves[:-1, -1] == 0).all()


@pytest.mark.parametrize(("remaining", "own"), [(1, 0), (16, 0), (17, 1), (300, 18), (9999, 18)])
def test_bins_hold_their_upper_end_and_the_last_all_that_is_longer(remaining: int, own: int):
    head = BinsHead((), HORIZON)
    weights = head.init(jax.random.key(3), F)
    x = jax.random.normal(jax.random.key(4), (1, F))
    loss = head.loss(weights, x, jnp.array([remaining]), jnp.array([False]))
    assert float(loss[0]) == pytest.approx(-np.log(head.chances(weights, x)[0, own]), rel=1e-5)


def test_parameters_are_counted():
    weights = HazardHead((16,), HORIZON).init(jax.random.key(0), F)
    assert num_parameters(weights) == (F + 1) * 16 + 17 * intervals_up_to(HORIZON)
