"""Where the conventions of OpenAI and vLLM disagree: one test per decision."""

from typing import Any

import httpx
import pytest

from serving.messages import Failed
from tests.serving.api.test_bad_input import CHAT, PATHS, TEXT, error_of
from tests.serving.api.test_stream import events
from tests.support.fake_engine import FakeEngine, Script, each
from tests.support.fake_tokenizer import EOS

BROKEN = Script([[97]], Failed("engine_dead", "dead"))


def test_01_an_error_code_is_text_or_null(http: httpx.Client):
    assert error_of(http.post("/v1/completions", json={**TEXT, "n": 0}))["code"] is None
    answer = http.post("/v1/completions", json={**TEXT, "model": "x"})
    assert error_of(answer)["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/nope"), ("PUT", "/v1/models"), ("GET", "/v1/models/x"), ("POST", "/tokenize")],
)
def test_02_an_error_is_always_nested(http: httpx.Client, method: str, path: str):
    error_of(http.request(method, path))


def test_03_a_finish_reason_is_one_of_openais(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: BROKEN
    raw = http.post("/v1/completions", json={**TEXT, "stream": True}).text
    assert '"finish_reason":"' not in raw
    assert "finish_reason" not in http.post("/v1/completions", json=TEXT).text


def test_04_stream_options_need_no_stream(http: httpx.Client):
    options = {"include_usage": False}
    answer = http.post("/v1/chat/completions", json={**CHAT, "stream_options": options})
    assert answer.status_code == 200


def test_05_usage_on_ordinary_chunks_is_null_if_asked_for_and_absent_if_not(http: httpx.Client):
    asked = {**TEXT, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events(http.post("/v1/completions", json=asked).text)
    assert [chunk["usage"] is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    plain = events(http.post("/v1/completions", json={**TEXT, "stream": True}).text)
    assert all("usage" not in chunk for chunk in plain)


def test_06_a_broken_stream_has_a_named_error_event_and_an_end(
    http: httpx.Client, engine: FakeEngine
):
    engine.script = lambda turn: BROKEN
    raw = http.post("/v1/completions", json={**TEXT, "stream": True}).text
    assert raw.split("\n\n")[-3].startswith('event: error\ndata: {"error":{')
    assert raw.endswith("data: [DONE]\n\n")


def test_07_a_validation_error_is_400(http: httpx.Client):
    assert http.post("/v1/completions", json={"model": 5, "prompt": {}}).status_code == 400


@pytest.mark.parametrize("where", PATHS)
def test_08_no_tokens_are_an_empty_reply(http: httpx.Client, where: str):
    path, good = PATHS[where]
    body = http.post(path, json={**good, "max_tokens": 0}).json()
    choice = body["choices"][0]
    text = choice["text"] if where == "text" else choice["message"]["content"]
    assert (text, choice["finish_reason"]) == ("", "length")
    assert body["usage"]["completion_tokens"] == 0


def test_09_cached_tokens_are_always_reported_and_never_exceed_the_prompt(
    http: httpx.Client, engine: FakeEngine
):
    for cached, told in ((0, 0), (2, 2), (99, 3)):
        engine.script = lambda turn, cached=cached: Script([[97], [EOS]], cached_len=cached)
        details = http.post("/v1/completions", json=TEXT).json()["usage"]["prompt_tokens_details"]
        assert details == {"cached_tokens": told}


@pytest.mark.parametrize(("bias", "status"), [({"foo": 0}, 200), ({"foo": 0.5}, 400)])
def test_10_a_bias_of_zero_may_have_any_key(http: httpx.Client, bias: dict[str, Any], status: int):
    answer = http.post("/v1/completions", json={**TEXT, "logit_bias": bias})
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"suffix": "x"}, 200),
        ({"best_of": 0, "n": 2}, 200),
        ({"best_of": 2, "n": 2}, 200),
        ({"best_of": 3, "n": 2}, 400),
    ],
)
def test_11_suffix_is_reported_and_best_of_must_equal_n(
    http: httpx.Client, fields: dict[str, Any], status: int
):
    answer = http.post("/v1/completions", json={**TEXT, **fields})
    assert answer.status_code == status
    ignored = answer.headers.get("x-foretoken-ignored-params")
    assert ignored == ("suffix" if "suffix" in fields else None)


def test_12_a_user_is_no_session(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: each(b"ok")
    http.post("/v1/completions", json={**TEXT, "user": "me"})
    assert engine.turns[0].session is None
