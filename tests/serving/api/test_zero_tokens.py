"""A turn without tokens: an empty prompt is refused, an empty reply is a reply."""

from typing import Any

import httpx
import pytest

from tests.serving.api.test_bad_input import CHAT, TEXT
from tests.support.fake_engine import FakeEngine


@pytest.mark.parametrize("prompt", [[], [[]], [[5], []]])
def test_a_prompt_without_tokens_is_a_400_and_never_reaches_the_engine(
    http: httpx.Client, engine: FakeEngine, prompt: Any
):
    answer = http.post("/v1/completions", json={**TEXT, "prompt": prompt})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("prompt")
    assert engine.turns == []


def test_a_conversation_without_messages_is_a_400(http: httpx.Client, engine: FakeEngine):
    answer = http.post("/v1/chat/completions", json={**CHAT, "messages": []})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "messages"
    assert engine.turns == []


@pytest.mark.parametrize(("path", "body"), [("completions", TEXT), ("chat/completions", CHAT)])
def test_a_reply_without_tokens_is_empty_and_asks_nothing_of_the_engine(
    http: httpx.Client, engine: FakeEngine, path: str, body: dict[str, Any]
):
    answer = http.post(f"/v1/{path}", json={**body, "max_tokens": 0})
    assert answer.status_code == 200
    (choice,) = answer.json()["choices"]
    text = choice["text"] if path == "completions" else choice["message"]["content"]
    assert not text
    assert choice["finish_reason"] == "length"
    assert answer.json()["usage"]["completion_tokens"] == 0
    assert engine.turns == []
