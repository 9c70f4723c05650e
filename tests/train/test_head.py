"""Fitting a head: it learns, stops early, and goes on where it was interrupted."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from predictor.glance import Glance
from predictor.prompts import prompts_of
from predictor.saved import HeadSpec
from train import head
from train.head import Asked, Data, Examples, batches, fit
from train.passes import Recipe, begin, take_passes

SPEC = HeadSpec("hazard", (16,), 200, (1,), 3, "weights", "tokens")
F = SPEC.num_features
RECIPE = Recipe(seed=1, passes=3, patience=3, batch=32, rate=5e-3, decay=1e-4)


def examples(seed: int, count: int = 256) -> Examples:
    """Remaining lengths that the first feature tells."""
    random = np.random.default_rng(seed)
    x = random.normal(size=(count, F)).astype(np.float32)
    remaining = np.clip(np.round(np.exp(3 + x[:, 0])), 1, 200).astype(np.int32)
    return Examples(jnp.asarray(x), jnp.asarray(remaining), jnp.zeros(count, bool))


def data(seed: int) -> Data:
    return Data(examples(seed), None)


def run(directory: Path, recipe: Recipe = RECIPE, **more):
    seen: list[tuple[int, float, float]] = []
    tune = more.get("tune", data(1))
    best, number = fit(SPEC, data(0), tune, recipe, 0.0, directory, lambda *one: seen.append(one))
    return best, number, seen


def equal(a, b) -> bool:
    return jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), a, b))


def test_the_loss_falls_and_the_best_pass_is_kept(tmp_path: Path):
    best, number, seen = run(tmp_path)
    tuned = [tune for _, _, tune in seen]
    assert tuned[-1] < tuned[0]
    assert number == int(np.argmin(tuned))
    loss = float(SPEC.build().loss(best, *examples(1)).mean())
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
        fit(SPEC, data(0), data(1), RECIPE, 0.0, tmp_path / "a", stop)
    best, _, seen = run(tmp_path / "a")
    assert [number for number, _, _ in seen] == [1, 2]
    assert equal(best, run(tmp_path / "b")[0])


def test_a_run_ends_once_it_has_not_got_better_for_so_long(tmp_path: Path):
    hopeless = examples(1)._replace(remaining=jnp.full(256, 1), x=-examples(1).x)
    recipe = replace(RECIPE, passes=40, patience=2)
    _, number, seen = run(tmp_path, recipe, tune=Data(hopeless, None))
    assert len(seen) == number + 1 + 2
    assert len(seen) < 40


def test_a_pass_whose_loss_is_no_number_is_not_the_best(tmp_path: Path):
    taken = iter([3.0, float("nan"), float("nan")])
    number, best = passes(tmp_path, taken)
    assert (number, float(best)) == (0, 1)


def test_a_run_without_any_loss_that_is_a_number_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="lower --rate"):
        passes(tmp_path, iter([float("nan")] * 3))


def passes(directory: Path, losses: Iterator[float]) -> tuple[int, jax.Array]:
    """Take passes, each of which adds 1 to the only weight; held-out losses are these."""
    state = begin(jnp.float32(0), optax.sgd(1.0))
    best, number = take_passes(
        state,
        RECIPE,
        directory,
        lambda _, weights, moments: (weights + 1, moments, 0.0),
        lambda _: next(losses),
        lambda *_: None,
    )
    return number, best


def test_the_mean_loss_does_not_depend_on_padding(monkeypatch: pytest.MonkeyPatch):
    weights, one = SPEC.init(jax.random.key(0)), SPEC.build()
    whole = float(head._mean_loss(one, weights, examples(3)))
    monkeypatch.setattr(head, "AT_ONCE", 100)
    assert float(head._mean_loss(one, weights, examples(3))) == pytest.approx(whole, rel=1e-5)


GLANCE = Glance(layer=1, window=48, queries=4, numbers=2, kv_heads=1, head_dim=4)
LOOKING = replace(SPEC, glance=GLANCE)


def told(seed: int, count: int = 256) -> Data:
    """Remaining lengths that one value of the prompt tells, whose key stands out; nothing else."""
    random = np.random.default_rng(seed)
    spoken = examples(seed, 2 * count)
    kv = random.normal(size=(count, 60, 2, 1, 4)).astype(np.float16)
    asked = random.normal(size=count)
    places = random.integers(20, 60, count)
    kv[np.arange(count), places, 0, 0] = [9, 0, 0, 0]
    kv[:, :, 1] = 0
    kv[np.arange(count), places, 1, 0, 0] = asked
    lengths = random.integers(places + 1, 61)
    prompts = {(n,): kv[n, : lengths[n]] for n in range(count)}
    own = np.repeat(np.arange(count), 2)
    remaining = np.clip(np.round(np.exp(3 + asked[own])), 1, 200).astype(np.int32)
    found = prompts_of({n: (n,) for n in range(count)}, prompts)
    spoken = Examples(spoken.x * 0, jnp.asarray(remaining), spoken.censored)
    return Data(spoken, Asked(GLANCE, found, own))


def test_what_stands_in_a_prompt_is_learned_by_a_head_that_looks_there(tmp_path: Path):
    recipe = replace(RECIPE, passes=10, patience=10, rate=2e-2)

    def best(spec: HeadSpec, name: str) -> float:
        seen: list[float] = []
        known, held = (
            data if spec.glance else replace(data, asked=None) for data in (told(0), told(1))
        )
        fit(spec, known, held, recipe, 0.1, tmp_path / name, lambda *one: seen.append(one[2]))
        return min(seen)

    assert best(LOOKING, "looks") < best(SPEC, "blind") - 1


def test_a_pass_has_every_example_once_in_batches_of_like_length():
    given = told(0)
    assert given.asked is not None
    _, count = given.asked.spans
    taken: list[int] = []
    for batch, length in batches(given, 8, np.random.default_rng(0)):
        assert (batch.prompts[batch.own] == given.asked.own[batch.records]).all()
        assert (count[batch.prompts] <= length).all()
        assert len(batch.prompts) % head.DISTINCT == 0
        taken += batch.records.tolist()
    assert len(taken) == len(set(taken))
    assert len(given) - len(taken) < 8 * len({32, 48})


def test_examples_that_fill_no_batch_are_repeated():
    few = Data(examples(0, 5), None)
    ((batch, _),) = batches(few, 8, np.random.default_rng(0))
    assert set(batch.records.tolist()) == set(range(5))
    assert len(batch.records) == 8
