"""The oracle keeps its promises: a cache that changes nothing, stops, and every setting used."""

import re
from typing import Any

import jax
import numpy as np
import pytest

from model.config import ModelConfig
from model.generate import Sampling, generate, prompt_logits
from model.parameters import Params
from tests.model.checkpoints import GOLDEN, load

PROMPT = [3, 14, 15, 92, 65, 35]


@pytest.fixture(scope="module")
def model() -> tuple[Params, ModelConfig]:
    config, params = load(GOLDEN / "mistral")
    return params, config


def reply(model: tuple[Params, ModelConfig], length: int = 10, **sampling: Any) -> Any:
    params, config = model
    return generate(params, config, PROMPT, Sampling(**sampling), length)


def test_logprobs_are_those_of_the_whole_text_in_one_go(model: Any):
    params, config = model
    found = reply(model, temperature=1.0, seed=5)
    scores = prompt_logits(params, config, PROMPT + list(found.tokens))[len(PROMPT) - 1 : -1]
    logprobs = np.asarray(jax.nn.log_softmax(scores))
    own = logprobs[np.arange(10), list(found.tokens)]
    np.testing.assert_allclose(found.logprobs, own, atol=1e-4)
    for position, top in enumerate(found.top):
        order = np.argsort(-logprobs[position])[:20]
        assert [token for token, _ in top] == order.tolist()
        np.testing.assert_allclose([p for _, p in top], logprobs[position][order], atol=1e-4)


def test_greedy_takes_the_best_token_of_the_recomputed_text(model: Any):
    params, config = model
    text = list(PROMPT)
    for token in reply(model).tokens:
        assert token == int(prompt_logits(params, config, text)[-1].argmax())
        text.append(token)


def test_a_shorter_reply_is_a_prefix_of_a_longer_one(model: Any):
    short, long = (reply(model, n, temperature=1.0, seed=9) for n in (4, 40))
    assert long.tokens[:4] == short.tokens
    assert not short.stopped


def test_a_stop_id_ends_the_reply_as_its_last_token(model: Any):
    tokens = reply(model).tokens
    stop = tokens[4]
    first = tokens.index(stop)
    found = reply(model, stop_ids=(stop,))
    assert found.tokens == tokens[: first + 1]
    assert found.stopped
    assert len(found.logprobs) == len(found.top) == first + 1


def test_min_tokens_bans_the_stop_ids_at_first(model: Any):
    stop = reply(model).tokens[0]
    found = reply(model, stop_ids=(stop,), min_tokens=3)
    assert stop not in found.tokens[:3]


def test_seeds_give_different_replies_and_repeat(model: Any):
    replies = [reply(model, temperature=1.0, seed=seed).tokens for seed in (1, 2, -1, 1)]
    assert len(set(replies)) == 3
    assert replies[0] == replies[3]


@pytest.mark.parametrize(
    "filters", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}]
)
def test_each_filter_can_force_the_best_token(model: Any, filters: dict[str, Any]):
    sampling: dict[str, Any] = {"temperature": 1.0} | filters
    assert reply(model, **sampling).tokens == reply(model).tokens


def test_allowed_ids_and_bias(model: Any):
    found = reply(model, temperature=2.0, allowed_ids=(7, 8), logit_bias=((8, -100.0),))
    assert set(found.tokens) == {7}
    assert set(reply(model, logit_bias=((9, 100.0),)).tokens) == {9}


def test_what_may_come_next_may_depend_on_the_reply(model: Any):
    counting = reply(model, 6, temperature=1.0, allowed_next=lambda replied: {3 + len(replied), 90})
    assert all(token in (3 + i, 90) for i, token in enumerate(counting.tokens))
    assert len(set(counting.tokens)) > 1


@pytest.mark.parametrize("penalty", [{"frequency_penalty": 100.0}, {"presence_penalty": 100.0}])
def test_penalties_on_the_reply_forbid_repeating_it(model: Any, penalty: dict[str, Any]):
    tokens = reply(model, 40, **penalty).tokens
    assert len(set(tokens)) == 40


def test_the_repetition_penalty_sees_the_prompt_too(model: Any):
    # Scores near zero after division, far below zero after multiplication: seen ids lose.
    tokens = reply(model, 40, repetition_penalty=1e6).tokens
    assert len(set(tokens)) == 40
    assert not set(tokens) & set(PROMPT)


@pytest.mark.parametrize(
    ("prompt", "length", "problem"),
    [
        ([], 1, "the prompt is empty"),
        ([96], 1, "token id 96"),
        ([-1], 1, "token id -1"),
        ([1], 0, "max_new_tokens must be at least 1"),
    ],
)
def test_bad_arguments(model: Any, prompt: list[int], length: int, problem: str):
    params, config = model
    with pytest.raises(ValueError, match=re.escape(problem)):
        generate(params, config, prompt, Sampling(), length)


def test_one_program_serves_all_lengths_of_a_power_of_two(model: Any):
    params, config = model
    generate(params, config, PROMPT, Sampling(), 10)
    events: list[str] = []

    def listen(event: str, *_: object, **__: object) -> None:
        if "backend_compile" in event:
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        generate(params, config, [*PROMPT, 2], Sampling(seed=4, temperature=1.0), 9)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert events == []
