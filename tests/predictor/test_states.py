"""Recomputed hidden states are those of the model, whatever the padding and the batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.transformer import forward
from predictor.features import normalised
from predictor.states import Text, Wanted, narrowed, recompute
from tests.support.tiny_cluster import MODEL, PARAMS

LAST = Wanted((MODEL.num_layers,))


def dense(tokens: tuple[int, ...]) -> np.ndarray:
    """The hidden states after the final norm, over all positions at once, unpadded."""
    length = len(tokens)

    def attend(kv, layer, q, k, v):
        scores = jnp.einsum("tkgh,skh->kgts", q * q.shape[-1] ** -0.5, k)
        seen = jnp.tril(jnp.ones((length, length), bool))
        weights = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        return kv, jnp.einsum("kgts,skh->tkgh", weights, v)

    places = jnp.arange(length)
    hidden, _ = forward(
        PARAMS, jnp.array(tokens), places, jnp.zeros(()), attend, config=MODEL, axis=None
    )
    return np.asarray(hidden)


def normed(states: np.ndarray) -> np.ndarray:
    """States as the final norm leaves them."""
    wide = states.astype(np.float32)
    return wide / np.sqrt((wide**2).mean(-1, keepdims=True) + MODEL.norm_eps) * FINAL_NORM


FINAL_NORM = np.asarray(PARAMS["final_norm"])


def drawn(length: int, seed: int = 0) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(0, MODEL.vocab_size, length).tolist())


def whole(tokens: tuple[int, ...], prompt_len: int = 1) -> Text:
    return Text(tokens, prompt_len, range(len(tokens)))


TEXTS = [whole(drawn(5), 3), whole(drawn(1, 1)), whole(drawn(64, 2), 21)]


def states(texts: list[Text], wanted: Wanted) -> list[np.ndarray]:
    return [one.states for one in recompute(PARAMS, texts, wanted, config=MODEL)]


def test_the_last_layers_states_are_what_the_final_norm_makes_into_hidden_states():
    many = [Text(t.tokens, 1, sorted({0, len(t.tokens) // 2, len(t.tokens) - 1})) for t in TEXTS]
    for text, found in zip(many, states(many, LAST), strict=True):
        assert found.shape == (len(text.places), 1, MODEL.hidden_size)
        expected = dense(text.tokens)[list(text.places)]
        assert normed(found[:, 0]) == pytest.approx(expected, abs=5e-3)


def test_layers_come_in_the_order_asked_for():
    one = Text(TEXTS[0].tokens, 1, [4])
    (both,) = states([one], Wanted((2, 1)))
    (first,) = states([one], Wanted((1,)))
    assert both.shape == (1, 2, MODEL.hidden_size)
    assert (both[:, 1] == first[:, 0]).all()
    assert (both[:, 0] != both[:, 1]).any()


@pytest.mark.parametrize("reach", [1, 4, 100])
def test_recent_means_begin_at_the_prompts_last_token_and_fade(reach: int):
    many = states(TEXTS, Wanted((1, 2), reach))
    for text, found, plain in zip(TEXTS, many, states(TEXTS, Wanted((1, 2))), strict=True):
        assert (found[:, :2] == plain).all()
        centred = plain.astype(np.float64) - plain.mean(-1, keepdims=True, dtype=np.float64)
        same_scale = centred / centred.std(-1, keepdims=True)
        start = text.prompt_len - 1
        mean = np.zeros_like(same_scale[0])
        for place in range(start, len(same_scale)):
            share = 1 / min(place - start + 1, reach)
            mean = mean * (1 - share) + same_scale[place] * share
            assert found[place, 2:] == pytest.approx(mean, abs=0.02)


def test_turns_of_a_conversation_that_run_together_are_told_apart():
    """The second turn begins with the first; a sample of the first and a stranger stand by."""
    tokens = drawn(90, 5)
    other = (*tokens[:30], *drawn(9, 6))
    turns = [
        Text(tokens[:40], 30, [29, 35]),
        Text(tokens, 60, [59, 80]),
        Text(other, 30, [29, 38]),
        Text(tokens[:40], 30, [39]),
        Text(drawn(40, 7), 10, [9]),
    ]
    wanted = Wanted((1, 2), 4, prompt_layer=2, window=16)
    together = recompute(PARAMS, turns, wanted, config=MODEL)
    for text, found in zip(turns, together, strict=True):
        (alone,) = recompute(PARAMS, [text], wanted, config=MODEL)
        assert found.states == pytest.approx(alone.states, abs=0.02)
        assert found.kv == pytest.approx(alone.kv, abs=0.02)
        assert found.kv.shape[0] == min(16, text.prompt_len)


def test_without_a_layer_to_glance_at_nothing_is_kept_of_prompts():
    for one in recompute(PARAMS, TEXTS, LAST, config=MODEL):
        assert one.kv.shape == (0, 2, MODEL.num_kv_heads, MODEL.head_dim)


def test_states_that_float16_cannot_hold_look_the_same_to_a_head():
    large = np.random.default_rng(0).normal(size=(3, 2, 8)).astype(np.float32)
    large[1, 0] *= 1e6
    found = narrowed(large)
    assert np.isfinite(found).all()
    seen, wanted = (np.asarray(normalised(jnp.asarray(some))) for some in (found, large))
    assert seen == pytest.approx(wanted, abs=2e-3)
    whole = np.ones(6, bool).reshape(3, 2)
    whole[1, 0] = False
    assert (found[whole] == large[whole].astype(np.float16)).all()


def test_a_model_with_massive_activations_can_be_recorded():
    params = {**PARAMS, "embed": PARAMS["embed"] * 1e8}
    (found,) = recompute(params, [TEXTS[0]], LAST, config=MODEL)
    assert np.isfinite(found.states).all()
    assert np.abs(found.states).max() == np.finfo(np.float16).max


@pytest.mark.parametrize(
    "wanted",
    [
        Wanted(()),
        Wanted((0,)),
        Wanted((1, MODEL.num_layers + 1)),
        Wanted((1,), prompt_layer=MODEL.num_layers + 1, window=8),
    ],
)
def test_layers_that_the_model_lacks_are_refused(wanted: Wanted):
    with pytest.raises(ValueError, match="layers"):
        recompute(PARAMS, [Text((1,), 1, [0])], wanted, config=MODEL)


@pytest.mark.slow
def test_a_text_of_several_query_blocks():
    places = [0, 127, 128, 383, 384, 599]
    text = Text(drawn(600, 1), 1, places)
    (found,) = states([text], LAST)
    assert normed(found[:, 0]) == pytest.approx(dense(text.tokens)[places], abs=5e-3)
