"""The text model: causal, with a window, the head's loss on top; and on disk."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor import text_model
from predictor.edges import intervals_up_to
from predictor.hazard import logits_of, survival_nll
from predictor.text_model import TextSpec, load_text_model, save_text_model
from predictor.weight_files import SavedError

SPEC = TextSpec("reply", 100, 16, 2, 32, 16, (8,), "weights", "tokens")
MODEL = SPEC.build()
S = 12


@pytest.fixture(scope="module")
def weights():
    return jax.jit(MODEL.init)(jax.random.key(0))


def said(weights, tokens: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
    counts = np.ones((*tokens.shape, 3), np.int32) if counts is None else counts
    # Compiled anew every time, since a test changes what is traced; op by op takes longer still.
    alive = jax.jit(lambda *arguments: MODEL.alive(*arguments))
    return np.asarray(alive(weights, jnp.asarray(tokens), jnp.asarray(counts)))


def text(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 16, (1, S)).astype(np.int32)


def test_there_is_a_curve_at_every_position(weights):
    alive = said(weights, np.concatenate([text(0), text(1)]))
    assert alive.shape == (2, S, intervals_up_to(100) + 1)
    assert (alive[..., 0] == 1).all()
    assert (np.diff(alive, axis=-1) <= 0).all()


def test_a_position_sees_what_stands_before_it_and_itself(weights):
    one, other = text(0), text(0)
    other[0, 5] = (other[0, 5] + 1) % 16
    change = np.abs(said(weights, one) - said(weights, other)).max(axis=-1)[0]
    assert (change[:5] == 0).all()
    assert (change[5:] > 0).all()


def test_a_layer_looks_back_over_its_window_in_whatever_blocks(weights, monkeypatch):
    whole = said(weights, text(0))
    monkeypatch.setattr(text_model, "QUERY_BLOCK", 5)
    assert said(weights, text(0)) == pytest.approx(whole, abs=1e-5)
    monkeypatch.setattr(text_model, "WINDOW", 3)
    one, other = text(0), text(0)
    other[0, 2] = (other[0, 2] + 1) % 16
    change = np.abs(said(weights, one) - said(weights, other)).max(axis=-1)[0]
    assert (change[2:7] > 0).all()  # two layers reach back over two positions each
    assert (change[7:] == 0).all()


@pytest.mark.parametrize("count", range(3))
def test_every_count_counts(weights, count: int):
    counts = np.ones((1, S, 3), np.int32)
    counts[..., count] = 7
    assert (said(weights, text(0)) != said(weights, text(0), counts)).any(axis=-1).all()


def test_the_loss_is_the_heads(weights):
    tokens, counts = jnp.asarray(text(0)), jnp.ones((1, S, 3), int)
    remaining = jnp.arange(1, S + 1)[None, :]
    censored = remaining % 2 == 0
    loss = jax.jit(MODEL.loss)(weights, tokens, counts, remaining, censored)
    alive = said(weights, text(0))[0]
    wanted = survival_nll(jnp.asarray(logits_of(alive)), remaining[0], censored[0])
    assert np.asarray(loss)[0] == pytest.approx(np.asarray(wanted), rel=1e-2)


def test_a_text_model_comes_back_as_it_was(tmp_path: Path, weights):
    save_text_model(tmp_path, SPEC, weights)
    found, again = load_text_model(tmp_path)
    assert found == SPEC
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), weights, again))


def test_what_is_broken_is_named(tmp_path: Path, weights):
    save_text_model(tmp_path, SPEC, jax.tree.map(lambda w: w * jnp.nan, weights))
    with pytest.raises(SavedError, match="not numbers"):
        load_text_model(tmp_path)
    shutil.rmtree(tmp_path / "weights")
    with pytest.raises(SavedError, match="weights: truncated"):
        load_text_model(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"digest": "", "version": 7}', '{"digest": "", "version": 1}']
)
def test_what_describes_no_text_model_is_named(tmp_path: Path, content: str):
    (tmp_path / text_model.FILE).write_text(content)
    with pytest.raises(SavedError, match=r"text_model\.json"):
        load_text_model(tmp_path)
