"""What a head sees of a row."""

import jax.numpy as jnp
import numpy as np
import pytest

from predictor.features import features, num_features, pick_layers


def made(hidden: np.ndarray, generated: int = 0, prompt_len: int = 1, turn: int = 0) -> np.ndarray:
    counts = (jnp.array([count]) for count in (generated, prompt_len, turn))
    return np.asarray(features(jnp.asarray(hidden)[None], *counts))[0]


def test_layers_stand_side_by_side_then_the_counts():
    row = made(np.random.default_rng(0).normal(size=(2, 8)), generated=3, prompt_len=7, turn=1)
    assert row.shape == (num_features(2, 8),)
    assert row[-3:] == pytest.approx(np.log1p([3, 7, 1]) / 4, rel=1e-6)


def test_each_layer_is_normalised_by_itself():
    states = np.random.default_rng(1).normal(size=(2, 8))
    row = made(states)
    scaled = made(states * np.array([[100.0], [0.1]]) + np.array([[5.0], [-3.0]]))
    assert scaled == pytest.approx(row, abs=1e-2)
    for layer in (row[:8], row[8:16]):
        assert layer.mean() == pytest.approx(0, abs=1e-5)
        assert layer.std() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("count", ["generated", "prompt_len", "turn"])
def test_every_count_counts(count):
    states = np.ones((1, 4))
    assert (made(states, **{count: 5}) != made(states, **{count: 6})).sum() == 1


def test_layers_are_picked_in_the_heads_order():
    states = np.random.default_rng(2).normal(size=(3, 3, 4)).astype(np.float16)
    found = pick_layers(states, (2, 5, 7), (7, 2), means=False)
    assert (found == states[:, [2, 0]]).all()


def test_a_layer_that_was_not_recorded_is_named():
    with pytest.raises(ValueError, match=r"layer 3 was not recorded; recorded are \(2, 5\)"):
        pick_layers(np.zeros((1, 2, 4), np.float16), (2, 5), (2, 3), means=False)


def test_recent_means_of_the_same_layers_follow():
    states = np.random.default_rng(2).normal(size=(3, 6, 4)).astype(np.float16)
    found = pick_layers(states, (2, 5, 7), (7, 2), means=True)
    assert (found == states[:, [2, 0, 5, 3]]).all()
    with pytest.raises(ValueError, match=r"means were not recorded; collect with --reach"):
        pick_layers(states[:, :3], (2, 5, 7), (7,), means=True)
