"""A stop string that begins before a live move ends the reply after it: it is the endpoint's."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from serving.api.app import build_app
from serving.api.id_tokenizer import IdTokenizer
from serving.api.service import Service
from serving.config import EndpointConfig
from serving.messages import Decision, MoveWanted, WorkerId
from serving.metrics import Metrics
from serving.request import TurnId
from tests.serving.api.conftest import LABELS, MODEL
from tests.serving.engine.test_loop import Diary, Running
from tests.serving.engine.test_policies import D0, D1
from tests.support.local_fleet import sampling, turn
from tests.support.tiny_cluster import MODEL as TINY
from tests.support.tiny_cluster import Cluster, prompt

HOW = {"temperature": 1.0, "seed": 3}
MAX_TOKENS = 110
BEGIN, END = 10, 100
"""The tokens of the reply whose text is the stop string. So many, because workers do not wait for
the move: it is asked for soon after the first of them, and has come to pass before the last."""
TOKENIZER = IdTokenizer(TINY.vocab_size, TINY.eos_ids)


class Mover(Diary):
    """Asks for the turn's move as soon as a little of the stop string is said."""

    def __init__(self) -> None:
        super().__init__()
        self.post: Any = None
        self.owner: WorkerId | None = None
        self.said_at_move: list[int] = []  # reply tokens

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        super().on_tokens(turns, now)
        (turn,) = turns
        if self.tokens[turn] == BEGIN + 2:
            self.post([MoveWanted(turn, D1 if self.owner == D0 else D0, "test")])

    def on_decision(self, decision: Decision, now: float) -> None:
        if decision.kind == "place":
            self.owner = WorkerId(decision.choice)
        if decision.kind == "moved":
            self.said_at_move += self.tokens.values()


async def streamed(running: Running, mover: Mover, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The chunks with which the endpoint answers."""
    async with running as engine:
        mover.post = engine.post
        service = Service(engine, TOKENIZER, EndpointConfig(), MODEL, Metrics(LABELS), None)
        app = build_app(service, version="1.2.3", settings={})
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.post("/v1/completions", json=body, timeout=60)
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("include", [False, True])
def test_a_stop_string_may_lie_on_both_sides_of_a_move(split: Cluster, include: bool):
    tokens = split.fleet().ask(turn("stays", prompt(11), sampling(MAX_TOKENS, **HOW))).tokens
    before, stop = (
        TOKENIZER.decode(part, skip_special_tokens=True)
        for part in (tokens[:BEGIN], tokens[BEGIN:END])
    )
    mover = Mover()
    body = {
        "model": MODEL.names[0],
        "prompt": prompt(11),
        "max_tokens": MAX_TOKENS,
        "stop": stop,
        "include_stop_str_in_output": include,
        "stream": True,
        "stream_options": {"include_usage": True},
        **HOW,
    }
    chunks = asyncio.run(streamed(Running(split, diary=mover), mover, body))
    (at,) = mover.said_at_move
    assert BEGIN + 2 <= at < END
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == before + (stop if include else "")
    ends = [(c["finish_reason"], c["stop_reason"]) for c in choices if c["finish_reason"]]
    assert ends == [("stop", stop)]
    assert chunks[-1]["usage"]["completion_tokens"] == END
