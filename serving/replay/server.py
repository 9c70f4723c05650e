"""How is a server spoken to? OpenAI's API over HTTP; knows nothing of workloads or of times."""

from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import httpx

from serving.replay.conversation import Ask
from serving.replay.events import EventReader
from serving.replay.failure import TurnFailed, refused
from serving.replay.reply import Chunk, read_chunk
from serving.replay.settings import ReplayConfig, ReplayError

CONNECT_S = 30.0
"""Connections that take longer are taken for failures; replies may take as long as they want."""
KEEP_ALIVE_S = 2.0
"""Idle connections are dropped before servers do so (uvicorn: 5 s): no request meets a closed one.
"""


def open_client(
    config: ReplayConfig, transport: httpx.AsyncBaseTransport | None
) -> httpx.AsyncClient:
    """Return a client with as many connections as needed; transport None is the network."""
    key = config.api_key
    return httpx.AsyncClient(
        base_url=config.url,
        headers={} if key is None else {"authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(None, connect=CONNECT_S),
        limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_S),
        transport=transport,
        # What a proxy takes would be measured too.
        trust_env=False,
    )


class Server:
    """A server and the model that is asked for."""

    def __init__(self, http: httpx.AsyncClient, model: str) -> None:
        """Ask for `model` through `http`."""
        self._http = http
        self.model = model

    def request(self, ask: Ask, reply_len: int, session: str) -> httpx.Request:
        """Return the request for a greedy reply of exactly so many tokens, as a stream.

        `min_tokens` is left out: with `ignore_eos` nothing else ends a reply, and servers sample
        rows that have it in a slower way.
        """
        body: dict[str, Any] = {
            "model": self.model,
            **ask.fields,
            "max_tokens": reply_len,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        headers = {"x-session-id": quote(session)}
        return self._http.build_request("POST", ask.path, json=body, headers=headers)

    async def send(self, request: httpx.Request, on_chunk: Callable[[Chunk], None]) -> None:
        """Send a request and pass on every chunk as it comes; raises TurnFailed."""
        try:
            response = await self._http.send(request, stream=True)
            try:
                await _read(response, on_chunk)
            finally:
                await response.aclose()
        except httpx.RequestError as error:
            raise TurnFailed(type(error).__name__, str(error)) from error


async def _read(response: httpx.Response, on_chunk: Callable[[Chunk], None]) -> None:
    if response.status_code != httpx.codes.OK:
        raise refused(response.status_code, await response.aread())
    reader = EventReader()
    # To the very end, beyond the mark of it: only then the connection is used again.
    async for received in response.aiter_bytes():
        for event in reader.feed(received):
            chunk = read_chunk(event)
            if chunk is not None:
                on_chunk(chunk)


async def find_model(http: httpx.AsyncClient, config: ReplayConfig) -> str:
    """Return the model's name: the one asked for, else the first that is served.

    Raises ReplayError if nobody answers, the model is none of those served, or none is known. A
    server that lists no models is believed to have the one asked for.
    """
    try:
        response = await http.get("/v1/models")
    except httpx.RequestError as error:
        problem = str(error) or type(error).__name__
        raise ReplayError(f"{config.url}: cannot be reached ({problem})") from error
    served = _served(response)
    if config.model is None and not served:
        problem = f"/v1/models (status {response.status_code}) names no model; use --model NAME"
        raise ReplayError(f"{config.url}: {problem}")
    wanted = served[0] if config.model is None else config.model
    if served and wanted not in served:
        problem = f"--model {wanted} is not served; use one of {', '.join(served)}"
        raise ReplayError(f"{config.url}: {problem}")
    return wanted


def _served(response: httpx.Response) -> list[str]:
    """List the names in an answer of `/v1/models`; none if it is no such answer."""
    try:
        return [str(one["id"]) for one in response.raise_for_status().json()["data"]]
    except (httpx.HTTPStatusError, ValueError, LookupError, TypeError):
        return []
