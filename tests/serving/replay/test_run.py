"""Replays against a server that tests write: order, threads of conversation, failures."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.replay.run import replay
from serving.replay.settings import CHAT, ReplayError
from serving.replay.text import Author
from serving.workload.session import SessionShape, Span, Workload
from tests.serving.replay.fake_server import (
    URL,
    FakeServer,
    config,
    in_text,
    in_tokens,
    refusal,
    reply_ids,
    stream,
    turn,
    workload,
)
from tests.serving.test_architecture import loaded_by, modules_under

AUTHOR = Author(seed=7, vocab=100)
ROOT = Path(__file__).parents[3]


def run(server: FakeServer, work: Workload, **changes: Any) -> dict[str, Any]:
    return replay(config(**changes), work, transport=server.transport, show_progress=False)


def test_a_later_prompt_begins_with_the_first_and_its_reply():
    server = FakeServer(in_tokens)
    report = run(server, workload([turn(6, 3, shared=(Span(1, 4),)), turn(5, 2)]))
    first, second = server.asked
    assert first["prompt"] == AUTHOR.shared_ids(Span(1, 4)) + AUTHOR.own_ids("s0.0", 6)
    past = first["prompt"] + reply_ids(first)
    assert second["prompt"] == past + AUTHOR.own_ids("s0.1", 5)
    assert (report["turns"], report["finished"], report["failed"]) == (2, 2, {})
    assert (report["lengths"], report["odd_lengths"], report["given_up"]) == ("exact", 0, 0)
    assert report["cached_share"] == (5 + 9) / (10 + 18)


def test_every_turn_asks_for_an_exact_length_and_a_stream():
    server = FakeServer(in_tokens)
    run(server, workload([turn(6, 3)]))
    (body,) = server.asked
    del body["prompt"]
    assert body == {
        "model": "first",
        "return_token_ids": True,
        "max_tokens": 3,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    (request,) = server.requests
    assert request.url == f"{URL}/v1/completions"
    assert request.headers["x-session-id"] == "s0"
    assert "authorization" not in request.headers


def test_a_named_model_and_a_key_are_sent():
    server = FakeServer(in_tokens)
    server.models = httpx.Response(404)
    report = run(server, workload([turn(6, 3)]), model="mine", api_key="k")
    assert server.asked[0]["model"] == report["model"] == "mine"
    assert server.requests[0].headers["authorization"] == "Bearer k"


def test_a_model_that_is_not_served_is_one_line_with_those_that_are():
    server = FakeServer(in_tokens)
    problem = f"{URL}: --model nope is not served; use one of first, second"
    with pytest.raises(ReplayError, match=problem):
        run(server, workload([turn(6, 3)]), model="nope")
    assert not server.asked
    assert run(server, workload([turn(6, 3)]), model="second")["model"] == "second"


def test_chats_carry_replies_as_messages():
    server = FakeServer(in_text)
    report = run(server, workload([turn(6, 3), turn(5, 2)]), prompts=CHAT)
    first, second = (body["messages"] for body in server.asked)
    assert second[:1] == first
    assert second[1] == {"role": "assistant", "content": "sososo"}
    assert [one["role"] for one in second] == ["user", "assistant", "user"]
    assert (report["finished"], report["lengths"]) == (2, "approximate")
    assert report["cached_share"] is None


def test_a_server_without_token_ids_is_told_apart_at_once():
    server = FakeServer(in_text)
    with pytest.raises(ReplayError, match=r"returns no token ids .* use --prompts chat"):
        run(server, workload([turn(6, 3), turn(5, 2)], [turn(6, 3, think_s=1e6)]))
    assert len(server.asked) == 1


def test_a_session_ends_with_the_turn_that_fails_and_others_go_on():
    async def answer(body: dict[str, Any]) -> httpx.Response:
        if len(body["prompt"]) == 13:
            return refusal(429, "queue_full", "try later")
        return await in_tokens(body)

    server = FakeServer(answer)
    work = workload([turn(6, 2), turn(5, 2), turn(5, 2), turn(5, 2)], [turn(7, 2), turn(7, 2)])
    report = run(server, work)
    assert sorted(len(body["prompt"]) for body in server.asked) == [6, 7, 13, 16]
    assert (report["turns"], report["finished"], report["given_up"]) == (4, 3, 2)
    assert report["failed"] == {"429 queue_full": 1}
    assert report["messages"] == {"429 queue_full": "try later"}
    assert report["slo_attainment"] == 3 / 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (stream({"choices": [{"text": "a", "token_ids": [1]}]}), "stream: no end"),
        (
            stream({"choices": [{"token_ids": [1]}]}, {"error": {"code": "aborted"}}),
            "stream: aborted",
        ),
        (httpx.ReadError("gone"), "ReadError"),
    ],
)
def test_replies_that_break_off_are_failures(answer, reason):
    async def give(_: dict[str, Any]) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    report = run(FakeServer(give), workload([turn(6, 2)]))
    assert (report["turns"], report["finished"], report["failed"]) == (1, 0, {reason: 1})


def test_sessions_do_not_wait_for_each_other():
    together = asyncio.Barrier(6)

    async def answer(body: dict[str, Any]) -> httpx.Response:
        await together.wait()
        return await in_tokens(body)

    assert run(FakeServer(answer), workload(*[[turn(6, 2)]] * 6))["finished"] == 6


def test_no_more_turns_than_the_limit_are_in_the_server():
    inside, most = 0, 0

    async def answer(body: dict[str, Any]) -> httpx.Response:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        for _ in range(10):
            await asyncio.sleep(0)
        inside -= 1
        return await in_tokens(body)

    work = workload(*[[turn(6, 2), turn(6, 2)]] * 6)
    report = run(FakeServer(answer), work, concurrency_limit=2)
    assert (report["finished"], most) == (12, 2)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C interrupts, also where the tests were started in the background and it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_reports_what_came_until_then():
    async def answer(body: dict[str, Any]) -> httpx.Response:
        if len(body["prompt"]) != 6 + 2 + 5:
            return await in_tokens(body)
        while len(server.asked) < 3:
            await asyncio.sleep(0)
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
        raise AssertionError("not reached")

    server = FakeServer(answer)
    work = workload(
        [turn(6, 2), turn(5, 2)], [turn(7, 2), turn(5, 2, think_s=1e6)], [turn(8, 2, think_s=1e6)]
    )
    far = SessionShape("far", 1e6, (turn(9, 2),))
    report = run(server, replace(work, sessions=(*work.sessions, far)))
    # Nobody came before the time: neither after a reply nor at the beginning.
    assert sorted(len(body["prompt"]) for body in server.asked) == [6, 7, 13]
    assert report["interrupted"]
    assert (report["turns"], report["finished"]) == (3, 2)
    assert report["failed"] == {"interrupted": 1}


@pytest.mark.parametrize(
    "models",
    [
        httpx.Response(404, text="what?"),
        httpx.Response(200, json={"data": []}),
        httpx.Response(200, json=[1]),
        httpx.Response(200, text="what?"),
    ],
)
def test_a_server_that_names_no_model_is_an_error_line(models):
    server = FakeServer(in_tokens)
    server.models = models
    with pytest.raises(ReplayError, match=f"{URL}: .* names no model; use --model NAME"):
        run(server, workload([turn(6, 2)]))


def test_a_server_that_is_not_there_is_one_line_with_its_address(free_port_url):
    command = [sys.executable, "-m", "serving.cli", "replay", "--limit", "1"]
    done = subprocess.run(
        [*command, "--url", free_port_url], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"foretoken: {free_port_url}: cannot be reached (")
    assert "Traceback" not in done.stderr


def test_replays_need_no_jax_and_no_http_server():
    loaded = loaded_by(modules_under("serving/replay"))
    assert "httpx" in loaded
    assert not loaded & {"jax", "jaxlib", "flax", "fastapi", "uvicorn"}
