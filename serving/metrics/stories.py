"""What became of each turn? Stories, as a decision log tells them.

Times are in seconds since the server's start. Knows nothing of files, nor of how stories are shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One assignment of a turn: its owner, who prefills, what else was priced.

    `clear` are the workers that were kept clear of rows when the owner was chosen. `again` is why
    there had to be another attempt; None for the first.
    """

    t: float
    owner: str
    place_reason: str
    prefill: str
    route_reason: str
    prompt_len: int
    cached_len: int
    history: str | None
    options: Sequence[Record]
    clear: Sequence[str]
    again: str | None

    @property
    def local(self) -> bool:
        """Whether the owner prefilled."""
        return self.prefill == self.owner


@dataclass(frozen=True, slots=True)
class FirstToken:
    """When the first token came, and when it was to come."""

    t: float
    worker: str
    ttft_s: float
    predicted_s: float | None
    prefill_s: float
    computed: int


@dataclass(slots=True)
class Move:
    """One move of a row. `outcome` is moved, failed, or None if the log does not tell."""

    t: float
    source: str
    to: str
    reason: str
    gain_s: float
    kv_len: int
    outcome: str | None = None
    why_not: str | None = None
    done_t: float | None = None
    resumed_t: float | None = None
    stop_s: float | None = None
    itl_before_s: float | None = None
    itl_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker decided about a turn's place there; `kind` and `details` as in the log."""

    t: float
    worker: str
    kind: str
    reason: str
    details: Record


@dataclass(frozen=True, slots=True)
class Ending:
    """How a turn ended."""

    t: float
    outcome: str
    reason: str
    reply_len: int
    cached_len: int


@dataclass(slots=True)
class Story:
    """One turn. `number` counts the turns of its session."""

    turn: str
    arrived: float
    prompt_len: int
    max_tokens: int
    ttft_target_s: float | None
    tpot_target_s: float | None
    session: str | None = None
    number: int = 1
    attempts: list[Attempt] = field(default_factory=list[Attempt])
    first: FirstToken | None = None
    moves: list[Move] = field(default_factory=list[Move])
    rooms: list[Room] = field(default_factory=list[Room])
    end: Ending | None = None

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token after the first; None for replies shorter than two tokens."""
        if self.first is None or self.end is None or self.end.reply_len < 2:
            return None
        return (self.end.t - self.first.t) / (self.end.reply_len - 1)


@dataclass(frozen=True, slots=True)
class History:
    """One run of a server. `opening` is the log's first line.

    `workers` are changes of workers, `evicted` counts pages by what became of them.
    """

    opening: Record
    stories: Mapping[str, Story]
    workers: Sequence[Record]
    evicted: Mapping[str, int]
    until: float
