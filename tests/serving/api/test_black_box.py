"""What any server must do, whatever its model says: nothing here looks behind the socket.

The `target` fixture names the server under test; another fixture may offer a real one.
"""

import json
import socket
import time
from dataclasses import dataclass
from typing import Any

import httpx
import openai
import pytest

from tests.serving.api.conftest import Server
from tests.serving.api.test_stream import events, text_of

MESSAGES = [{"role": "user", "content": "What is 17 + 25?"}]
WHERE = {"chat": ("/v1/chat/completions", "messages", MESSAGES)}
WHERE |= {"text": ("/v1/completions", "prompt", "17 + 25 =")}


@dataclass(frozen=True)
class Target:
    url: str
    model: str
    http: httpx.Client

    def ask(self, where: str, **fields: Any) -> httpx.Response:
        path, name, prompt = WHERE[where]
        body = {"model": self.model, name: prompt, "max_tokens": 24, **fields}
        answer = self.http.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture
def target(server: Server, http: httpx.Client) -> Target:
    return Target(server.url, "org/fake", http)


def texts(answer: dict[str, Any]) -> list[str]:
    return [c["text"] if "text" in c else c["message"]["content"] for c in answer["choices"]]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0},
        {"temperature": 0.9, "seed": 11},
        {"temperature": 0.9, "seed": -5, "n": 3},
        {"temperature": 0, "stop": ["k", "1"]},
        {"temperature": 0, "max_tokens": 1},
    ],
    ids=str,
)
def test_streamed_and_whole_answers_are_the_same(
    target: Target, where: str, fields: dict[str, Any]
):
    whole = target.ask(where, **fields).json()
    options = {"include_usage": True}
    chunks = events(target.ask(where, **fields, stream=True, stream_options=options).text)
    assert [text_of(chunks, i) for i in range(len(whole["choices"]))] == texts(whole)
    assert target.ask(where, **fields).json()["choices"] == whole["choices"]
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [chunks[-1]["usage"][c] for c in counts] == [whole["usage"][c] for c in counts]


@pytest.mark.parametrize("where", WHERE)
def test_usage_adds_up(target: Target, where: str):
    usage = target.ask(where, temperature=0).json()["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert 0 <= cached <= usage["prompt_tokens"]
    if where == "chat":
        asked = target.http.post("/tokenize", json={"messages": MESSAGES}).json()
        assert asked["count"] == usage["prompt_tokens"]


@pytest.mark.parametrize("count", [1, 2])
def test_an_exact_length_is_kept(target: Target, count: int):
    fields = {"ignore_eos": True, "min_tokens": count, "max_tokens": count}
    answer = target.ask("text", **fields).json()
    assert answer["usage"]["completion_tokens"] == count
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("where", WHERE)
def test_every_token_has_its_logprobs(target: Target, where: str):
    wanted = {"logprobs": True, "top_logprobs": 3} if where == "chat" else {"logprobs": 3}
    answer = target.ask(where, temperature=0, **wanted).json()
    logprobs = answer["choices"][0]["logprobs"]
    count = answer["usage"]["completion_tokens"]
    if where == "chat":
        items = logprobs["content"]
        assert len(items) == count
        for item in items:
            ranked = [other["logprob"] for other in item["top_logprobs"]]
            assert len(ranked) == 3
            assert ranked == sorted(ranked, reverse=True)
            assert item["logprob"] <= 0
    else:
        assert [len(values) for values in logprobs.values()] == [count] * 4
        assert all(value <= 0 for value in logprobs["token_logprobs"])


def test_an_echo_scores_the_prompt(target: Target):
    answer = target.ask("text", echo=True, logprobs=1, max_tokens=0).json()
    choice = answer["choices"][0]
    first, *others = choice["logprobs"]["token_logprobs"]
    assert choice["text"] == WHERE["text"][2]
    assert first is None
    assert len(others) == answer["usage"]["prompt_tokens"] - 1
    assert all(value <= 0 for value in others)


def test_a_conversation_keeps_the_ids_of_its_replies(target: Target):
    transport = openai.DefaultHttpxClient(trust_env=False)
    client = openai.OpenAI(base_url=f"{target.url}/v1", api_key="box", http_client=transport)
    messages: list[Any] = list(MESSAGES)
    known: list[int] = []
    with client:
        for _ in range(3):
            fields = {"return_token_ids": True}
            answer = client.chat.completions.create(
                model=target.model,
                messages=messages,
                temperature=0,
                max_tokens=8,
                extra_body=fields,
            ).to_dict()
            prompt: Any = answer["prompt_token_ids"]
            choice: Any = answer["choices"]
            assert prompt[: len(known)] == known
            reply = choice[0]["token_ids"]
            text = choice[0]["message"]["content"]
            known = [*prompt, *(reply if choice[0]["finish_reason"] == "length" else reply[:-1])]
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": "so?"}]


def test_a_client_that_leaves_is_forgotten(target: Target):
    body = json.dumps({"model": target.model, "prompt": "1", "max_tokens": 200, "ignore_eos": True})
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    url = httpx.URL(target.url)
    with socket.create_connection((url.host, url.port)) as leaving:
        leaving.sendall((head + body).encode())
    deadline = time.monotonic() + 10
    while target.http.get("/load").json() != {"server_load": 0}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
