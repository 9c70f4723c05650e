"""Recomputed hidden states are those of the model, whatever the padding and the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.transformer import forward
from predictor.states import hidden_states
from tests.support.tiny_cluster import MODEL, PARAMS


def dense(sequence: list[int]) -> np.ndarray:
    """The hidden states after the final norm, over all positions at once, unpadded."""
    length = len(sequence)

    def attend(kv, layer, q, k, v):
        scores = jnp.einsum("tkgh,skh->kgts", q * q.shape[-1] ** -0.5, k)
        seen = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        return kv, jnp.einsum("kgts,skh->tkgh", weights, v)

    tokens, places = jnp.array(sequence), jnp.arange(length)
    hidden, _ = forward(PARAMS, tokens, places, jnp.zeros(()), attend, config=MODEL, axis=None)
    return np.asarray(hidden)


def sequences() -> list[list[int]]:
    random = np.random.default_rng(0)
    return [random.integers(0, MODEL.vocab_size, n).tolist() for n in (5, 1, 64)]


def test_the_last_layers_states_are_what_the_final_norm_makes_into_hidden_states():
    many = sequences()
    positions = [sorted({0, len(one) // 2, len(one) - 1}) for one in many]
    found = hidden_states(PARAMS, many, positions, config=MODEL, layers=(MODEL.num_layers,))
    scale = np.asarray(PARAMS["final_norm"])
    for one, own, states in zip(many, positions, found, strict=True):
        state = states[:, 0].astype(np.float32)
        normed = state / np.sqrt((state**2).mean(-1, keepdims=True) + MODEL.norm_eps) * scale
        assert normed == pytest.approx(dense(one)[own], abs=5e-3)


def test_layers_come_in_the_order_asked_for():
    many = sequences()[:1]
    both = hidden_states(PARAMS, many, [[4]], config=MODEL, layers=(2, 1))[0]
    first = hidden_states(PARAMS, many, [[4]], config=MODEL, layers=(1,))[0]
    assert both.shape == (1, 2, MODEL.hidden_size)
    assert (both[:, 1] == first[:, 0]).all()
    assert (both[:, 0] != both[:, 1]).any()


@pytest.mark.parametrize("reach", [1, 4, 100])
def test_recent_means_begin_where_asked_and_fade(reach: int):
    many = sequences()
    every, starts = [list(range(len(one))) for one in many], [2, 0, 20]
    layers = (1, 2)
    states = hidden_states(PARAMS, many, every, config=MODEL, layers=layers)
    both = hidden_states(
        PARAMS, many, every, config=MODEL, layers=layers, starts=starts, reach=reach
    )
    for found, plain, start in zip(both, states, starts, strict=True):
        assert (found[:, :2] == plain).all()
        centred = plain.astype(np.float64) - plain.mean(-1, keepdims=True, dtype=np.float64)
        normed = centred / centred.std(-1, keepdims=True)
        mean = np.zeros_like(normed[0])
        for place in range(start, len(normed)):
            share = 1 / min(place - start + 1, reach)
            mean = mean * (1 - share) + normed[place] * share
            assert found[place, 2:] == pytest.approx(mean, abs=0.02)


@pytest.mark.parametrize("layers", [(), (0,), (1, MODEL.num_layers + 1)])
def test_layers_that_the_model_lacks_are_refused(layers):
    with pytest.raises(ValueError, match="layers"):
        hidden_states(PARAMS, [[1]], [[0]], config=MODEL, layers=layers)


@pytest.mark.slow
def test_a_sequence_of_several_query_blocks():
    (long,) = [np.random.default_rng(1).integers(0, MODEL.vocab_size, 600).tolist()]
    places = [0, 255, 256, 599]
    (found,) = hidden_states(PARAMS, [long], [places], config=MODEL, layers=(MODEL.num_layers,))
    state = found[:, 0].astype(np.float32)
    normed = state / np.sqrt((state**2).mean(-1, keepdims=True) + MODEL.norm_eps)
    assert normed * np.asarray(PARAMS["final_norm"]) == pytest.approx(dense(long)[places], abs=5e-3)
