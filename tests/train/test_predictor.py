"""Training a head: it learns, stops early, and goes on where it was interrupted."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from predictor.head import HazardHead
from predictor.records import Manifest, add_shard
from predictor.saved import load_head
from predictor.texts import texts_of
from tests.predictor.test_records import FAMILIES, ORIGIN, made
from train import predictor
from train.passes import Recipe
from train.predictor import Examples, train

F = 6
HEAD = HazardHead((16,), 200)
RECIPE = Recipe(seed=1, passes=3, patience=3, batch=32, rate=5e-3, decay=1e-4)


def data(seed: int, count: int = 256) -> Examples:
    """Remaining lengths that the first feature tells."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, F)).astype(np.float32)
    remaining = np.clip(np.round(np.exp(3 + x[:, 0])), 1, 200).astype(np.int32)
    return Examples(jnp.asarray(x), jnp.asarray(remaining), jnp.zeros(count, bool))


def run(directory: Path, recipe: Recipe = RECIPE, **more):
    seen: list[tuple[int, float, float]] = []
    best, number = train(
        HEAD, data(0), more.get("tune", data(1)), recipe, directory, lambda *one: seen.append(one)
    )
    return best, number, seen


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_the_loss_falls_and_the_best_pass_is_kept(tmp_path: Path):
    best, number, seen = run(tmp_path)
    tuned = [tune for _, _, tune in seen]
    assert tuned[-1] < tuned[0]
    assert number == int(np.argmin(tuned))
    held = data(1)
    loss = float(HEAD.loss(best, *held).mean())
    assert loss == pytest.approx(min(tuned), rel=1e-4)


@pytest.mark.slow
def test_equal_recipes_train_equal_heads(tmp_path: Path):
    first = run(tmp_path / "a")[0]
    assert equal(first, run(tmp_path / "b")[0])
    assert not equal(first, run(tmp_path / "c", replace(RECIPE, seed=2))[0])


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path):
    class Interrupted(Exception):
        pass

    def stop(number: int, loss: float, tuned: float) -> None:
        if number == 0:
            raise Interrupted

    with pytest.raises(Interrupted):
        train(HEAD, data(0), data(1), RECIPE, tmp_path / "a", stop)
    best, _, seen = run(tmp_path / "a")
    assert [number for number, _, _ in seen] == [1, 2]
    assert equal(best, run(tmp_path / "b")[0])


def test_a_run_ends_once_it_has_not_got_better_for_so_long(tmp_path: Path):
    hopeless = data(1)._replace(remaining=jnp.full(256, 1), x=-data(1).x)
    _, number, seen = run(tmp_path, replace(RECIPE, passes=40, patience=2), tune=hopeless)
    assert len(seen) == number + 1 + 2
    assert len(seen) < 40


def test_the_mean_loss_does_not_depend_on_padding(monkeypatch: pytest.MonkeyPatch):
    weights = HEAD.init(jax.random.key(0), F)
    whole = float(predictor._mean_loss(HEAD, weights, data(3)))
    monkeypatch.setattr(predictor, "AT_ONCE", 100)
    assert float(predictor._mean_loss(HEAD, weights, data(3))) == pytest.approx(whole, rel=1e-5)


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
