"""Heads measured beside what needs no model, on records made up to be told by one feature."""

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from click.testing import CliRunner

from predictor.evaluate import main, measure
from predictor.records import Manifest, Records, RecordsError, add_shard
from predictor.saved import HeadSpec, save_head
from predictor.texts import texts_of
from predictor.weight_files import SavedError
from tests.predictor.test_records import FAMILIES, ORIGIN, made

SPEC = HeadSpec("hazard", (), 200, ORIGIN.layers, 4, ORIGIN.checkpoint, ORIGIN.tokenizer)


def some(seed: int, length: int) -> Records:
    """Records at the first token of replies of exactly so many tokens."""
    records = made(seed, 40)
    return replace(
        records,
        generated=np.zeros(40, np.int32),
        remaining=np.full(40, length, np.int32),
        limit=np.full(40, 500, np.int32),
        censored=np.zeros(40, bool),
        reply=np.arange(40, dtype=np.int32),
        temperature=np.full(40, 0.8, np.float32),
    )


@pytest.fixture
def records(tmp_path: Path) -> Path:
    manifest = Manifest(ORIGIN, FAMILIES, {})
    manifest = add_shard(tmp_path, manifest, "train-00000.npz", some(1, 20), texts_of([], [], []))
    manifest = add_shard(tmp_path, manifest, "tune-00000.npz", some(3, 22), texts_of([], [], []))
    add_shard(tmp_path, manifest, "test-00000.npz", some(2, 25), texts_of([], [], []))
    return tmp_path


def saved(directory: Path, spec: HeadSpec = SPEC) -> Path:
    save_head(directory, spec, spec.build().init(jax.random.key(0), spec.num_features))
    return directory


def test_all_predictors_are_measured_on_the_test_sessions(records: Path, tmp_path: Path):
    found = measure(records, [saved(tmp_path / "mine")], [], 0.8, 200, "test")
    figures = found["predictors"]
    assert set(figures) == {"constant median", "median by position", "survivors", "mine"}
    assert figures["constant median"]["all"]["mae"] == 5  # it says 20, and 25 come
    assert figures["survivors"]["all"]["covered_q90"] == 0
    assert found["parameters"]["mine"] > 0
    assert (found["replies"], found["censored"]) == (40, 0)


def test_a_temperature_that_was_not_collected_is_an_error(records: Path, tmp_path: Path):
    with pytest.raises(RecordsError, match=r"temperature 0\.5"):
        measure(records, [saved(tmp_path / "mine")], [], 0.5, 200, "test")


def test_the_first_head_is_compared_with_every_other_predictor(records: Path, tmp_path: Path):
    heads = [saved(tmp_path / "mine"), saved(tmp_path / "same")]
    found = measure(records, heads, [], 0.8, 200, "test")
    assert set(found["reduction"]) == set(found["predictors"]) - {"mine"}
    assert found["reduction"]["same"] == {"share": 0, "interval": [0, 0]}
    own, constant = (found["predictors"][n]["all"]["mae"] for n in ("mine", "constant median"))
    assert found["reduction"]["constant median"]["share"] == pytest.approx(1 - own / constant)


def test_another_split_may_be_asked_for(records: Path, tmp_path: Path):
    found = measure(records, [saved(tmp_path / "mine")], [], 0.8, 200, "tune")
    assert found["split"] == "tune"
    assert found["predictors"]["constant median"]["all"]["mae"] == 2


def test_the_command_writes_json_and_prints_a_table(records: Path, tmp_path: Path):
    head, out = saved(tmp_path / "mine"), tmp_path / "found.json"
    asked = ["--records", str(records), "--head", str(head), "--out", str(out)]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 0, result.output
    assert "| mine |" in result.output
    assert json.loads(out.read_text())["temperature"] == 0.8
    bare = CliRunner().invoke(main, asked[:-2])
    assert (bare.exit_code, bare.output) == (0, result.output)
    wrong = CliRunner().invoke(main, [*asked, "--temperature", "0.1"])
    assert wrong.exit_code == 1
    assert "Traceback" not in wrong.output


def test_two_heads_of_one_name_are_refused(records: Path, tmp_path: Path):
    """Figures are kept by name: one would stand where the other was."""
    heads = [saved(tmp_path / "old" / "head"), saved(tmp_path / "new" / "head")]
    with pytest.raises(SavedError, match="two of those given are called head"):
        measure(records, heads, [], 0.8, 200, "test")


def test_a_file_that_cannot_be_written_is_told_before_anything_is_measured(
    records: Path, tmp_path: Path
):
    (tmp_path / "file").write_text("")
    out, head = tmp_path / "file" / "found.json", tmp_path / "mine"
    asked = ["--records", str(records), "--head", str(head), "--out", str(out)]
    result = CliRunner().invoke(main, asked)
    assert (result.exit_code, str(tmp_path / "file") in result.output) == (1, True)
    assert "Traceback" not in result.output
    deep = tmp_path / "not" / "there" / "found.json"
    saved(head)
    assert CliRunner().invoke(main, [*asked[:-1], str(deep)]).exit_code == 0
    assert deep.exists()
