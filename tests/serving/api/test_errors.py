"""Every way in which a turn or a request can fail has its status, its code and its headers."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import openai
import pytest
from starlette.types import Message

from serving.api.app import build_app
from serving.config import EndpointConfig
from serving.messages import (
    NOT_FINITE,
    SHUTDOWN,
    Dropped,
    EngineState,
    Failed,
    Outcome,
    Rejected,
)
from tests.serving.api.conftest import Server, serve
from tests.serving.api.test_bad_input import CHAT, PATHS, TEXT, error_of
from tests.support.fake_engine import FakeEngine, Script
from tests.support.fake_tokenizer import FakeTokenizer

ROWS: list[tuple[Outcome, int, str, str, bool]] = [
    (Rejected("queue_full", "full"), 429, "RateLimitError", "queue_full", True),
    (Rejected("draining", "bye"), 503, "ServiceUnavailableError", "draining", True),
    (Rejected("queue_timeout", "late"), 408, "TimeoutError", "queue_timeout", False),
    (Rejected("too_long", "long"), 400, "BadRequestError", "context_length_exceeded", False),
    (
        Failed("no_decode_capacity", "none"),
        503,
        "ServiceUnavailableError",
        "no_decode_capacity",
        True,
    ),
    (Failed("engine_dead", "dead"), 503, "ServiceUnavailableError", "engine_dead", False),
    (Failed(NOT_FINITE, "no numbers"), 500, "InternalServerError", "not_finite", False),
    (Failed("surprise", "secret"), 500, "InternalServerError", "internal_error", False),
    (Dropped(SHUTDOWN), 503, "ServiceUnavailableError", "aborted", True),
    (Dropped("by the operator"), 503, "ServiceUnavailableError", "aborted", False),
]
IDS = [f"{row[3]}-{row[4]}" for row in ROWS]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", PATHS)
@pytest.mark.parametrize(("outcome", "status", "kind", "code", "again"), ROWS, ids=IDS)
def test_a_turn_that_never_began_is_an_http_error_even_when_streamed(
    http: httpx.Client,
    engine: FakeEngine,
    where: str,
    stream: bool,
    outcome: Outcome,
    status: int,
    kind: str,
    code: str,
    again: bool,
):
    engine.script = lambda turn: Script([], outcome)
    path, good = PATHS[where]
    answer = http.post(path, json={**good, "stream": stream})
    assert answer.status_code == status
    error = error_of(answer)
    assert (error["type"], error["code"]) == (kind, code)
    assert ("retry-after" in answer.headers) is again
    assert "secret" not in answer.text


@pytest.mark.parametrize(("outcome", "status", "kind", "code", "again"), ROWS, ids=IDS)
def test_a_turn_that_breaks_off_ends_the_stream_with_a_named_error(
    http: httpx.Client,
    engine: FakeEngine,
    outcome: Outcome,
    status: int,
    kind: str,
    code: str,
    again: bool,
):
    engine.script = lambda turn: Script([[97], [98]], outcome)
    body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    *chunks, event, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    name, data = event.split("\n")
    assert name == "event: error"
    error = json.loads(data.removeprefix("data: "))["error"]
    assert (error["type"], error["code"]) == (kind, code)
    texts = [json.loads(c.removeprefix("data: "))["choices"][0]["delta"] for c in chunks]
    assert "".join(delta["content"] for delta in texts) == "ab"
    unstreamed = http.post("/v1/chat/completions", json=CHAT)
    assert unstreamed.status_code == status


def test_the_openai_client_sees_a_broken_stream_as_an_error(
    client: openai.OpenAI, engine: FakeEngine
):
    engine.script = lambda turn: Script([[97]], Failed("engine_dead", "the engine died"))
    stream = client.completions.create(model="alias", prompt="x", stream=True)
    with pytest.raises(openai.APIError, match="the engine died"):
        list(stream)


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Rejected("queue_full", "full"), openai.RateLimitError),
        (Failed("engine_dead", "dead"), openai.InternalServerError),
    ],
)
def test_the_openai_client_raises_the_right_class(
    client: openai.OpenAI, engine: FakeEngine, outcome: Outcome, kind: type[Exception]
):
    engine.script = lambda turn: Script([], outcome)
    with pytest.raises(kind):
        client.completions.create(model="alias", prompt="x")


def test_a_client_is_told_not_to_repeat_what_had_no_numbers(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: Script([], Failed(NOT_FINITE, "no numbers"))
    answer = http.post("/v1/completions", json=TEXT)
    assert error_of(answer)["message"] == "no numbers"
    assert answer.headers["x-should-retry"] == "false"


def test_one_refused_prompt_refuses_the_request_and_cancels_the_others(
    http: httpx.Client, engine: FakeEngine
):
    def script(turn: Any) -> Script:
        refused = turn.tokens == (3,)
        return Script([], Rejected("queue_full", "full")) if refused else Script([[97]] * 9, lag=9)

    engine.script = script
    answer = http.post("/v1/completions", json={**TEXT, "prompt": [[1], [2], [3]]})
    assert answer.status_code == 429
    assert {turn for turn, _ in engine.cancels} >= {engine.turns[0].id, engine.turns[1].id}


@pytest.mark.parametrize(
    ("state", "code", "again"),
    [
        (EngineState.STARTING, "starting", True),
        (EngineState.DRAINING, "draining", True),
        (EngineState.DEAD, "engine_dead", False),
    ],
)
def test_only_a_ready_engine_takes_turns(
    http: httpx.Client, engine: FakeEngine, state: EngineState, code: str, again: bool
):
    assert http.get("/health").status_code == 200
    engine.state = state
    answer = http.post("/v1/chat/completions", json=CHAT)
    assert answer.status_code == 503
    assert error_of(answer)["code"] == code
    assert ("retry-after" in answer.headers) is again
    for probe in ("/health", "/ping", "/readiness"):
        assert http.get(probe).status_code == 503
    assert http.get("/liveness").status_code == 200


@pytest.mark.parametrize("path", ["/", "/nope", "/v1", "/v1/responses/x/cancel", "/v1/messages"])
def test_an_unknown_path_is_a_nested_404(http: httpx.Client, path: str):
    answer = http.post(path, json={})
    assert answer.status_code == 404
    assert error_of(answer)["type"] == "NotFoundError"


def test_a_wrong_method_is_a_nested_405(http: httpx.Client):
    answer = http.get("/v1/completions")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert error_of(answer)["type"] == "MethodNotAllowed"


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_in_a_turn_is_a_500_that_names_the_request_and_nothing_else(
    http: httpx.Client, engine: FakeEngine, stream: bool
):
    def script(turn: Any) -> Script:
        raise RuntimeError("secret detail")

    engine.script = script
    body = {**TEXT, "request_id": "abc-1", "stream": stream}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 500
    error = error_of(answer)
    assert error["code"] == "internal_error"
    assert "cmpl-abc-1" in error["message"]
    assert "secret" not in answer.text
    assert "connection" not in answer.headers


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/tokenize"])
def test_a_client_that_leaves_while_it_uploads_is_no_error(server: Server, path: str):
    app = build_app(server.service, version="1", settings={})
    arriving: list[Message] = [
        {"type": "http.request", "body": b'{"mod', "more_body": True},
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-length", b"100")],
    }

    async def receive() -> Message:
        return arriving.pop(0)

    async def send(message: Message) -> None:
        """Nobody is there."""

    async def call() -> None:
        await app(scope, receive, send)

    asyncio.run(call())  # what it raised would be logged with a traceback
    assert arriving == []
    assert server.engine.turns == []


def test_a_bug_elsewhere_is_a_500_too(
    http: httpx.Client, shared_server: Server, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shared_server.service, "text", None)
    body = {"prompt": "x", "return_token_strs": True}
    answer = http.post("/tokenize", json=body, headers={"x-request-id": "abc-1"})
    assert answer.status_code == 500
    assert "abc-1" in error_of(answer)["message"]
    assert answer.headers["connection"] == "close"


def test_a_bug_in_mid_stream_ends_the_stream_with_an_error(http: httpx.Client, engine: FakeEngine):
    engine.script = lambda turn: Script([[97], [5000]])
    answer = http.post("/v1/completions", json={**TEXT, "stream": True})
    assert answer.status_code == 200
    assert "event: error\n" in answer.text
    assert answer.text.endswith("data: [DONE]\n\n")
    assert '"code":"internal_error"' in answer.text


def test_a_missing_or_wrong_key_is_401():
    config = EndpointConfig(api_key=("secret-1", "secret-2"))
    with serve(config, FakeTokenizer()) as server:
        for value in ("", "secret-1", "Basic secret-1", "Bearer secret-2x", "Bearer ключ"):
            headers = {b"authorization": value.encode()}
            for path in ("/v1/models", "/v1/nope", "/server_info"):
                answer = httpx.get(server.url + path, headers=headers, trust_env=False)
                assert answer.status_code == 401, path
                error = error_of(answer)
                assert (error["type"], error["code"]) == ("AuthenticationError", "invalid_api_key")
        for path in ("/health", "/ping", "/version", "/metrics"):
            assert httpx.get(server.url + path, trust_env=False).status_code == 200
        for good in ("Bearer secret-1", "bearer secret-2"):
            answer = httpx.get(
                f"{server.url}/v1/models", headers={"authorization": good}, trust_env=False
            )
            assert answer.status_code == 200


def test_a_body_over_the_limit_is_413_whether_declared_or_chunked():
    with serve(EndpointConfig(max_body_bytes=2048), FakeTokenizer()) as server:
        url = f"{server.url}/v1/completions"
        big = json.dumps({**TEXT, "prompt": "x" * 1_000_000}).encode()
        declared = httpx.post(url, content=big, trust_env=False)
        chunked = httpx.post(
            url, content=iter([big[:1500], big[1500:3000], big[3000:]]), trust_env=False
        )
        fits = httpx.post(url, content=iter([json.dumps(TEXT).encode()]), trust_env=False)
        for answer in (declared, chunked):
            assert answer.status_code == 413
            assert error_of(answer)["type"] == "RequestTooLarge"
        assert fits.status_code == 200
        assert len(server.engine.turns) == 1


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", "/chat/completions", "base URLs end with it, once."),
        ("POST", "/v1/v1/chat/completions", "base URLs end with it, once."),
        ("GET", "/models", "There is no /models here. The API's paths begin with /v1:"),
        ("POST", "/v1/embeddings", "Served are POST /v1/chat/completions, /v1/c"),
        ("GET", "/nope", "There is no /nope here."),
        ("GET", "/v1/completions", "GET is not allowed at /v1/completions; use POST."),
    ],
)
def test_who_asks_at_a_wrong_place_is_told_the_right_one(
    http: httpx.Client, method: str, path: str, words: str
):
    answer = http.request(method, path)
    assert answer.status_code in (404, 405)
    message = error_of(answer)["message"]
    assert words in message
    assert ("here. " in message) == (path != "/nope" and answer.status_code == 404)


def test_the_prefix_of_a_proxy_opens_no_door():
    config = EndpointConfig(api_key=("secret",), root_path="/llm")
    with serve(config, FakeTokenizer()) as server:
        url = f"{server.url}/v1/models"
        assert httpx.get(url, trust_env=False).status_code == 401
        key = {"authorization": "Bearer secret"}
        assert httpx.get(url, headers=key, trust_env=False).status_code == 200


def test_request_ids_are_echoed_or_made_where_enabled(http: httpx.Client):
    with serve(EndpointConfig(enable_request_id_headers=True), FakeTokenizer()) as server:
        for name in ("X-Request-Id", "x-trace-id", "x-correlation-id"):
            answer = httpx.get(f"{server.url}/nope", headers={name: "mine"}, trust_env=False)
            assert answer.headers["x-request-id"] == "mine"
        first, second = (httpx.get(f"{server.url}/health", trust_env=False) for _ in range(2))
        assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert "x-request-id" not in http.get("/health", headers={"x-request-id": "mine"}).headers


def test_operators_can_drop_the_cached_pages_where_enabled(http: httpx.Client):
    assert http.post("/reset_prefix_cache").status_code == 404
    config = EndpointConfig(enable_admin_api=True, api_key=("secret",))
    with serve(config, FakeTokenizer()) as server:
        url = f"{server.url}/reset_prefix_cache"
        assert httpx.post(url, trust_env=False).status_code == 401
        assert server.engine.resets == 0
        key = {"authorization": "Bearer secret"}
        assert httpx.post(url, headers=key, trust_env=False).status_code == 200
        assert server.engine.resets == 1


def test_operators_can_abort_requests_where_enabled(http: httpx.Client):
    assert http.post("/abort_requests", json={"request_ids": []}).status_code == 404
    with serve(EndpointConfig(enable_admin_api=True), FakeTokenizer()) as server:
        server.engine.script = lambda turn: Script([[97]], stalls=True)
        body = {**TEXT, "stream": True, "request_id": "mine"}
        url = f"{server.url}/v1/completions"
        with ExitStack() as open_streams:
            both: list[Iterator[str]] = []
            for _ in range(2):  # with one id
                asked = httpx.stream("POST", url, json=body, trust_env=False)
                both.append(open_streams.enter_context(asked).iter_lines())
                assert '"text":"a"' in next(both[-1])
            answer = httpx.post(
                f"{server.url}/abort_requests",
                json={"request_ids": ["cmpl-mine", "other"]},
                trust_env=False,
            )
            assert answer.json() == {"aborted": 2}
            assert all('"code":"aborted"' in "".join(lines) for lines in both)
        assert server.engine.unfinished == 0
