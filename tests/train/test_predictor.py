"""Training from records on disk: options, layers, and what prompts were recorded for."""

from pathlib import Path

from click.testing import CliRunner

from predictor.records import Manifest, add_shard
from predictor.saved import load_head
from predictor.texts import texts_of
from tests.predictor.test_records import FAMILIES, ORIGIN, made
from train import predictor


def test_a_linear_head_has_no_widths():
    asked = ["--records", "none", "--out", "none", "--linear", "--width", "8"]
    result = CliRunner().invoke(predictor.main, asked)
    assert result.exit_code == 2
    assert "--linear has no hidden layers" in result.output


def test_a_head_looks_at_the_layers_that_it_is_asked_to(tmp_path: Path):
    manifest = Manifest(ORIGIN, FAMILIES, {})
    for split in ("train", "tune"):
        name = f"{split}-00000.npz"
        manifest = add_shard(tmp_path, manifest, name, made(len(split), 40), texts_of([], [], []))
    asked = ["--records", str(tmp_path), "--out", str(tmp_path / "head")]
    asked += ["--runs", str(tmp_path / "runs"), "--passes", "1", "--batch", "40", "--linear"]
    result = CliRunner().invoke(predictor.main, [*asked, "--layer", "2"])
    assert result.exit_code == 0, result.output
    spec, _ = load_head(tmp_path / "head")
    assert (spec.layers, spec.widths) == ((2,), ())
    wrong = CliRunner().invoke(predictor.main, [*asked, "--layer", "3"])
    assert wrong.exit_code == 1
    assert "layer 3 was not recorded" in wrong.output
