"""A length head is served if it fits; if not, one line says why, and the server goes on."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.checkpoint_files import LENGTH_HEAD
from model.config import ModelConfig, load_config
from predictor.conformal import CLASSES, LEVELS, Calibration, uncalibrated
from predictor.fingerprint import checkpoint_fingerprint, tokenizer_fingerprint
from predictor.glance import Glance
from predictor.reading import PLAIN, Reader
from predictor.saved import HeadSpec, save_head, save_reader
from predictor.smoothing import UNSMOOTHED, Smoothing
from serving.config import ConfigError, ForecastConfig
from serving.engine.length_head import LengthHead, NoHead, find_length_head
from tests.model.checkpoints import GOLDEN, edit_json

CONTEXT = 128
LATER = Calibration((tuple((np.linspace(0, 1, LEVELS) ** 2).tolist()),) * CLASSES)
READER = Reader(Smoothing(0.6, 0.5), LATER)


@pytest.fixture(scope="module")
def model() -> ModelConfig:
    return load_config(GOLDEN / "qwen3", dtype="float32")


def spec_for(checkpoint: Path, model: ModelConfig) -> HeadSpec:
    own = checkpoint_fingerprint(checkpoint), tokenizer_fingerprint(checkpoint)
    return HeadSpec("hazard", (8,), 200, (1, 2), model.hidden_size, *own)


def save(head: Path, spec: HeadSpec, scale: float = 1.0) -> None:
    weights = spec.init(jax.random.key(1))
    save_head(head, spec, jax.tree.map(lambda w: w * jnp.float32(scale), weights))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, model: ModelConfig) -> Path:
    """A checkpoint with a length head beside it."""
    checkpoint = tmp_path_factory.mktemp("original")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (checkpoint / name).write_text(name)
    save(checkpoint / LENGTH_HEAD, spec_for(checkpoint, model))
    save_reader(checkpoint / LENGTH_HEAD, READER)
    return checkpoint


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "checkpoint"))


def find(checkpoint: Path, model: ModelConfig, **how) -> LengthHead | NoHead:
    return find_length_head(ForecastConfig(**how), checkpoint, model, CONTEXT)


def problem(checkpoint: Path, model: ModelConfig, **how) -> str:
    """What is wrong, in one line that names the head's directory."""
    found = find(checkpoint, model, **how)
    assert isinstance(found, NoHead)
    assert found.problem is not None
    assert str(checkpoint / LENGTH_HEAD) in found.problem
    assert "\n" not in found.problem
    assert found.problem in str(found)
    return found.problem


def test_a_head_that_fits_is_loaded_with_its_reader(checkpoint: Path, model: ModelConfig):
    found = find(checkpoint, model)
    assert isinstance(found, LengthHead)
    assert found.path == checkpoint / LENGTH_HEAD
    assert found.spec == spec_for(checkpoint, model)
    assert found.reader.smoothing == READER.smoothing
    assert np.array(found.reader.calibration.maps) == pytest.approx(np.array(LATER.maps), abs=1e-5)
    wanted = found.spec.build().init(jax.random.key(1), found.spec.num_features)
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), wanted, found.weights))


def test_a_head_says_what_it_is(checkpoint: Path, model: ModelConfig):
    # Two layers of 32 and three scalars into 8, and into the intervals up to 200.
    assert str(find(checkpoint, model)).endswith(
        "length_head (hazard, 733 parameters, on layers 1, 2)"
    )


def test_a_head_may_lie_elsewhere(checkpoint: Path, model: ModelConfig, tmp_path: Path):
    elsewhere = (checkpoint / LENGTH_HEAD).rename(tmp_path / "elsewhere")
    assert find(checkpoint, model) == NoHead(None)
    found = find(checkpoint, model, length_head=str(elsewhere))
    assert isinstance(found, LengthHead)
    assert found.path == elsewhere


def test_a_head_without_a_reader_is_taken_as_it_is(checkpoint: Path, model: ModelConfig):
    (checkpoint / LENGTH_HEAD / "reader.json").unlink()
    found = find(checkpoint, model)
    assert isinstance(found, LengthHead)
    assert found.reader == PLAIN


@pytest.mark.parametrize(
    ("how", "smooths", "calibrates"),
    [
        ({"smooth_readings": False}, False, True),
        ({"calibrate_readings": False}, True, False),
        ({"smooth_readings": False, "calibrate_readings": False}, False, False),
    ],
)
def test_what_a_reader_does_can_be_switched_off(
    checkpoint: Path, model: ModelConfig, how: dict, smooths: bool, calibrates: bool
):
    found = find(checkpoint, model, **how)
    assert isinstance(found, LengthHead)
    assert found.reader.smoothing == (READER.smoothing if smooths else UNSMOOTHED)
    assert (found.reader.calibration != uncalibrated()) == calibrates


def test_a_checkpoint_without_a_head_is_no_problem(checkpoint: Path, model: ModelConfig):
    shutil.rmtree(checkpoint / LENGTH_HEAD)
    found = find(checkpoint, model)
    assert found == NoHead(None)
    assert str(found) == "none; reply lengths are forecast from past replies"


def test_who_wants_none_gets_none_whatever_is_there(checkpoint: Path, model: ModelConfig):
    assert find(checkpoint, model, length_head="none") == NoHead(None)


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_that_is_asked_for_must_hold_a_head_that_fits(
    checkpoint: Path, model: ModelConfig, tmp_path: Path, exists: bool
):
    asked_for = tmp_path / "head"
    if exists:
        shutil.copytree(checkpoint / LENGTH_HEAD, asked_for)
        model = replace(model, hidden_size=64)
    with pytest.raises(ConfigError) as caught:
        find(checkpoint, model, length_head=str(asked_for))
    wrong = "reads states of size 32, this model's are 64" if exists else "no such directory"
    said = str(caught.value)
    assert said.startswith(f"--length-head {asked_for}: {wrong}")
    assert said.endswith("; name one that fits, or none to serve without")
    assert "\n" not in said


def test_a_head_beside_the_checkpoint_that_cannot_be_read_is_a_problem_told(
    checkpoint: Path, model: ModelConfig
):
    (checkpoint / LENGTH_HEAD / "head.json").unlink()
    assert "cannot be read" in problem(checkpoint, model)


def test_a_head_of_another_checkpoint_is_refused(checkpoint: Path, model: ModelConfig):
    (checkpoint / "model.safetensors").write_text("trained on")
    assert "another checkpoint" in problem(checkpoint, model)


def test_a_head_of_another_tokenizer_is_refused(checkpoint: Path, model: ModelConfig):
    (checkpoint / "tokenizer.json").write_text("other words")
    assert "another tokenizer" in problem(checkpoint, model)


def test_a_head_of_another_hidden_size_is_refused(checkpoint: Path, model: ModelConfig):
    wider = replace(model, hidden_size=64)
    assert "states of size 32, this model's are 64" in problem(checkpoint, wider)


def test_a_head_on_a_layer_that_is_not_there_is_refused(checkpoint: Path, model: ModelConfig):
    assert "this model has 1" in problem(checkpoint, replace(model, num_layers=1))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"layer": 3}, r"reads layers \(1, 2, 3\), this model has 2"),
        ({"kv_heads": 4}, r"glances at 4 heads of 16, this model has 2 of 16"),
        ({"head_dim": 8}, r"glances at 2 heads of 8, this model has 2 of 16"),
    ],
    ids=str,
)
def test_a_glance_fits_the_layers_and_heads_of_the_model(
    checkpoint: Path, model: ModelConfig, change: dict, said: str | None
):
    glance = replace(
        Glance(
            layer=2,
            window=8,
            queries=1,
            numbers=2,
            kv_heads=model.num_kv_heads,
            head_dim=model.head_dim,
        ),
        **change,
    )
    save(checkpoint / LENGTH_HEAD, replace(spec_for(checkpoint, model), glance=glance))
    if said is None:
        assert str(find(checkpoint, model)).endswith("on layers 1, 2, with a glance at the prompt)")
    else:
        assert re.search(said, problem(checkpoint, model))


@pytest.mark.parametrize(("context", "fits"), [(200, True), (201, False)])
def test_a_head_looks_as_far_ahead_as_the_context_is_long(
    checkpoint: Path, model: ModelConfig, context: int, fits: bool
):
    found = find_length_head(ForecastConfig(), checkpoint, model, context)
    assert isinstance(found, LengthHead) == fits
    if isinstance(found, NoHead):
        assert "looks 200 tokens ahead, the context has 201" in str(found)
        assert "--max-model-len" in str(found)
        assert str(checkpoint / LENGTH_HEAD) in str(found)


def test_weights_that_were_cut_short_are_refused(checkpoint: Path, model: ModelConfig):
    files = [path for path in (checkpoint / LENGTH_HEAD / "weights").rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-10])
    assert "weights: truncated" in problem(checkpoint, model)


def test_a_directory_without_weights_is_refused(checkpoint: Path, model: ModelConfig):
    shutil.rmtree(checkpoint / LENGTH_HEAD / "weights")
    assert "weights: truncated" in problem(checkpoint, model)


def test_weights_that_are_no_numbers_are_refused(checkpoint: Path, model: ModelConfig):
    save(checkpoint / LENGTH_HEAD, spec_for(checkpoint, model), scale=float("nan"))
    assert "not numbers" in problem(checkpoint, model)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", '{"version": 9}', '{"version": 1, "calibration": [[0, 1]]}'],
)
def test_a_reader_that_is_broken_is_refused(checkpoint: Path, model: ModelConfig, content: str):
    (checkpoint / LENGTH_HEAD / "reader.json").write_text(content)
    assert "reader.json" in problem(checkpoint, model)


@pytest.mark.parametrize(
    "smoothing", [{"reading": 0.0, "past": 1.0}, {"reading": 1.0}, {"other": 1.0}, 3]
)
def test_a_reader_that_smooths_by_nonsense_is_refused(
    checkpoint: Path, model: ModelConfig, smoothing: object
):
    edit_json(checkpoint / LENGTH_HEAD / "reader.json", lambda top: top.update(smoothing=smoothing))
    assert "does not say how a head is read" in problem(checkpoint, model)


def test_a_calibration_that_is_no_number_is_refused(checkpoint: Path, model: ModelConfig):
    path = checkpoint / LENGTH_HEAD / "reader.json"
    top = json.loads(path.read_text())
    top["calibration"][3][5] = float("nan")
    path.write_text(json.dumps(top))
    assert "rising map" in problem(checkpoint, model)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "oracle"},
        {"version": 7},
        {"widths": None},
        {"more": 1},
        {"horizon": 0},
        {"horizon": 300},
        {"layers": [0, 2]},
        {"layers": [1]},
        {"glance": {"layer": 1}},
        {"glance": 3},
    ],
    ids=str,
)
def test_a_description_that_is_broken_is_refused(
    checkpoint: Path, model: ModelConfig, change: dict
):
    edit_json(checkpoint / LENGTH_HEAD / "head.json", lambda top: top.update(change))
    problem(checkpoint, model)


def test_a_description_that_is_no_text_is_refused(checkpoint: Path, model: ModelConfig):
    (checkpoint / LENGTH_HEAD / "head.json").write_bytes(b"\xff\xfe")
    assert "head.json" in problem(checkpoint, model)
