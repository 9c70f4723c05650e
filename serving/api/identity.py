"""Who asks, in which session, with which targets? What headers and hint fields say about a turn.

Keys and session names are hashed together before they go further. Knows nothing of prompts.
"""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from serving.api.errors import bad_request
from serving.api.replies import Tenant
from serving.api.schemas import GenerationBody
from serving.request import SessionId, Slo

SESSION_HEADERS = (
    "x-session-id",
    "x-session-affinity",
    "x-dynamo-session-id",
    "x-claude-code-session-id",
    "session-id",
    "x-smg-routing-key",
    "x-session-token",
)
"""In order of trust: the first one present names the session."""

REQUEST_ID_HEADERS = ("x-request-id", "x-trace-id", "x-correlation-id")

MAX_NAME_BYTES = 256

_TTFT_HEADERS = ("x-llm-d-slo-ttft-ms", "x-slo-ttft-ms")
_TPOT_HEADERS = ("x-llm-d-slo-tpot-ms", "x-slo-tpot-ms")


@dataclass(frozen=True, slots=True)
class Identity:
    """What a request says about itself, beside what it asks for."""

    headers: Mapping[str, str]
    tenant: Tenant
    session: SessionId | None
    slo: Slo
    priority: int


def bearer(headers: Mapping[str, str]) -> str:
    """Return the bearer key that was sent; "" if none was."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def tenant(headers: Mapping[str, str], cache_salt: str | None) -> Tenant:
    """Return the salt of the sender's key and `cache_salt`; "" for those who sent neither."""
    key = bearer(headers)
    if not key and not cache_salt:
        return Tenant("")
    return Tenant(_hashed(key, cache_salt or ""))


def identity(headers: Headers, body: GenerationBody) -> Identity:
    """Read a request's identity; raises the 400 that names a header or field without meaning."""
    return Identity(
        headers=headers,
        tenant=tenant(headers, body.cache_salt),
        session=_session(headers, body),
        slo=Slo(
            ttft_s=_target(headers, _TTFT_HEADERS),
            tpot_s=_target(headers, _TPOT_HEADERS),
        ),
        priority=_priority(body),
    )


def request_id(headers: Mapping[str, str]) -> str | None:
    """Return the id that a client or gateway gave to this request."""
    return next((headers[name] for name in REQUEST_ID_HEADERS if headers.get(name)), None)


def _hashed(*parts: str) -> str:
    """Lengths are hashed too, so that ("ab", "c") and ("a", "bc") differ."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _session(headers: Mapping[str, str], body: GenerationBody) -> SessionId | None:
    key = bearer(headers)
    for name in SESSION_HEADERS:
        if headers.get(name):
            return SessionId(_hashed(key, _name(headers[name], name)))
    if body.prompt_cache_key:
        return SessionId(_hashed(key, _name(body.prompt_cache_key, "prompt_cache_key")))
    return None


def _name(value: str, where: str) -> str:
    if len(value.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise bad_request(f"`{where}` is longer than {MAX_NAME_BYTES} bytes.", where)
    return value


def _target(headers: Headers, names: tuple[str, ...]) -> float | None:
    """Return a target in seconds, or None; whoever sends it twice must send the same twice.

    Raises the 400 that names the header: for what is no positive number, for repetitions that
    differ, and for two spellings that differ. Proxies join repetitions with commas.
    """
    sent = [(name, _milliseconds(headers, name)) for name in names if name in headers]
    if len({value for _, value in sent}) > 1:
        first, other = (f"`{name}` ({value:g})" for name, value in sent)
        raise bad_request(f"{first} and {other} contradict each other; send one.", names[0])
    return sent[0][1] / 1000 if sent else None


def _milliseconds(headers: Headers, name: str) -> float:
    texts = [text.strip() for line in headers.getlist(name) for text in line.split(",")]
    values = {_number(text) for text in texts}
    if not all(0 < value < math.inf for value in values):
        raise bad_request(f"`{name}` must be a positive number of milliseconds.", name)
    if len(values) > 1:
        raise bad_request(f"`{name}` was sent with different values: {', '.join(texts)}.", name)
    return values.pop()


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _priority(body: GenerationBody) -> int:
    if body.priority is not None:
        return body.priority
    hints: Any = (body.nvext or {}).get("agent_hints")
    hinted = hints.get("priority") if isinstance(hints, dict) else None
    return hinted if type(hinted) is int else 0
