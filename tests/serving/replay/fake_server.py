"""A server whose answers you write down; it remembers what it was asked, in order."""

import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from serving.replay.settings import TOKENS, ReplayConfig
from serving.workload.session import SessionShape, TurnShape, Workload

Answer = Callable[[dict[str, Any]], Awaitable[httpx.Response]]
URL = "http://fake:8000"


def config(**changes: Any) -> ReplayConfig:
    values: dict[str, Any] = {
        "url": URL,
        "model": None,
        "api_key": None,
        "prompts": TOKENS,
        "vocab": 100,
        "seed": 7,
        "slo_ttft_s": None,
        "slo_tpot_s": None,
        "concurrency_limit": None,
    }
    return ReplayConfig(**{**values, **changes})


def turn(new: int, reply: int, **more: Any) -> TurnShape:
    return TurnShape(
        **{"think_s": 0.0, "keep": None, "shared": (), **more, "new": new, "reply": reply}
    )


def workload(*sessions: Sequence[TurnShape]) -> Workload:
    """Sessions s0, s1 ..., all from the beginning on."""
    shapes = [SessionShape(f"s{i}", 0.0, tuple(turns)) for i, turns in enumerate(sessions)]
    return Workload("by hand", tuple(shapes), {})


def stream(*objects: Any) -> httpx.Response:
    events = [b"data: " + json.dumps(one).encode() + b"\n\n" for one in objects]
    return httpx.Response(200, content=b"".join([*events, b"data: [DONE]\n\n"]))


def usage(prompt: int, reply: int, cached: int | None) -> dict[str, Any]:
    details = None if cached is None else {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": reply, "prompt_tokens_details": details}
    return {"choices": [], "usage": counts}


def refusal(status: int, code: str, message: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"message": message, "code": code}})


def reply_ids(body: dict[str, Any]) -> list[int]:
    """Reply to a prompt of n tokens: 1000 n, 1000 n + 1, ..."""
    return [1000 * len(body["prompt"]) + i for i in range(body["max_tokens"])]


async def in_tokens(body: dict[str, Any]) -> httpx.Response:
    """Reply one token, then the rest at once; half of the prompt was cached."""
    ids = reply_ids(body)
    return stream(
        {"choices": [{"text": "", "prompt_token_ids": body["prompt"]}]},
        {"choices": [{"text": "a", "token_ids": ids[:1], "finish_reason": None}]},
        {"choices": [{"text": "b", "token_ids": ids[1:], "finish_reason": "length"}]},
        usage(len(body["prompt"]), len(ids), len(body["prompt"]) // 2),
    )


async def in_text(body: dict[str, Any]) -> httpx.Response:
    """Reply as servers do that know nothing of token ids or of usage."""
    where = {"text": "so"} if "prompt" in body else {"delta": {"content": "so"}}
    return stream(
        {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
        *({"choices": [where]} for _ in range(body["max_tokens"])),
        {"choices": [{"finish_reason": "length"}]},
    )


class FakeServer:
    """Answers every turn by `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[dict[str, Any]] = []
        self.requests: list[httpx.Request] = []
        self.models = httpx.Response(200, json={"data": [{"id": "first"}, {"id": "second"}]})
        self.transport = httpx.MockTransport(self._handle)

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/models":
            return self.models
        body = json.loads(request.content)
        self.requests.append(request)
        self.asked.append(body)
        return await self.answer(body)
