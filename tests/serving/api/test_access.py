"""The log of requests: one line for each, with what its client was told and how it ended."""

from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from serving.api.access import line_of, shown
from serving.api.answer import ENDED
from serving.api.exchange import EXCHANGE, Exchange
from serving.config import EndpointConfig
from serving.messages import EngineState, Failed, Rejected
from serving.request import FinishReason
from tests.serving.api.conftest import Lines, Server, serve
from tests.serving.api.responses.test_text import ASKED
from tests.serving.api.test_bad_input import CHAT, PATHS, TEXT
from tests.support.fake_engine import FakeEngine, Script, each
from tests.support.fake_tokenizer import EOS, FakeTokenizer

GENERATE = {**PATHS, "responses": ("/v1/responses", ASKED)}
PAGE = "http://localhost:3000"


def seconds(text: str) -> float:
    assert text.endswith("s")
    return float(text[:-1])


@pytest.mark.parametrize("where", GENERATE)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_whole_reply_has_the_numbers_of_its_usage(
    http: httpx.Client, engine: FakeEngine, lines: Lines, where: str, streamed: bool
):
    path, good = GENERATE[where]
    engine.script = lambda turn: Script([[97], [98, EOS]], cached_len=1)
    body = {**good, "stream": streamed, "stream_options": {"include_usage": True}}
    headers = {"x-request-id": "mine", "x-session-id": "s"}
    answer = http.post(path, json=body, headers=headers)
    assert answer.status_code == 200
    line, turn = lines.next(), engine.turns[0]
    ttft, total = seconds(line.pop("ttft")), seconds(line.pop("total"))
    assert 0 <= ttft <= total
    answered = turn.id.removesuffix("-0")
    assert answered in answer.text
    assert line == {
        "method": "POST",
        "path": path,
        "status": "200",
        "ended": "stop",
        "prompt": str(len(turn.tokens)),
        "cached": "1",
        "completion": "3",
        "session": turn.session,
        "id": answered,
        "request": "mine",
    }


def test_the_times_are_those_since_the_request_came():
    exchange = Exchange(FakeEngine(), "cmpl-1", [])
    exchange.first_token_at = 10.25
    scope: dict[str, Any] = {"method": "POST", "path": "/v1/completions", EXCHANGE: exchange}
    expected = "POST /v1/completions 200 engine_dead total=1.500s ttft=0.250s prompt=0"
    assert line_of({**scope, ENDED: "engine_dead"}, 200, 10.0, 11.5).startswith(expected)


def test_several_choices_name_each_way_they_ended_once(
    http: httpx.Client, engine: FakeEngine, lines: Lines
):
    ends = iter([FinishReason.LENGTH, FinishReason.STOP, FinishReason.LENGTH])
    engine.script = lambda turn: each(
        [97, EOS] if next(ends) is FinishReason.STOP else [97] * turn.sampling.max_tokens
    )
    http.post("/v1/completions", json={**TEXT, "n": 3, "max_tokens": 4})
    line = lines.next()
    assert (line["ended"], line["completion"]) == ("length,stop", "10")
    assert line["prompt"] == str(len(engine.turns[0].tokens))
    assert "session" not in line


def test_a_reply_of_no_tokens_has_no_first_one(http: httpx.Client, lines: Lines):
    http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 0})
    line = lines.next()
    assert (line["ended"], line["completion"], line["cached"]) == ("length", "0", "0")
    assert "ttft" not in line


def test_an_id_that_the_client_chose_comes_with_the_turns(
    http: httpx.Client, engine: FakeEngine, lines: Lines
):
    http.post("/v1/completions", json={**TEXT, "request_id": "mine"})
    line = lines.next()
    assert (line["id"], line["turn"]) == ("cmpl-mine", engine.turns[0].id)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("outcome", "status", "code"),
    [
        (Rejected("queue_full", "full"), "429", "queue_full"),
        (Rejected("too_long", "long"), "400", "context_length_exceeded"),
        (Failed("engine_dead", "dead"), "503", "engine_dead"),
    ],
)
def test_a_refused_turn_ends_with_its_code(
    http: httpx.Client, engine: FakeEngine, lines: Lines, outcome: Any, status: str, code: str,
    streamed: bool,
):  # fmt: skip
    engine.script = lambda turn: Script([], outcome)
    http.post("/v1/completions", json={**TEXT, "stream": streamed})
    line = lines.next()
    assert (line["status"], line["ended"], line["completion"]) == (status, code, "0")
    assert "cached" not in line
    assert "ttft" not in line


def test_a_stream_that_breaks_ends_with_its_code_whatever_its_status_was(
    http: httpx.Client, engine: FakeEngine, lines: Lines
):
    engine.script = lambda turn: Script([[97], [98]], Failed("engine_dead", "dead"))
    http.post("/v1/completions", json={**TEXT, "stream": True})
    line = lines.next()
    assert (line["status"], line["ended"], line["completion"]) == ("200", "engine_dead", "2")


def test_a_client_that_leaves_a_stream(server: Server, engine: FakeEngine, lines: Lines):
    engine.script = lambda turn: Script([[97], [98]], stalls=True)
    with httpx.stream(
        "POST", f"{server.url}/v1/completions", json={**TEXT, "stream": True}, trust_env=False
    ) as answer:
        pieces = (line for line in answer.iter_lines() if line)
        assert '"text":"a"' in next(pieces)
        assert '"text":"b"' in next(pieces)
    line = lines.next()
    assert (line["status"], line["ended"], line["completion"]) == ("200", "client_left", "2")


def test_a_client_that_leaves_before_anything_was_sent(
    server: Server, engine: FakeEngine, lines: Lines
):
    engine.script = lambda turn: Script([], stalls=True)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=TEXT, timeout=0.3, trust_env=False)
    line = lines.next()
    assert (line["status"], line["ended"]) == ("-", "client_left")


def test_a_client_that_leaves_in_the_middle_of_its_request(server: Server, lines: Lines):
    def half() -> Iterator[bytes]:
        yield b'{"model": '
        raise ConnectionError

    with pytest.raises(ConnectionError):
        httpx.post(f"{server.url}/v1/completions", content=half(), trust_env=False)
    assert lines.next()["ended"] == "client_left"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "ended"),
    [
        ("POST", "/v1/completions", b"{", "400", "refused"),
        ("POST", "/v1/completions", b'{"model": "x", "prompt": "y"}', "404", "model_not_found"),
        ("GET", "/v1/completions", b"", "405", "refused"),
        ("GET", "/nowhere", b"", "404", "refused"),
        ("GET", "/v1/models", b"", "200", "answered"),
        ("POST", "/tokenize", b'{"prompt": "y"}', "200", "answered"),
        ("POST", "/v1/completions", b" " * 20_000_000, "413", "refused"),
    ],
)
def test_what_reaches_no_engine(
    http: httpx.Client, lines: Lines, method: str, path: str, body: bytes, status: str, ended: str
):
    answer = http.request(method, path, content=body)
    assert str(answer.status_code) == status
    line = lines.next()
    assert (line["method"], line["path"]) == (method, path)
    assert (line["status"], line["ended"]) == (status, ended)
    assert line["request"]
    assert "prompt" not in line


def test_a_bug_has_a_line_too(http: httpx.Client, server: Server, lines: Lines, monkeypatch):
    def bug(_: str) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(server.service, "check_name", bug)
    with httpx.Client(base_url=server.url, trust_env=False) as once:
        assert once.post("/v1/completions", json=TEXT).status_code == 500
    line = lines.next()
    assert (line["status"], line["ended"]) == ("500", "internal_error")


def test_probes_are_logged_when_they_fail(http: httpx.Client, engine: FakeEngine, lines: Lines):
    for path in ("/health", "/ping", "/readiness", "/liveness", "/version", "/load", "/metrics"):
        assert http.get(path).status_code == http.head(path).status_code == 200
    engine.state = EngineState.DEAD
    http.get("/health")
    http.post("/metrics")
    assert (lines.next()["path"], lines.next()["path"]) == ("/health", "/metrics")
    assert len(lines.all) == 2


def test_around_keys_and_pages(lines: Lines):
    config = EndpointConfig(api_key=("secret",), allowed_origins=(PAGE,), root_path="/llm")
    with serve(config, FakeTokenizer()) as server:
        httpx.post(f"{server.url}/v1/completions", json=TEXT, trust_env=False)
        asks = {"origin": PAGE, "access-control-request-method": "POST"}
        httpx.options(f"{server.url}/v1/completions", headers=asks, trust_env=False)
        httpx.get(f"{server.url}/health", trust_env=False)
    refused, preflight = lines.next(), lines.next()
    assert (refused["status"], refused["ended"]) == ("401", "invalid_api_key")
    assert refused["path"] == "/llm/v1/completions"
    assert (preflight["method"], preflight["ended"]) == ("OPTIONS", "answered")
    assert len(lines.all) == 2


def test_whoever_wants_no_lines_has_none(lines: Lines):
    with serve(EndpointConfig(access_log=False), FakeTokenizer()) as server:
        httpx.post(f"{server.url}/v1/completions", json=TEXT, trust_env=False)
    assert not lines.all


def test_what_clients_write_is_harmless(http: httpx.Client, lines: Lines):
    headers = {b"x-request-id": b"a b\xff=1"}
    http.get("/a%0Ab%1B[2J?key=secret", headers=headers)
    line = lines.next()
    assert line["path"] == "/a%0Ab%1B[2J"
    assert line["request"] == "a?b?=1"


def test_nothing_shown_is_a_space_a_control_or_long():
    assert shown("ab c\n\x1b[2J\x7f\x85é") == "ab?c??[2J???"
    assert shown("x" * 1000) == "x" * 256


def test_the_official_client_is_told_the_same(client: openai.OpenAI, lines: Lines):
    answer = client.chat.completions.create(
        model="org/fake", messages=[{"role": "user", "content": "hi"}]
    )
    assert answer.usage is not None
    line = lines.next()
    assert line["id"] == answer.id
    assert int(line["prompt"]) == answer.usage.prompt_tokens
    assert int(line["completion"]) == answer.usage.completion_tokens
