"""Several choices and prompts, clients that leave, log-probabilities and token ids."""

import json
import socket
from typing import Any

import httpx
import pytest

from serving.request import TokenLogprobs, Turn
from tests.serving.api.conftest import Server, until
from tests.serving.api.test_bad_input import CHAT, TEXT
from tests.serving.api.test_stream import stream
from tests.support import fake_engine
from tests.support.fake_engine import FakeEngine, Script, each
from tests.support.fake_tokenizer import BOS, EOS


def test_further_choices_follow_the_first(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each([*b"xy", EOS])
    answer = http.post("/v1/chat/completions", json={**CHAT, "n": 3}).json()
    assert [c["message"]["content"] for c in answer["choices"]] == ["xy"] * 3
    assert [c["index"] for c in answer["choices"]] == [0, 1, 2]
    assert [turn.follows for turn in engine.turns] == [None, *[engine.turns[0].id] * 2]
    assert len({turn.id for turn in engine.turns}) == 3
    assert len({turn.tokens for turn in engine.turns}) == 1
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 9


def test_seeds_of_choices_are_reproducible_and_different(http: httpx.Client, engine: FakeEngine):
    for _ in range(2):
        http.post("/v1/completions", json={**TEXT, "n": 3, "seed": -(2**63)})
    first, second = engine.turns[:3], engine.turns[3:]
    seeds = [turn.sampling.seed for turn in first]
    assert seeds[0] == -(2**63)
    assert len(set(seeds)) == 3
    assert sorted(seeds) == sorted(turn.sampling.seed for turn in second)


def test_without_a_seed_every_turn_has_its_own(http: httpx.Client, engine: FakeEngine):
    for _ in range(2):
        http.post("/v1/completions", json=TEXT)
    assert engine.turns[0].sampling.seed != engine.turns[1].sampling.seed


@pytest.mark.parametrize("streamed", [False, True])
def test_prompts_are_answered_in_their_order(
    http: httpx.Client, engine: FakeEngine, streamed: bool
):
    engine.script = lambda turn: each([turn.tokens[-1]] * 2)
    fields: dict[str, Any] = {"prompt": ["a", "b"], "n": 2, "max_tokens": 2}
    if streamed:
        chunks = [c["choices"][0] for c in stream(http, "text", **fields)]
        texts = ["".join(c["text"] for c in chunks if c["index"] == i) for i in range(4)]
    else:
        answer = http.post("/v1/completions", json={**TEXT, **fields}).json()
        texts = [choice["text"] for choice in answer["choices"]]
        assert answer["usage"]["prompt_tokens"] == 4
    assert texts == ["aa", "aa", "bb", "bb"]


def test_one_failing_choice_fails_the_stream_once(http: httpx.Client, engine: FakeEngine):
    def script(turn: Turn) -> Script:
        return Script([[97]], stalls=True) if len(engine.turns) == 1 else Script([[5000]])

    engine.script = script
    answer = http.post("/v1/completions", json={**TEXT, "n": 2, "stream": True})
    assert answer.text.count("event: error") == 1
    assert answer.text.count("[DONE]") == 1
    until(lambda: len(engine.cancels) > 0)


@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_a_client_that_leaves_cancels_its_turns(
    server: Server, engine: FakeEngine, tokens: int, streamed: bool, n: int
):
    engine.script = lambda turn: Script([[97]] * tokens, stalls=True)
    body = json.dumps({**TEXT, "stream": streamed, "n": n})
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port)) as leaving:
        leaving.sendall((head + body).encode())
        until(lambda: len(engine.turns) == n)
        if streamed and tokens:
            assert leaving.recv(1000)
    until(lambda: engine.unfinished == 0 and len(server.service.running) == 0)
    assert {turn.id for turn in engine.turns} == {turn for turn, _ in engine.cancels}
    assert len(engine.turns) == n


def test_load_counts_requests_in_the_server(http: httpx.Client, server: Server, engine: FakeEngine):
    engine.script = lambda turn: Script([[97]], stalls=True)
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={**TEXT, "stream": True}, trust_env=False
    ) as answer:
        text = answer.iter_text()  # dropping the iterator would close the connection
        assert next(text)
        assert http.get("/load").json() == {"server_load": 1}
    until(lambda: http.get("/load").json() == {"server_load": 0})


def test_chat_logprobs(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each([*"é".encode(), EOS])
    body = {**CHAT, "logprobs": True, "top_logprobs": 2}
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    items = choice["logprobs"]["content"]
    assert [item["bytes"] for item in items] == [[0xC3], [0xA9], list(b"<eos>")]
    assert [item["logprob"] for item in items] == [-1.95, -1.69, -2.56]
    assert items[0]["top_logprobs"] == [
        {"token": "\ufffd", "logprob": -1.95, "bytes": [0xC3]},
        {"token": "\ufffd", "logprob": -1.96, "bytes": [0xC4]},
    ]
    assert engine.turns[0].sampling.logprobs == 2
    chunks = stream(http, "chat", logprobs=True, top_logprobs=2)
    streamed = [c["choices"][0]["logprobs"] for c in chunks]
    assert [i for part in streamed if part for i in part["content"]] == items


def test_chat_without_logprobs_says_null(http: httpx.Client):
    choice = http.post("/v1/chat/completions", json=CHAT).json()["choices"][0]
    assert choice["logprobs"] is None
    assert choice["message"]["refusal"] is None


def test_completion_logprobs(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"abc")
    body = {**TEXT, "logprobs": 1, "max_tokens": 3}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs == {
        "tokens": ["a", "b", "c"],
        "token_logprobs": [-0.97, -0.98, -0.99],
        "top_logprobs": [{"a": -0.97}, {"b": -0.98}, {"c": -0.99}],
        "text_offset": [0, 1, 2],
    }
    parts = [c["choices"][0]["logprobs"] for c in stream(http, "text", logprobs=1, max_tokens=3)]
    for key, values in logprobs.items():
        assert [value for part in parts for value in part[key]] == values


def test_zero_completion_logprobs_mean_the_chosen_token_only(
    http: httpx.Client, engine: FakeEngine
):
    engine.script = lambda turn: each(b"a")
    body = {**TEXT, "logprobs": 0, "max_tokens": 1}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["top_logprobs"] == [{"a": -0.97}]
    assert engine.turns[0].sampling.logprobs == 0


@pytest.mark.parametrize("fields", [{}, {"top_logprobs": 0}], ids=str)
def test_chat_logprobs_alone_show_no_alternatives(http: httpx.Client, fields: dict[str, Any]):
    body = {**CHAT, "logprobs": True, **fields}
    choice = http.post("/v1/chat/completions", json=body).json()["choices"][0]
    items = choice["logprobs"]["content"]
    assert [(item["token"], item["top_logprobs"]) for item in items] == [("o", []), ("k", [])]


def test_a_token_that_is_none_of_the_likeliest_stands_beside_them(
    http: httpx.Client, monkeypatch: pytest.MonkeyPatch
):
    scored = TokenLogprobs(-9.0, ((120, -1.0), (121, -2.0), (122, -3.0)))
    monkeypatch.setattr(fake_engine, "logprobs_of", lambda token: scored)
    body = {**TEXT, "prompt": [104, 105], "max_tokens": 1}
    wanted = {"echo": True, "logprobs": 2, "prompt_logprobs": 1}
    choice = http.post("/v1/completions", json={**body, **wanted}).json()["choices"][0]
    beside = [{"x": -1.0, "y": -2.0, token: -9.0} for token in "io"]
    assert choice["logprobs"]["top_logprobs"] == [None, *beside]
    assert choice["prompt_logprobs"] == [
        None,
        {
            "120": {"logprob": -1.0, "decoded_token": "x"},
            "105": {"logprob": -9.0, "decoded_token": "i"},
        },
    ]
    streamed = stream(http, "text", prompt=[104, 105], max_tokens=1, echo=True, logprobs=2)
    parts = [chunk["choices"][0]["logprobs"]["top_logprobs"] for chunk in streamed]
    assert [top for part in parts for top in part] == [None, *beside]


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_an_echoed_prompt_has_logprobs_too(
    http: httpx.Client, engine: FakeEngine, streamed: bool, max_tokens: int
):
    engine.script = lambda turn: each(b"abc")
    fields: dict[str, Any] = {
        "prompt": [104, 105],
        "echo": True,
        "logprobs": 1,
        "max_tokens": max_tokens,
    }
    if streamed:
        choices = [c["choices"][0] for c in stream(http, "text", **fields)]
    else:
        answer = http.post("/v1/completions", json={**TEXT, **fields}).json()
        choices = answer["choices"]
        assert answer["usage"]["completion_tokens"] == max_tokens
    count = 2 + max_tokens

    def joined(key: str) -> list[Any]:
        return [value for choice in choices for value in choice["logprobs"][key]]

    assert "".join(choice["text"] for choice in choices) == "hia"[:count]
    assert joined("tokens") == ["h", "i", "a"][:count]
    assert joined("token_logprobs") == [None, -1.05, -0.97][:count]
    assert joined("text_offset") == [0, 1, 2][:count]
    assert choices[-1]["finish_reason"] == "length"


@pytest.mark.parametrize("streamed", [False, True])
def test_an_echo_repeats_the_text_alone(http: httpx.Client, engine: FakeEngine, streamed: bool):
    engine.script = lambda turn: each(b"!")
    fields: dict[str, Any] = {"prompt": "grüße", "echo": True, "max_tokens": 1}
    if streamed:
        texts = [c["choices"][0]["text"] for c in stream(http, "text", **fields)]
        assert "".join(texts) == "grüße!"
    else:
        answer = http.post("/v1/completions", json={**TEXT, **fields}).json()
        assert answer["choices"][0]["text"] == "grüße!"
    assert engine.turns[0].sampling.prompt_logprobs is None


def test_prompt_logprobs(http: httpx.Client, engine: FakeEngine):
    body = {**TEXT, "prompt": [104, 105], "prompt_logprobs": 1, "max_tokens": 0}
    choice = http.post("/v1/completions", json=body).json()["choices"][0]
    assert choice["prompt_logprobs"] == [None, {"105": {"logprob": -1.05, "decoded_token": "i"}}]
    assert engine.turns[0].sampling.max_tokens == 1
    chat = http.post("/v1/chat/completions", json={**CHAT, "prompt_logprobs": 0}).json()
    assert len(chat["prompt_logprobs"]) == 5


@pytest.mark.parametrize("where", ["chat", "text"])
def test_token_ids_are_returned_on_request(http: httpx.Client, engine: FakeEngine, where: str):
    engine.script = lambda turn: each([*b"ab", EOS])
    path, good = {"chat": ("/v1/chat/completions", CHAT), "text": ("/v1/completions", TEXT)}[where]
    answer = http.post(path, json={**good, "return_token_ids": True}).json()
    assert answer["choices"][0]["token_ids"] == [*b"ab", EOS]
    prompt = answer["prompt_token_ids"] if where == "chat" else answer["choices"][0]
    assert list(engine.turns[0].tokens) == (
        prompt if where == "chat" else prompt["prompt_token_ids"]
    )
    choices = [c["choices"][0] for c in stream(http, where, return_token_ids=True)]
    assert [i for c in choices for i in c.get("token_ids", [])] == [*b"ab", EOS]
    assert [c["prompt_token_ids"] for c in choices if "prompt_token_ids" in c] == [
        list(engine.turns[0].tokens)
    ]


def test_tokens_can_be_named_by_their_ids(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"a")
    body = {**TEXT, "logprobs": 0, "max_tokens": 1, "return_tokens_as_token_ids": True}
    logprobs = http.post("/v1/completions", json=body).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["token_id:97"]


def test_minus_infinity_is_valid_json(http: httpx.Client, engine: FakeEngine):
    never = TokenLogprobs(float("-inf"), ((97, float("-inf")),))
    engine.script = lambda turn: each(b"a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fake_engine, "logprobs_of", lambda token: never)
        body = {**TEXT, "logprobs": 1, "max_tokens": 1}
        answer = http.post("/v1/completions", json=body)
    logprobs = json.loads(answer.text)["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [-9999.0]
    assert logprobs["top_logprobs"] == [{"a": -9999.0}]


def test_plain_prompts_begin_with_bos_unless_told_otherwise(http: httpx.Client, engine: FakeEngine):
    http.post("/v1/completions", json=TEXT)
    http.post("/v1/completions", json={**TEXT, "add_special_tokens": False})
    assert engine.turns[0].tokens == (BOS, *b"hi")
    assert engine.turns[1].tokens == tuple(b"hi")
