"""Pages in browsers: who may call, and that they can read whatever comes back."""

from collections.abc import Iterator

import httpx
import pytest

from serving.config import EndpointConfig
from serving.messages import EngineState, Failed, Rejected
from tests.serving.api.conftest import Server, serve
from tests.serving.api.test_bad_input import CHAT, TEXT
from tests.support.fake_engine import Script
from tests.support.fake_tokenizer import FakeTokenizer

PAGE, STRANGER = "http://localhost:3000", "https://elsewhere.example"
ALLOWED = "access-control-allow-origin"
KEY = {"authorization": "Bearer secret"}
ASKS = {
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization, content-type, x-stainless-os",
}


@pytest.fixture(scope="module")
def guarded() -> Iterator[Server]:
    """A server with a key that pages of one origin may call."""
    config = EndpointConfig(
        allowed_origins=(PAGE,), api_key=("secret",), enable_request_id_headers=True
    )
    with serve(config, FakeTokenizer()) as server:
        yield server


@pytest.fixture
def page(guarded: Server) -> Iterator[httpx.Client]:
    """A page of that origin, with its key."""
    headers = {"origin": PAGE, **KEY}
    guarded.engine.script = lambda turn: Script([[97], [98]])
    guarded.engine.state = EngineState.READY
    with httpx.Client(base_url=guarded.url, headers=headers, trust_env=False) as client:
        yield client


def test_by_default_no_page_may_call(http: httpx.Client):
    answer = http.post("/v1/chat/completions", json=CHAT, headers={"origin": PAGE})
    assert answer.status_code == 200
    preflight = http.options("/v1/chat/completions", headers={"origin": PAGE, **ASKS})
    assert preflight.status_code == 405
    for one in (answer, preflight):
        assert not any(name.startswith("access-control") for name in one.headers)


def test_a_preflight_needs_no_key(guarded: Server):
    headers = {"origin": PAGE, **ASKS}
    answer = httpx.options(f"{guarded.url}/v1/chat/completions", headers=headers, trust_env=False)
    assert answer.status_code == 200
    assert answer.headers[ALLOWED] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    assert answer.headers["access-control-allow-headers"] == ASKS["access-control-request-headers"]
    assert "access-control-allow-credentials" not in answer.headers


def test_a_stranger_is_told_nothing_it_could_read(guarded: Server):
    url, headers = f"{guarded.url}/v1/chat/completions", {"origin": STRANGER, **KEY}
    preflight = httpx.options(url, headers={**headers, **ASKS}, trust_env=False)
    assert preflight.status_code == 400
    answer = httpx.post(url, json=CHAT, headers=headers, trust_env=False)
    for one in (preflight, answer):
        assert ALLOWED not in one.headers


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_can_be_read_by_the_page(page: httpx.Client, stream: bool):
    body = {**CHAT, "stream": stream, "metadata": {}}
    answer = page.post("/v1/chat/completions", json=body, headers={"x-request-id": "mine"})
    assert answer.status_code == 200
    assert answer.headers[ALLOWED] == PAGE
    assert "Origin" in answer.headers["vary"]
    shown = answer.headers["access-control-expose-headers"]
    for name in ("x-request-id", "x-foretoken-ignored-params"):
        assert name in answer.headers
        assert name in shown
    if stream:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.text.endswith("data: [DONE]\n\n")


def test_a_broken_stream_can_be_read_by_the_page(page: httpx.Client, guarded: Server):
    guarded.engine.script = lambda turn: Script([[97]], Failed("engine_dead", "dead"))
    answer = page.post("/v1/completions", json={**TEXT, "stream": True})
    assert answer.headers[ALLOWED] == PAGE
    assert "event: error\n" in answer.text


def test_every_refusal_can_be_read_by_the_page(
    page: httpx.Client, guarded: Server, monkeypatch: pytest.MonkeyPatch
):
    answers = {
        401: page.post("/v1/completions", json=TEXT, headers={"authorization": "Bearer wrong"}),
        404: page.get("/nope"),
        400: page.post("/v1/completions", json={**TEXT, "n": 0}),
        413: page.post("/v1/completions", content=b"x" * 20_000_000),
    }
    guarded.engine.script = lambda turn: Script([], Rejected("queue_full", "full"))
    answers[429] = page.post("/v1/completions", json=TEXT)
    guarded.engine.state = EngineState.DRAINING
    answers[503] = page.post("/v1/completions", json=TEXT)
    monkeypatch.setattr(guarded.service, "text", None)
    answers[500] = page.post("/tokenize", json={"prompt": "x", "return_token_strs": True})
    assert {status: a.status_code for status, a in answers.items()} == {s: s for s in answers}
    assert [a.headers.get(ALLOWED) for a in answers.values()] == [PAGE] * len(answers)
    assert "retry-after" in answers[429].headers
    assert "retry-after" in answers[429].headers["access-control-expose-headers"]


def test_a_star_allows_every_page():
    with serve(EndpointConfig(allowed_origins=("*",)), FakeTokenizer()) as server:
        url, headers = f"{server.url}/v1/models", {"origin": STRANGER}
        assert httpx.get(url, headers=headers, trust_env=False).headers[ALLOWED] == "*"
        asked = httpx.options(url, headers={**headers, **ASKS}, trust_env=False)
        assert (asked.status_code, asked.headers[ALLOWED]) == (200, "*")
