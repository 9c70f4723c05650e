"""What saved predictors say of records, and which do not fit them."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from predictor.candidates import of_head, of_text_model, text_curves, without_model
from predictor.curves import after, quantile
from predictor.features import features
from predictor.glance import Glance, look
from predictor.head import BinsHead, bin_curves, num_parameters
from predictor.prompts import prompts_of
from predictor.records import Manifest, Records
from predictor.saved import HeadError, HeadSpec, save_head
from predictor.text_model import TextSpec, save_text_model
from predictor.texts import Texts, texts_of
from predictor.trail import filtered
from predictor.weight_files import SavedError
from tests.predictor.test_records import FAMILIES, ORIGIN, made

HORIZON = 200
MANIFEST = Manifest(ORIGIN, FAMILIES, {})
SPEC = HeadSpec("hazard", (), HORIZON, (2,), 4, ORIGIN.checkpoint, ORIGIN.tokenizer)
TEXT = TextSpec("reply", HORIZON, 16, 1, 32, 16, (), ORIGIN.checkpoint, ORIGIN.tokenizer)
GLANCE = Glance(layer=2, window=5, queries=1, numbers=2, kv_heads=1, head_dim=4)
PLACES = ((0, 1, 5), (0,), (0, 3))
"""Where records lie in the replies 3, 4 and 5."""


@pytest.fixture(scope="module")
def asked() -> Records:
    reply = [number for number, own in enumerate(PLACES, 3) for _ in own]
    records = replace(
        made(5, len(reply)),
        generated=np.array([place for own in PLACES for place in own], np.int32),
        reply=np.array(reply, np.int32),
    )
    return records[np.array([5, 2, 0, 3, 4, 1])]  # in no order


@pytest.fixture(scope="module")
def texts() -> Texts:
    random = np.random.default_rng(0)
    prompts = [random.integers(0, 16, n).tolist() for n in (4, 7, 1)]
    return texts_of([3, 4, 5], prompts, [random.integers(0, 16, 9).tolist() for _ in range(3)])


def weights_of(spec: HeadSpec):
    return spec.init(jax.random.key(3))


def saved(directory: Path, spec: HeadSpec) -> Path:
    save_head(directory, spec, weights_of(spec))
    return directory


def read(asked: Records) -> jax.Array:
    """What a head of the second of two recorded layers sees."""
    counts = (asked.generated, asked.prompt_len, asked.turn)
    return features(*(jnp.asarray(part) for part in (asked.hidden[:, [1]], *counts)))


def test_a_head_reads_the_layers_that_it_was_trained_on(asked: Records, tmp_path: Path):
    (found,) = of_head(saved(tmp_path / "mine", SPEC), MANIFEST, asked, None)
    alive = SPEC.build().alive(weights_of(SPEC), read(asked))
    curves = np.minimum.accumulate(np.asarray(alive, np.float64), axis=1)
    assert (found.name, found.parameters) == ("mine", num_parameters(weights_of(SPEC)))
    assert found.middle == pytest.approx(quantile(curves, 0.5), abs=1)
    assert found.high == pytest.approx(quantile(curves, 0.9), abs=1)


def test_a_head_that_glances_sees_the_prompt_of_each_reply(asked: Records, tmp_path: Path):
    origin = replace(ORIGIN, prompt_layer=2, prompt_window=8)
    spec = replace(SPEC, glance=GLANCE)
    random = np.random.default_rng(1)
    kept = {(n,): 5 * random.normal(size=(3 + n, 2, 1, 4)).astype(np.float16) for n in (3, 4, 5)}
    prompts = prompts_of({n: (n,) for n in (3, 4, 5)}, kept)
    manifest = Manifest(origin, FAMILIES, {})
    (found,) = of_head(saved(tmp_path / "mine", spec), manifest, asked, prompts)
    weights = weights_of(spec)
    for i, reply in enumerate(asked.reply.tolist()):
        kv = jnp.asarray(kept[(reply,)][None, -5:])
        said = look(weights["glance"], kv[:, :, 0], kv[:, :, 1], jnp.ones(kv.shape[:2], bool), None)
        parts = (asked.hidden[:, [1]], asked.generated, asked.prompt_len, asked.turn)
        hidden, generated, prompt_len, turn = (jnp.asarray(part[i : i + 1]) for part in parts)
        own = features(hidden, generated, prompt_len, turn, said)
        alive = np.asarray(spec.build().alive(weights, own), np.float64)
        middle = quantile(np.minimum.accumulate(alive, axis=1), 0.5)
        assert found.middle[i] == pytest.approx(middle[0], abs=1)
    blind = replace(SPEC, glance=None)
    (other,) = of_head(saved(tmp_path / "blind", blind), MANIFEST, asked, None)
    assert (np.abs(found.middle - other.middle) > 1).any()


def test_of_bins_there_is_also_what_the_filter_makes(asked: Records, tmp_path: Path):
    spec = replace(SPEC, kind="bins", widths=(8,))
    plain, smooth = of_head(saved(tmp_path / "trail", spec), MANIFEST, asked, None)
    chances = BinsHead((8,), HORIZON).chances(weights_of(spec), read(asked))
    beliefs = filtered(np.asarray(chances, np.float64), asked.reply, asked.generated)
    assert (plain.name, smooth.name) == ("trail", "trail, filtered")
    assert smooth.middle == pytest.approx(quantile(beliefs @ bin_curves(HORIZON), 0.5), abs=1)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"checkpoint": "other"}, "another checkpoint"),
        ({"tokenizer": "other"}, "another tokenizer"),
        ({"reach": 5}, "means of 5 states"),
        ({"layers": (2, 3)}, r"looks at layers \[3\]"),
        ({"glance": GLANCE}, "glances at 5 tokens of layer 2, not recorded"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(asked: Records, tmp_path: Path, change, said: str):
    other = saved(tmp_path / "mine", replace(SPEC, **change))
    with pytest.raises(HeadError, match=said):
        list(of_head(other, MANIFEST, asked, None))


def test_what_saw_the_reply_is_read_at_every_record(asked: Records, texts: Texts):
    weights = TEXT.build().init(jax.random.key(0))
    found = text_curves(TEXT, weights, asked, texts)
    read = jax.jit(TEXT.build().alive)
    for i in range(len(asked)):
        one = int(asked.reply[i]) - 3
        seen = int(texts.prompt_len[one]) + int(asked.generated[i])
        tokens = np.zeros((1, 20), np.int32)
        tokens[0, :seen] = texts.text(one)[:seen]
        own = jnp.array([asked.generated[i], asked.prompt_len[i], asked.turn[i]])
        alive = read(weights, jnp.asarray(tokens), jnp.broadcast_to(own, (1, 20, 3)))
        assert found[i] == pytest.approx(np.asarray(alive)[0, seen - 1], abs=1e-5)


def test_what_saw_the_prompt_is_conditioned_on_what_has_come(asked: Records, texts: Texts):
    spec = replace(TEXT, sees="prompt")
    weights = spec.build().init(jax.random.key(0))
    found = text_curves(spec, weights, asked, texts)
    first = asked.generated == 0
    for number in (3, 4, 5):
        (curve,) = found[first & (asked.reply == number)]
        own = asked.reply == number
        came = asked.generated[own].astype(np.int64)
        assert found[own] == pytest.approx(after(np.tile(curve, (len(came), 1)), came))


def test_a_text_model_of_another_tokenizer_is_refused(asked: Records, texts: Texts, tmp_path: Path):
    other = replace(TEXT, tokenizer="other")
    save_text_model(tmp_path / "text", other, other.build().init(jax.random.key(0)))
    with pytest.raises(SavedError, match="another tokenizer"):
        of_text_model(tmp_path / "text", MANIFEST, asked, texts)


def test_baselines_come_by_name(asked: Records):
    found = list(without_model(asked, asked, HORIZON))
    assert [one.name for one in found] == ["constant median", "median by position", "survivors"]
    assert [one.high is None for one in found] == [True, True, False]
