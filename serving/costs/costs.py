"""How long will it take? What every decision may ask of a latency model.

Times in seconds, lengths in tokens, sizes in bytes. Implementations: `roofline` (a cold start from
descriptions), `profile` (a measured grid), `corrected` (either, its steps times what was observed
lately).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable


class Estimate(NamedTuple):
    """A predicted duration. `error` is its relative standard deviation (0.1: about 10 % off)."""

    seconds: float
    error: float


@dataclass(frozen=True, slots=True)
class Link:
    """A way for KV, between two workers or to a worker's host memory."""

    latency_s: float
    bytes_per_s: float

    def seconds(self, num_bytes: int) -> float:
        """Return what so many bytes take if nothing else is on its way."""
        return self.latency_s + num_bytes / self.bytes_per_s


@dataclass(frozen=True, slots=True)
class StepModel:
    """A decode step's time as a plane: `base_s + per_row_s * rows + per_token_s * KV tokens`."""

    base_s: float
    per_row_s: float
    per_token_s: float


@runtime_checkable
class Costs(Protocol):
    """Predicts durations on one kind of worker."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that one token position takes."""
        ...

    def prefill(self, new_len: int, cached_len: int) -> Estimate:
        """Predict a step that only prefills `new_len` tokens on top of `cached_len`."""
        ...

    def decode(self, rows: int, kv_tokens: int) -> Estimate:
        """Predict a step of `rows` decode rows that attend to `kv_tokens` tokens together."""
        ...

    def decode_ahead(self, rows: int, kv_tokens: int, steps: int) -> list[float]:
        """Predict so many decode steps one after another, in seconds: each row grows by a token."""
        ...

    def mixed(self, rows: int, kv_tokens: int, new_len: int, cached_len: int) -> Estimate:
        """Predict a decode step with a chunk of `new_len` tokens on top of `cached_len` in it."""
        ...

    def transfer(self, num_bytes: int, link: Link) -> Estimate:
        """Predict moving KV over a link."""
        ...

    def step_model(self) -> StepModel:
        """Return the plane that fits `decode` best over the range it is used in."""
        ...
