"""What does a server deliver to clients that ask again at once? The load generator, a process.

A closed loop: every client has one connection and sends its next request when it has the whole
answer to the last. Prompts are random token ids and replies have a fixed length, so every run does
the same work. Reads one `LoadSpec` per line as JSON and writes one `LoadReport` per line.

A process of its own, because it would otherwise share the interpreter with the rest of the
benchmark; it still shares the cores with the server, so it reports what it used of them.
"""

import asyncio
import json
import random
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import uvloop

from benchmarks.connection import BadReply, Connection, Reply, last_object, post
from benchmarks.figures import percentile

HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One run: `clients` send `replies` requests each, lengths in tokens."""

    port: int
    model: str
    clients: int
    replies: int
    prompt_len: int
    reply_len: int
    vocab_size: int
    stream: bool
    seed: int


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a run delivered. Times in seconds; `cpu_s` is what the generator itself used."""

    tokens: int
    wall_s: float
    cpu_s: float
    first_p50_s: float
    first_p95_s: float

    @property
    def tokens_per_s(self) -> float:
        """Reply tokens of all clients together per second."""
        return self.tokens / self.wall_s


def requests(spec: LoadSpec, client: int) -> list[bytes]:
    """Return a client's requests; no two prompts of a run are alike."""
    random_ids = random.Random(f"{spec.seed}/{client}")
    return [
        post("/v1/completions", spec.port, _body(spec, random_ids)) for _ in range(spec.replies)
    ]


def _body(spec: LoadSpec, random_ids: random.Random) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": spec.model,
        "prompt": [random_ids.randrange(spec.vocab_size) for _ in range(spec.prompt_len)],
        "max_tokens": spec.reply_len,
        "ignore_eos": True,
        "temperature": 0,
    }
    if spec.stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


async def run(spec: LoadSpec) -> LoadReport:
    """Do one run. Raises BadReply unless every reply has exactly the tokens asked for."""
    work = [requests(spec, client) for client in range(spec.clients)]
    connections = [await Connection.open(HOST, spec.port) for _ in work]
    try:
        cpu, start = time.process_time(), time.perf_counter()
        clients = (_client(c, r) for c, r in zip(connections, work, strict=True))
        replies = [reply for own in await asyncio.gather(*clients) for reply in own]
        wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    finally:
        for connection in connections:
            connection.close()
    for reply in replies:
        usage = last_object(reply, stream=spec.stream)["usage"]
        if usage["completion_tokens"] != spec.reply_len:
            raise BadReply(f"a reply has {usage['completion_tokens']} tokens")
    firsts = [reply.first_s for reply in replies]
    return LoadReport(
        tokens=len(replies) * spec.reply_len,
        wall_s=wall_s,
        cpu_s=cpu_s,
        first_p50_s=percentile(firsts, 0.5),
        first_p95_s=percentile(firsts, 0.95),
    )


async def _client(connection: Connection, work: list[bytes]) -> list[Reply]:
    return [await connection.send(request) for request in work]


def main() -> None:
    """Serve specifications from standard input until it ends."""
    for line in sys.stdin:
        report = uvloop.run(run(LoadSpec(**json.loads(line))))
        print(json.dumps(asdict(report)), flush=True)


if __name__ == "__main__":
    main()
