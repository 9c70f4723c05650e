"""Training a text model: it learns from the text alone, and goes on where it was interrupted."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from click.testing import CliRunner

from predictor.records import Manifest, Records, add_shard
from predictor.text_batches import counts_of
from predictor.text_model import TextSpec, load_text_model
from predictor.texts import Texts, texts_of
from tests.predictor.test_records import FAMILIES, ORIGIN, made
from train import text_model
from train.passes import Recipe
from train.text_model import told, train

MODEL = TextSpec("reply", 100, 8, 1, 32, 32, (), "", "").build()
RECIPE = Recipe(seed=1, passes=5, patience=5, batch=256, rate=1e-2, decay=0.0)


def data(count: int) -> tuple[Records, Texts]:
    """Replies that last 5 tokens or 20, by the last token of their prompt."""
    kind = np.arange(count) % 2
    length = np.where(kind == 0, 5, 20)
    prompts = [[1, 2, 3 + k] for k in kind.tolist()]
    texts = texts_of(list(range(count)), prompts, [[7] * one for one in length.tolist()])
    records = replace(
        made(0, 2 * count),
        generated=np.tile([0, 4], count).astype(np.int32),
        remaining=(np.repeat(length, 2) - np.tile([0, 4], count)).astype(np.int32),
        prompt_len=np.full(2 * count, 3, np.int32),
        turn=np.zeros(2 * count, np.int32),
        reply=np.repeat(np.arange(count), 2).astype(np.int32),
        censored=np.zeros(2 * count, bool),
    )
    return records, texts


def run(directory: Path, stepped=lambda done: None):
    seen: list[tuple[int, float, float]] = []
    all_told = told(*data(32), "reply")
    best, number = train(
        MODEL, all_told, all_told, RECIPE, directory, lambda *one: seen.append(one), stepped
    )
    return best, number, seen


@pytest.mark.slow
def test_the_loss_falls_and_is_the_mean_over_records(tmp_path: Path):
    best, number, seen = run(tmp_path)
    tuned = [loss for _, _, loss in seen]
    assert number == int(np.argmin(tuned))
    assert tuned[-1] < 0.8 * tuned[0]
    records, texts = data(32)
    tokens = np.zeros((len(records), 32), np.int32)
    length = 3 + records.generated
    for i in range(len(records)):
        text = texts.text(int(records.reply[i]))[: length[i]]
        tokens[i, : len(text)] = text

    def everywhere(values: np.ndarray) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(values)[:, None], (len(records), 32, *values.shape[1:]))

    losses = jax.jit(MODEL.loss)(
        best,
        jnp.asarray(tokens),
        everywhere(counts_of(records)),
        everywhere(records.remaining),
        everywhere(records.censored),
    )
    own = np.asarray(losses)[np.arange(len(records)), length - 1]
    assert min(tuned) == pytest.approx(own.mean(), rel=1e-4)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_weights(tmp_path: Path):
    class Interrupted(Exception):
        pass

    def stop(done: int) -> None:
        if done == 13:
            raise Interrupted

    with pytest.raises(Interrupted):
        run(tmp_path / "a", stop)
    steps: list[int] = []
    best, _, seen = run(tmp_path / "a", steps.append)
    assert steps == list(range(13, 21))  # four a pass; the first three passes were saved
    again, _, whole = run(tmp_path / "b")
    assert 0 < seen[0][0] < RECIPE.passes
    assert whole[seen[0][0] :] == seen
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), best, again))


def test_what_sees_the_prompt_has_one_record_a_reply():
    found = told(*data(10), "prompt")
    assert found.records == 10
    assert {len(row.tokens) for row in found.rows} == {3}
    assert found.outcomes.remaining.tolist() == [5, 20] * 5


@pytest.mark.slow
def test_the_command_trains_and_writes(tmp_path: Path):
    manifest = Manifest(ORIGIN, FAMILIES, {})
    for split in ("train", "tune"):
        manifest = add_shard(tmp_path, manifest, f"{split}-00000.npz", *data(4))
    out = tmp_path / "text"
    asked = ["--records", str(tmp_path), "--out", str(out), "--runs", str(tmp_path / "runs")]
    asked += ["--sees", "prompt", "--passes", "1", "--batch", "64", "--vocab-size", "8"]
    result = CliRunner().invoke(text_model.main, asked)
    assert result.exit_code == 0, result.output
    spec, _ = load_text_model(out)
    assert (spec.sees, spec.checkpoint, spec.vocab_size) == ("prompt", ORIGIN.checkpoint, 8)
    few = CliRunner().invoke(text_model.main, [*asked, "--vocab-size", "7"])
    assert few.exit_code == 1
    assert "has token 7, --vocab-size 7 ends below it" in few.output
    more = CliRunner().invoke(text_model.main, [*asked, "--vocab-size", "9"])
    assert more.exit_code == 0, more.output
    wrong = CliRunner().invoke(text_model.main, ["--records", str(out), *asked[2:]])
    assert wrong.exit_code == 1
    assert "Traceback" not in wrong.output
