"""Training from records on disk: options, layers, and what prompts were recorded for."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from predictor.records import Manifest, add_shard
from predictor.saved import load_head
from predictor.texts import texts_of
from tests.predictor.test_records import FAMILIES, ORIGIN, made
from train import predictor

NOTHING = texts_of([], [], [])


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    manifest = Manifest(ORIGIN, FAMILIES, {})
    for split in ("train", "tune"):
        manifest = add_shard(
            tmp_path, manifest, f"{split}-00000.npz", made(len(split), 40), NOTHING
        )
    return manifest


def train(directory: Path, *more: str) -> Result:
    asked = ["--records", str(directory), "--out", str(directory / "head")]
    asked += ["--runs", str(directory / "runs"), "--passes", "1", "--batch", "40", "--linear"]
    return CliRunner().invoke(predictor.main, [*asked, *more])


def test_a_linear_head_has_no_widths():
    asked = ["--records", "none", "--out", "none", "--linear", "--width", "8"]
    result = CliRunner().invoke(predictor.main, asked)
    assert result.exit_code == 2
    assert "--linear has no hidden layers" in result.output


@pytest.mark.usefixtures("manifest")
def test_a_head_looks_at_the_layers_that_it_is_asked_to(tmp_path: Path):
    result = train(tmp_path, "--layer", "2")
    assert result.exit_code == 0, result.output
    spec, _ = load_head(tmp_path / "head")
    assert (spec.layers, spec.widths) == ((2,), ())
    wrong = train(tmp_path, "--layer", "3")
    assert wrong.exit_code == 1
    assert "layer 3 was not recorded" in wrong.output


def test_a_run_on_more_records_is_another_run(tmp_path: Path, manifest: Manifest):
    def bias():
        result = train(tmp_path)
        assert result.exit_code == 0, result.output
        _, weights = load_head(tmp_path / "head")
        return weights["Dense_0"]["bias"].tolist()

    first = bias()
    assert bias() == first  # nothing was left to do
    add_shard(tmp_path, manifest, "train-00001.npz", made(9, 400), NOTHING)
    assert bias() != first


@pytest.mark.usefixtures("manifest")
def test_a_run_that_is_stopped_before_it_has_a_reader_leaves_the_former_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def files() -> dict[Path, bytes]:
        own = (path for path in (tmp_path / "head").rglob("*") if path.is_file())
        return {path: path.read_bytes() for path in own}

    assert train(tmp_path).exit_code == 0
    former = files()
    assert tmp_path / "head" / "reader.json" in former

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predictor, "fit_reader", stop)
    assert train(tmp_path, "--seed", "1").exit_code == 1
    assert files() == former


@pytest.mark.usefixtures("manifest")
def test_what_cannot_be_written_is_told_before_anything_is_trained(tmp_path: Path):
    (tmp_path / "file").write_text("")
    result = train(tmp_path, "--out", str(tmp_path / "file" / "head"))
    assert (result.exit_code, str(tmp_path / "file") in result.output) == (1, True)
    assert isinstance(result.exception, SystemExit)  # one line, no traceback
    assert not (tmp_path / "runs").exists()
