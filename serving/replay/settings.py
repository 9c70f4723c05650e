"""What is asked of a replay? Which server, how prompts are made, and what counts as in time."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from serving.config import ConfigError, require

TOKENS = "tokens"
CHAT = "chat"
PROMPTS = (TOKENS, CHAT)


class ReplayError(ConfigError):
    """A replay that cannot be done: one line that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayConfig:
    """What to replay against, and how. Targets in seconds; None: no target, no limit.

    `url` ends before `/v1`. `model` None: the first that the server lists.
    `vocab` bounds the token ids of made-up text. `concurrency_limit` counts turns in the server.
    """

    url: str
    model: str | None
    api_key: str | None
    prompts: str
    vocab: int
    seed: int
    slo_ttft_s: float | None
    slo_tpot_s: float | None
    concurrency_limit: int | None


def base_url(text: str) -> str:
    """Return a server's address without `/v1`; raises ConfigError for what is no address."""
    address = text.rstrip("/").removesuffix("/v1").rstrip("/")
    try:
        parts = urlsplit(address)
        # Reading the port checks it.
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        known = False
    require(known, f"--url {text} is no address; use http://host:port")
    return address
