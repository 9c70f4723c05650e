"""A head on disk: what was saved comes back, and what is broken is named."""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from predictor.conformal import uncalibrated
from predictor.reading import PLAIN, Reader
from predictor.saved import HeadError, HeadSpec, load_head, load_reader, save_head, save_reader
from predictor.smoothing import Smoothing

SPEC = HeadSpec("hazard", (8,), 100, (2,), 6, "weights", "tokens")


def saved(directory: Path, spec: HeadSpec = SPEC):
    weights = spec.build().init(jax.random.key(1), spec.num_features)
    save_head(directory, spec, weights)
    return weights


@pytest.mark.parametrize("kind", ["hazard", "point", "bins"])
def test_a_head_comes_back_as_it_was(tmp_path: Path, kind: str):
    spec = replace(SPEC, kind=kind)
    weights = saved(tmp_path, spec)
    found, again = load_head(tmp_path)
    assert found == spec
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), weights, again))


@pytest.mark.parametrize("reader", [PLAIN, Reader(Smoothing(0.6, 0.4), uncalibrated())])
def test_a_reader_comes_back_as_it_was(tmp_path: Path, reader: Reader):
    assert load_reader(tmp_path) == PLAIN
    save_reader(tmp_path, reader)
    assert load_reader(tmp_path) == reader


def test_a_head_may_be_replaced_and_takes_nothing_over(tmp_path: Path):
    saved(tmp_path)
    save_reader(tmp_path, Reader(Smoothing(0.6, 0.4), uncalibrated()))
    wider = replace(SPEC, widths=(16,))
    saved(tmp_path, wider)
    assert load_head(tmp_path)[0] == wider
    assert load_reader(tmp_path) == PLAIN


def test_a_directory_without_weights_is_named(tmp_path: Path):
    saved(tmp_path)
    shutil.rmtree(tmp_path / "weights")
    with pytest.raises(HeadError, match=r"weights: truncated"):
        load_head(tmp_path)


def test_weights_that_were_cut_short_are_named(tmp_path: Path):
    saved(tmp_path)
    for path in (tmp_path / "weights").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(HeadError, match=r"weights: truncated"):
        load_head(tmp_path)


def test_weights_of_another_shape_are_named(tmp_path: Path):
    saved(tmp_path)
    other = tmp_path / "other"
    saved(other, replace(SPEC, widths=(9,)))
    (other / "head.json").replace(tmp_path / "head.json")
    with pytest.raises(HeadError, match=r"weights: truncated, or not the weights"):
        load_head(tmp_path)


def test_weights_that_are_not_numbers_are_named(tmp_path: Path):
    weights = saved(tmp_path)
    save_head(tmp_path, SPEC, jax.tree.map(lambda w: w * jnp.nan, weights))
    with pytest.raises(HeadError, match="not numbers"):
        load_head(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 7}'])
def test_what_describes_no_head_is_named(tmp_path: Path, content: str):
    (tmp_path / "head.json").write_text(content)
    with pytest.raises(HeadError, match=r"head\.json"):
        load_head(tmp_path)


def test_a_kind_that_is_unknown_is_named(tmp_path: Path):
    saved(tmp_path)
    path = tmp_path / "head.json"
    path.write_text(path.read_text().replace("hazard", "oracle"))
    with pytest.raises(HeadError, match=r"'oracle' is unknown; known: hazard, point, bins"):
        load_head(tmp_path)
