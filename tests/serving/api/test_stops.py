"""Why a reply ends, what of it is text, and what is counted."""

from typing import Any

import httpx
import pytest

from tests.serving.api.test_bad_input import TEXT
from tests.support.fake_engine import FakeEngine, at_once, each
from tests.support.fake_tokenizer import EOS, WORDS

AB = next(i for i, word in WORDS.items() if word == "ab")


def ask(http: httpx.Client, **fields: Any) -> tuple[dict[str, Any], int]:
    answer = http.post("/v1/completions", json={**TEXT, "max_tokens": 20, **fields})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return body["choices"][0], body["usage"]["completion_tokens"]


@pytest.mark.parametrize("script", [each, at_once])
@pytest.mark.parametrize(
    ("tokens", "fields", "text", "reason", "stop_reason", "count"),
    [
        (b"abc", {"max_tokens": 2}, "ab", "length", None, 2),
        ([*b"ab", EOS], {}, "ab", "stop", None, 3),
        ([*b"ab", EOS], {"max_tokens": 3}, "ab", "stop", None, 3),
        ([*b"ab", EOS, *b"c"], {"ignore_eos": True, "max_tokens": 4}, "abc", "length", None, 4),
        (b"abcd", {"stop_token_ids": [99]}, "ab", "stop", 99, 3),
        (
            b"abcd",
            {"stop_token_ids": [99], "include_stop_str_in_output": True},
            "abc",
            "stop",
            99,
            3,
        ),
        ([*b"ab", EOS], {"stop_token_ids": [EOS]}, "ab", "stop", EOS, 3),
        (b"abcdef", {"stop": "cd"}, "ab", "stop", "cd", 4),
        (b"abcdef", {"stop": ["x", "cd"]}, "ab", "stop", "cd", 4),
        (b"abcdef", {"stop": "cd", "include_stop_str_in_output": True}, "abcd", "stop", "cd", 4),
        (b"abcdef", {"stop": ["bcd", "cd"]}, "a", "stop", "bcd", 4),
        (b"abcab", {"stop": "abx", "max_tokens": 5}, "abcab", "length", None, 5),
        (b"aabaac", {"stop": "aac"}, "aab", "stop", "aac", 6),
        ([97, AB, 99], {"stop": "b"}, "aa", "stop", "b", 2),
        ([*b"ab", EOS], {"stop": "bx"}, "ab", "stop", None, 3),
        (b"abab", {"stop": "ab", "min_tokens": 2}, "ab", "stop", "ab", 4),
        # An unfinished character becomes text, and part of a stop string, with the end alone.
        ([*b"a", 0xC3], {"max_tokens": 2, "stop": "a\ufffd"}, "", "stop", "a\ufffd", 2),
        ([0xC3], {"max_tokens": 1, "min_tokens": 1, "stop": "\ufffd"}, "\ufffd", "length", None, 1),
        ([*b"ab", EOS], {"skip_special_tokens": False}, "ab", "stop", None, 3),
        (
            [*b"ab", EOS, *b"c"],
            {"ignore_eos": True, "skip_special_tokens": False, "max_tokens": 4},
            "ab<eos>c",
            "length",
            None,
            4,
        ),
    ],
)
def test_ends(
    http: httpx.Client,
    engine: FakeEngine,
    script: Any,
    tokens: Any,
    fields: dict[str, Any],
    text: str,
    reason: str,
    stop_reason: Any,
    count: int,
):
    engine.script = lambda turn: script(tokens)
    choice, counted = ask(http, **fields)
    assert choice["text"] == text
    assert choice["finish_reason"] == reason
    assert choice["stop_reason"] == stop_reason
    assert counted == count


def test_a_stop_string_ends_the_turn_in_the_engine(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"abcdefgh")
    ask(http, stop="cd")
    assert engine.cancels == [(engine.turns[0].id, "stopped")]
    assert engine.unfinished == 0


@pytest.mark.parametrize(
    ("fields", "at_end"),
    [
        ({}, True),
        ({"stop": "x"}, False),
        ({"stream": True}, False),
        ({"n": 2, "logprobs": 1}, True),
    ],
)
def test_only_a_whole_answer_without_stop_strings_waits_for_its_end(
    http: httpx.Client, engine: FakeEngine, fields: dict[str, Any], at_end: bool
):
    engine.script = lambda turn: each(b"abcd")
    answer = http.post("/v1/completions", json={**TEXT, "max_tokens": 20, **fields})
    assert answer.status_code == 200
    assert set(engine.waits_for_the_end) == {at_end}


def test_no_tokens_at_all_need_no_engine(http: httpx.Client, engine: FakeEngine):
    choice, count = ask(http, max_tokens=0)
    assert (choice["text"], choice["finish_reason"], count) == ("", "length", 0)
    assert engine.turns == []


def test_one_token_is_one_token(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"abc")
    choice, count = ask(http, max_tokens=1)
    assert (choice["text"], choice["finish_reason"], count) == ("a", "length", 1)
    assert engine.turns[0].sampling.max_tokens == 1
