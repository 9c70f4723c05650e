"""Clients that do not behave: what each may cost, and that the others do not notice."""

import asyncio
import json
import select
import socket
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from serving.api.connections import MAX_HEAD_BYTES
from serving.config import EndpointConfig
from serving.request import Turn
from tests.serving.api.conftest import Server, serve, until
from tests.serving.api.test_bad_input import TEXT
from tests.support.fake_engine import FakeEngine, Script
from tests.support.fake_tokenizer import FakeTokenizer

HEAD = b"GET /liveness HTTP/1.1\r\nhost: x\r\nx-long: "


def connected(server: Server) -> socket.socket:
    port = int(server.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def asked(**fields: object) -> bytes:
    body = json.dumps({**TEXT, **fields}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def answer_to(sock: socket.socket) -> bytes:
    """What the server says until it closes the connection."""
    said = b""
    try:
        while data := sock.recv(65536):
            said += data
    except ConnectionResetError:
        pass
    return said


def test_a_head_without_an_end_is_refused(server: Server):
    with closing(connected(server)) as sock:
        sock.sendall(HEAD)
        with pytest.raises(OSError, match=r"reset|pipe"):
            sock.sendall(b"a" * 100_000_000)  # more than any buffer on the way takes
    assert httpx.get(f"{server.url}/liveness", trust_env=False).status_code == 200


def test_a_head_that_is_too_long_is_told_so(server: Server):
    with closing(connected(server)) as sock:
        sock.sendall(HEAD)
        while not select.select([sock], [], [], 0.001)[0]:
            sock.sendall(b"a" * 4096)
        assert answer_to(sock).startswith(b"HTTP/1.1 431 ")


def test_a_head_of_a_usual_length_is_taken_and_bodies_do_not_count(server: Server):
    with closing(connected(server)) as sock:
        for _ in range(3):
            padding = " " * (2 * MAX_HEAD_BYTES)
            sock.sendall(asked(user=padding))
            said = b""
            while b'"usage"' not in said:
                said += sock.recv(65536)
            assert said.startswith(b"HTTP/1.1 200 ")
        sock.sendall(HEAD + b"a" * (MAX_HEAD_BYTES // 2) + b"\r\nconnection: close\r\n\r\n")
        assert answer_to(sock).startswith(b"HTTP/1.1 200 ")


@pytest.fixture
def impatient() -> Iterator[Server]:
    with serve(EndpointConfig(), FakeTokenizer(), keep_alive_s=0.2) as server:
        yield server


@pytest.mark.parametrize("said", [b"", HEAD, asked(max_tokens=1) + HEAD])
def test_a_client_that_does_not_come_to_a_request_is_not_waited_for(impatient: Server, said: bytes):
    with closing(connected(impatient)) as sock:
        sock.sendall(said)
        assert answer_to(sock).count(b"HTTP/1.1 ") == said.count(b"POST")


def test_a_request_may_take_longer_than_a_client_is_waited_for(impatient: Server):
    impatient.engine.script = lambda turn: Script([[97]], lag=0.5)
    with closing(connected(impatient)) as sock:
        sock.sendall(asked(max_tokens=1))
        assert b'"usage"' in answer_to(sock)


@pytest.mark.parametrize("pipelined", [0, 1, 2])
def test_a_client_that_leaves_is_noticed_whatever_it_has_asked_beside(
    server: Server, pipelined: int
):
    server.engine.script = lambda turn: Script([[97]] * 1000, lag=0.01)
    with closing(connected(server)) as sock:
        sock.sendall(asked(stream=True, max_tokens=900))
        while b"data: " not in sock.recv(65536):
            pass
        sock.sendall(asked(stream=True) * pipelined)
        until(lambda: len(server.service.running) == 1)
    until(lambda: len(server.service.running) == 0)
    assert len(server.engine.turns) == 1
    assert {reason for _, reason in server.engine.cancels} >= {"client disconnected"}


def test_pipelined_requests_are_answered_in_their_order(server: Server):
    with closing(connected(server)) as sock:
        sock.sendall(asked(max_tokens=1) + asked(max_tokens=2) + asked(max_tokens=0))
        said = b""
        while said.count(b'"usage"') < 3:
            said += sock.recv(65536)
    counts = [part.partition(b",")[0] for part in said.split(b'"completion_tokens":')[1:]]
    assert counts == [b"1", b"2", b"0"]


def test_between_the_prompts_of_one_request_the_others_have_their_turn(
    http: httpx.Client, engine: FakeEngine
):
    submitted: list[int] = []

    def script(turn: Turn) -> Script:
        if not submitted:
            submitted.append(0)
            loop = asyncio.get_running_loop()
            loop.call_soon(lambda: submitted.append(len(engine.turns)))
        return Script([[97]])

    engine.script = script
    answer = http.post("/v1/completions", json={**TEXT, "prompt": [[1], [2], [3]], "n": 2})
    assert answer.status_code == 200
    assert len(engine.turns) == 6
    assert submitted[1] == 2, "what waited comes after the choices of one prompt"
