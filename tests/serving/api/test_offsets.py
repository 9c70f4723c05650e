"""Offsets of tokens point into the text that the client gets, whatever the tokens are."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.api.detokenize import TokenText
from serving.api.offsets import TextOffsets, prompt_offsets
from tests.serving.api.test_bad_input import TEXT
from tests.serving.api.test_stream import stream
from tests.support.fake_engine import FakeEngine, each
from tests.support.fake_tokenizer import BOS, EOS, WORDS, FakeTokenizer

TABLE = TokenText(FakeTokenizer()).plain
IDS = st.lists(st.sampled_from([*b"ab", 0xC3, 0xA9, 0xE2, 0x82, 0xFF, BOS, EOS, *WORDS]))


@pytest.mark.parametrize("streamed", [False, True])
def test_offsets_point_into_the_echo_and_the_reply(
    http: httpx.Client, engine: FakeEngine, streamed: bool
):
    engine.script = lambda turn: each([*"ß".encode(), 263, EOS])
    fields: dict[str, Any] = {"prompt": "héab", "echo": True, "logprobs": 0, "max_tokens": 9}
    if streamed:
        choices = [chunk["choices"][0] for chunk in stream(http, "text", **fields)]
    else:
        choices = http.post("/v1/completions", json={**TEXT, **fields}).json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    named = [
        pair
        for choice in choices
        for pair in zip(
            choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"], strict=True
        )
    ]
    assert text == "héabßhello"
    assert named == [
        ("<bos>", 0),
        ("h", 0),
        ("é", 1),
        ("ab", 2),
        ("\ufffd", 4),
        ("\ufffd", 4),
        ("hello", 5),
        ("<eos>", 10),
    ]


def test_a_prompt_of_special_tokens_alone_is_scored_too(http: httpx.Client):
    body = {**TEXT, "prompt": [BOS, BOS], "echo": True, "logprobs": 0, "max_tokens": 0}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 0]


def test_offsets_do_not_depend_on_how_tokens_are_named(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"abc")
    body = {**TEXT, "logprobs": 0, "max_tokens": 3, "return_tokens_as_token_ids": True}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 1, 2]


@given(IDS, st.integers(0, 3))
def test_what_begins_at_an_offset_is_the_token(ids: list[int], start: int):
    text = "_" * start + b"".join(TABLE[i] for i in ids).decode("utf-8", "replace")
    for token, at in zip(ids, TextOffsets(TABLE, start).push(ids), strict=True):
        own = TABLE[token].decode("utf-8", "replace")
        assert start <= at <= len(text)
        if "\ufffd" not in own:
            assert text[at:].startswith(own)


@given(IDS, st.integers(0, 8))
def test_offsets_do_not_depend_on_how_tokens_come(ids: list[int], cut: int):
    offsets = TextOffsets(TABLE, 0)
    assert offsets.push(ids[:cut]) + offsets.push(ids[cut:]) == TextOffsets(TABLE, 0).push(ids)


def test_the_space_that_a_tokenizer_drops_shifts_the_rest():
    ids = [264, *b"!"]  # " world", which some tokenizers write without its space
    assert prompt_offsets(TABLE, ids, "world!") == [0, 5]
    assert prompt_offsets(TABLE, ids, " world!") == [0, 6]
