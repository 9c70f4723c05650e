"""The load generator against a server that can be read in full: counts, lengths, refusals."""

import asyncio
import json
from contextlib import closing, suppress
from dataclasses import replace

import pytest

from benchmarks.bench import replies_for
from benchmarks.connection import (
    BadReply,
    Connection,
    Reply,
    last_object,
    post,
    streamed_text,
)
from benchmarks.load import LoadReport, LoadSpec, requests, run

SPEC = LoadSpec(
    port=0,
    model="m",
    clients=3,
    replies=2,
    prompt_len=4,
    reply_len=5,
    vocab_size=10,
    stream=False,
    seed=1,
)


class Server:
    """Answers every request with `max_tokens - short` tokens and remembers the bodies."""

    def __init__(self, short: int) -> None:
        self.bodies: list[dict] = []
        self._short = short

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError), closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next(h for h in head.split("\r\n") if h.startswith("Content-Length"))
                body = json.loads(await reader.readexactly(int(length.split(":")[1])))
                self.bodies.append(body)
                writer.write(self._answer(body))

    def _answer(self, body: dict) -> bytes:
        usage = json.dumps({"usage": {"completion_tokens": body["max_tokens"] - self._short}})
        if not body.get("stream"):
            return f"HTTP/1.1 200 OK\r\ncontent-length: {len(usage)}\r\n\r\n{usage}".encode()
        events = ['data: {"choices":[]}\n\n', f"data: {usage}\n\n", "data: [DONE]\n\n"]
        chunks = "".join(f"{len(event):x}\r\n{event}\r\n" for event in events)
        return f"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n".encode()


async def against(server: Server, spec: LoadSpec) -> LoadReport:
    listening = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    async with listening:
        return await run(replace(spec, port=listening.sockets[0].getsockname()[1]))


@pytest.mark.parametrize("stream", [False, True])
def test_every_client_sends_its_requests_and_every_token_is_counted(stream: bool):
    server = Server(short=0)
    report = asyncio.run(against(server, replace(SPEC, stream=stream)))
    assert report.tokens == 3 * 2 * 5
    assert report.tokens_per_s == pytest.approx(30 / report.wall_s)
    assert 0 < report.first_p50_s <= report.first_p95_s <= report.wall_s
    assert [len(body["prompt"]) for body in server.bodies] == [4] * 6
    assert all(body["ignore_eos"] and body["max_tokens"] == 5 for body in server.bodies)


@pytest.mark.parametrize("stream", [False, True])
def test_a_reply_of_another_length_spoils_the_run(stream: bool):
    with pytest.raises(BadReply, match="4 tokens"):
        asyncio.run(against(Server(short=1), replace(SPEC, stream=stream)))


def test_prompts_are_distinct_and_the_same_for_the_same_seed():
    wanted = replace(SPEC, prompt_len=20)
    sent = [request for client in range(3) for request in requests(wanted, client)]
    assert len(set(sent)) == 6
    assert requests(wanted, 1) == requests(wanted, 1)
    assert requests(wanted, 1) != requests(replace(wanted, seed=2), 1)


def test_a_server_that_hangs_up_is_an_error():
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def talk() -> None:
        listening = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with listening:
            port = listening.sockets[0].getsockname()[1]
            connection = await Connection.open("127.0.0.1", port)
            with closing(connection):
                await connection.send(post("/v1/completions", port, {}))

    with pytest.raises(BadReply):
        asyncio.run(talk())


def test_an_error_status_is_shown_with_what_it_said():
    with pytest.raises(BadReply, match="status 429: busy"):
        last_object(Reply(429, b"busy", 0.1, 0.1), stream=False)


def test_a_stream_without_its_end_is_an_error():
    with pytest.raises(BadReply, match="a stream ended with"):
        last_object(Reply(200, b'data: {"usage": {}}\n\n', 0.1, 0.1), stream=True)


def test_the_text_of_a_streamed_chat_is_put_together():
    deltas = [{"role": "assistant", "content": ""}, {"content": "4"}, {"content": "2"}, {}]
    events = [json.dumps({"choices": [{"delta": delta}]}) for delta in deltas]
    body = "".join(f"data: {event}\n\n" for event in [*events, '{"choices": []}', "[DONE]"])
    assert streamed_text(body.encode()) == "42"


@pytest.mark.parametrize(("once_s", "expected"), [(0.1, 20), (0.9, 2), (30.0, 1)])
def test_runs_are_sized_by_how_long_one_reply_took(once_s: float, expected: int):
    once = LoadReport(tokens=1, wall_s=once_s, cpu_s=0, first_p50_s=0, first_p95_s=0)
    assert replies_for(2.0, once) == expected
