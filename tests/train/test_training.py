import dataclasses
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer

from model.config import ModelConfig, load_config
from train.checkpoint import save_checkpoint, tensors
from train.decode import Decoding, decode
from train.lm import Recipe, demo_config, train
from train.loop import loss, rate, start, train_step
from train.packing import ROW_LENGTHS, batches, draw_topics, row_lengths
from train.tokenizer import END, encode_prompt, train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    topics = draw_topics(0, 0, 200)
    corpus = [text for turns in topics for turn in turns for text in (turn.question, turn.reply)]
    return train_tokenizer(corpus, vocab_size=300)


@pytest.fixture(scope="module")
def config(tokenizer: Tokenizer) -> ModelConfig:
    return dataclasses.replace(
        demo_config(tokenizer),
        num_layers=1,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
    )


def test_text_survives_the_round_trip_and_digits_stay_single(tokenizer: Tokenizer):
    text = "  Größe 12345,678 \n\t 😀 日本"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    digits = [token for token in tokenizer.encode(text).tokens if any(c.isdigit() for c in token)]
    assert digits == list("12345678")


def test_the_next_prompt_starts_with_prompt_reply_and_end(tokenizer: Tokenizer):
    first = [("system", "Be brief."), ("user", "Add 1 and 2. ")]
    prompt = encode_prompt(tokenizer, first)
    reply = "\n 1+2\nAnswer: 3 "
    following = encode_prompt(tokenizer, [*first, ("assistant", reply), ("user", "And 4?")])
    start_of_next = [*prompt, *tokenizer.encode(reply).ids, tokenizer.token_to_id(END)]
    assert following[: len(start_of_next)] == start_of_next


def test_rows_hold_whole_topics_and_count_only_replies(tokenizer: Tokenizer):
    packed = batches(tokenizer, draw_topics(0, 1, 300), "seed", ROW_LENGTHS)
    assert {batch.tokens.shape[1] for batch in packed} <= set(ROW_LENGTHS)
    assert len({batch.tokens.size for batch in packed}) == 1
    end, user = tokenizer.token_to_id(END), tokenizer.token_to_id("<|user|>")
    for batch in packed:
        assert not batch.counted[batch.segments == 0].any()
        assert not batch.counted[batch.tokens == user].any()
        assert batch.counted[batch.tokens == end].any()
        assert (np.diff(batch.segments, axis=1) <= 1).all()
    assert np.mean([np.mean(batch.segments > 0) for batch in packed]) > 0.9


def test_short_rows_come_first():
    shares = [row_lengths(progress) for progress in (0.0, 0.15, 0.5)]
    assert shares == [ROW_LENGTHS[:1], ROW_LENGTHS[:2], ROW_LENGTHS]


def test_a_conversation_in_a_row_does_not_see_the_one_before(config: ModelConfig):
    params = start(config, jax.random.key(0)).params
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 200, (2, 128)).astype(np.int32)
    tokens[1, 64:] = tokens[0, 64:]
    segments = np.repeat([[1] * 64 + [2] * 64], 2, axis=0).astype(np.int32)
    counted = np.zeros((2, 128), bool)
    counted[:, 65:] = True
    measure = jax.jit(loss, static_argnames="config")
    losses = [
        measure(params, tokens[i : i + 1], segments[:1], counted[:1], config=config)
        for i in range(2)
    ]
    # Rotary positions are relative and both rows put the second conversation at the same place.
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)
    joined = measure(params, tokens[:1], np.ones_like(segments[:1]), counted[:1], config=config)
    assert abs(float(joined) - float(losses[0])) > 1e-5


def test_ten_steps_reduce_the_loss(tokenizer: Tokenizer, config: ModelConfig):
    lengths = ROW_LENGTHS[:1]
    batch = batches(tokenizer, draw_topics(0, 2, 200), "seed", lengths)[0]
    state = start(config, jax.random.key(1))
    arrays = [jnp.asarray(x) for x in (batch.tokens, batch.segments, batch.counted)]
    values = []
    for _ in range(10):
        state, value = train_step(state, *arrays, jnp.float32(0.03), config=config)
        values.append(float(value))
    assert values[-1] < 0.8 * values[0]


def test_the_rate_rises_and_falls():
    assert rate(0.0) == 0
    assert rate(0.015) < rate(0.03) > rate(0.5) > rate(1.0) > 0


def test_an_interrupted_run_goes_on_where_it_stopped(
    tokenizer: Tokenizer, config: ModelConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("train.lm.row_lengths", lambda progress: ROW_LENGTHS[:1])
    recipe = Recipe(config, seed=0, chunks=2, topics_per_chunk=120)
    seen: list[int] = []
    whole = train(recipe, tokenizer, tmp_path / "whole", lambda chunk, *_: seen.append(chunk))
    assert set(seen) == {0, 1}

    def stop_in_second_chunk(chunk: int, tokens: int, value: float) -> None:
        del tokens, value
        if chunk == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tokenizer, tmp_path / "parts", stop_in_second_chunk)
    seen.clear()
    resumed = train(recipe, tokenizer, tmp_path / "parts", lambda chunk, *_: seen.append(chunk))
    assert set(seen) == {1}
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_reads_back_as_the_same_config(
    tokenizer: Tokenizer, config: ModelConfig, tmp_path: Path
):
    params = start(config, jax.random.key(2)).params
    save_checkpoint(tmp_path, params, config, tokenizer)
    assert load_config(tmp_path) == config
    exported = tensors(params, config)
    np.testing.assert_array_equal(exported["model.embed_tokens.weight"], params["embed"])
    assert exported["model.layers.0.self_attn.q_proj.weight"].shape == (16, 16)


def test_batched_decoding_equals_decoding_alone(tokenizer: Tokenizer, config: ModelConfig):
    params = start(config, jax.random.key(3)).params
    params = {**params, "embed": params["embed"] * 20}  # far apart logits: no ties to break
    rng = random.Random(0)
    prompts = [[rng.randrange(5, 200) for _ in range(n)] for n in (3, 90, 17, 40, 8)]
    how = Decoding(temperature=0.0, seed=0, rows=8, max_total=256)
    together = decode(params, config, prompts, how)
    alone = [decode(params, config, [prompt], how)[0] for prompt in prompts]
    for left, right in zip(together, alone, strict=True):
        shared = min(len(left), len(right))
        assert shared >= 64
        assert left[:shared] == right[:shared]
