"""What do the predictors that are compared say of every record? Medians, and 90 % quantiles.

Those without a model come from `predictor/baselines`, heads and text models from the directories
where they were saved; these are called by their names. Knows no figures.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from predictor.baselines import constant_median, median_by_position, survivors
from predictor.curves import after, quantile
from predictor.edges import intervals_up_to
from predictor.features import features, pick_layers
from predictor.follow import stated
from predictor.glanced import glanced
from predictor.head import BinsHead, Weights, bin_curves, num_parameters
from predictor.prompts import Prompts
from predictor.reading import PLAIN
from predictor.records import Manifest, Records
from predictor.saved import GLANCE, HeadError, HeadSpec, load_head, load_reader
from predictor.text_batches import counts_of, text_batches, text_rows
from predictor.text_model import WINDOW, TextSpec, TextWeights, load_text_model
from predictor.texts import Texts
from predictor.trail import filtered
from predictor.weight_files import SavedError

Floats = NDArray[np.float64]

AT_ONCE = 8192
"""Records, or tokens of texts, that are read together."""
MIDDLE, HIGH = 0.5, 0.9


@dataclass(frozen=True, slots=True)
class Answers:
    """What one predictor says of N records: medians, and its 90 % quantiles if it states any."""

    name: str
    parameters: int
    middle: Floats
    high: Floats | None


def without_model(train: Records, asked: Records, horizon: int) -> Iterator[Answers]:
    """Yield what needs no model."""
    yield Answers("constant median", 0, constant_median(train, asked), None)
    yield Answers("median by position", 0, median_by_position(train, asked), None)
    yield _answers("survivors", 0, survivors(train, asked, horizon))


def of_head(
    path: Path, manifest: Manifest, asked: Records, prompts: Prompts | None
) -> Iterator[Answers]:
    """Yield what a server states that serves a saved head, then what it would with less.

    Without smoothing, without calibration, and readings alone; of a head that tells bins apart,
    also what TRAIL's filter makes of them. Raises HeadError for a head that cannot be used or does
    not fit the records.
    """
    spec, weights = load_head(path)
    check_head(path, spec, manifest)
    head, count = spec.build(), num_parameters(weights)
    readings = readings_of(spec, weights, manifest, asked, prompts)
    reader = load_reader(path)
    yield _answers(path.name, count, stated(readings, asked, reader))
    if reader != PLAIN:
        for name, less in (
            ("not smoothed", reader.switched(smoothing=False, calibration=True)),
            ("not calibrated", reader.switched(smoothing=True, calibration=False)),
            ("readings alone", PLAIN),
        ):
            yield _answers(f"{path.name}, {name}", count, stated(readings, asked, less))
    if isinstance(head, BinsHead):
        chances = _read(head.chances, weights, _features(spec, weights, manifest, asked, prompts))
        beliefs = filtered(chances, asked.reply, asked.generated)
        yield _answers(f"{path.name}, filtered", count, beliefs @ bin_curves(spec.horizon))


def readings_of(
    spec: HeadSpec,
    weights: Weights,
    manifest: Manifest,
    asked: Records,
    prompts: Prompts | None,
) -> Floats:
    """Return a head's own curve for every record, [N, E].

    `prompts` are those of the replies, for a head that glances at them.
    """
    seen = _features(spec, weights, manifest, asked, prompts)
    curves = _read(spec.build().alive, weights, seen)
    return np.minimum.accumulate(curves, axis=1)


def of_text_model(path: Path, manifest: Manifest, asked: Records, texts: Texts) -> Answers:
    """Return what a saved text model says. Raises SavedError as `of_head` does HeadError."""
    spec, weights = load_text_model(path)
    origin = manifest.origin
    for name in ("checkpoint", "tokenizer"):
        if getattr(spec, name) != getattr(origin, name):
            raise SavedError(f"{path}: was trained on replies of another {name}")
    return _answers(path.name, num_parameters(weights), text_curves(spec, weights, asked, texts))


def check_head(path: Path, spec: HeadSpec, manifest: Manifest) -> None:
    """Raise HeadError unless a head reads what these records hold, of this model and tokenizer."""
    origin = manifest.origin
    for name in ("checkpoint", "tokenizer", "hidden_size"):
        if getattr(spec, name) != getattr(origin, name):
            raise HeadError(f"{path}: was trained on records of another {name}")
    if spec.reach not in (None, origin.reach):
        raise HeadError(f"{path}: looks at recent means of {spec.reach} states, not recorded")
    if spec.glance is not None and (
        spec.glance.layer != origin.prompt_layer or spec.glance.window > (origin.prompt_window or 0)
    ):
        raise HeadError(
            f"{path}: glances at {spec.glance.window} tokens of layer {spec.glance.layer}, "
            "not recorded"
        )
    missing = set(spec.layers) - set(origin.layers)
    if missing:
        raise HeadError(f"{path}: looks at layers {sorted(missing)}, which were not recorded")


def text_curves(spec: TextSpec, weights: TextWeights, asked: Records, texts: Texts) -> Floats:
    """Return a text model's curve for every record, [N, E].

    One that saw the prompt alone is read once a reply, and then conditioned on what has come.
    """
    if spec.sees == "prompt":
        first = asked[asked.generated == 0]
        curves = _text_readings(spec, weights, first, texts)
        order = np.argsort(first.reply)
        own = order[np.searchsorted(first.reply[order], asked.reply)]
        return after(curves[own], asked.generated.astype(np.int64))
    return _text_readings(spec, weights, asked, texts)


def _text_readings(spec: TextSpec, weights: TextWeights, asked: Records, texts: Texts) -> Floats:
    read = jax.jit(spec.build().alive)
    counts = counts_of(asked)
    curves = np.zeros((len(asked), intervals_up_to(spec.horizon) + 1))
    for batch in text_batches(text_rows(texts, asked, WINDOW), AT_ONCE, None):
        there = batch.record >= 0
        alive = read(weights, jnp.asarray(batch.tokens), jnp.asarray(counts[batch.record]))
        curves[batch.record[there]] = np.asarray(alive)[there]
    return curves


def _features(
    spec: HeadSpec,
    weights: Weights,
    manifest: Manifest,
    asked: Records,
    prompts: Prompts | None,
) -> list[jax.Array]:
    """Compute what a head sees of records, some at a time."""
    made = jax.jit(features)
    means = spec.reach is not None
    hidden = pick_layers(asked.hidden, manifest.origin.layers, spec.layers, means=means)
    parts = [hidden, asked.generated, asked.prompt_len, asked.turn]
    if spec.glance is not None:
        assert prompts is not None, "a head that glances has the prompts of its records"
        said = glanced(spec.glance, weights[GLANCE], prompts, jnp.asarray(prompts.kv))
        parts.append(said[prompts.of(asked.reply)])
    return [
        made(*(part[start : start + AT_ONCE] for part in parts))
        for start in range(0, len(asked), AT_ONCE)
    ]


def _read(
    function: Callable[[Weights, jax.Array], jax.Array], weights: Weights, x: list[jax.Array]
) -> Floats:
    read = jax.jit(function)
    return np.concatenate([np.asarray(read(weights, some), np.float64) for some in x])


def _answers(name: str, parameters: int, curves: Floats) -> Answers:
    falling = np.minimum.accumulate(curves, axis=1)
    return Answers(name, parameters, quantile(falling, MIDDLE), quantile(falling, HIGH))
