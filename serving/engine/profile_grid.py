"""Which steps and transfers are worth timing on a worker? Its buckets' edges, and a few contexts.

Three totals of KV for each bucket of rows, since a step's time is nearly linear in it; chunks on an
empty, a middling and a long past. Chunks stand at both ends of each bucket, where padding makes
time jump (ours). Knows nothing of
devices or time.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from serving.engine.buckets import Buckets
from serving.engine.programs import ExecutorSizes

MIDDLE = 4  # the middling context is the longest one's fourth: short ones are the common ones


class Work(NamedTuple):
    """A step: `rows` rows that attend to `kv_tokens` together, a chunk on `cached_len` tokens."""

    rows: int
    kv_tokens: int
    new_len: int
    cached_len: int

    @property
    def position(self) -> int:
        """Where each row's fed token stands; it attends to the tokens before it and to itself."""
        return self.kv_tokens // self.rows - 1 if self.rows else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is to be timed on a worker: its steps, and how many pages to move to it."""

    steps: tuple[Work, ...]
    pages: tuple[int, ...]


def plan_grid(buckets: Buckets, sizes: ExecutorSizes) -> Plan:
    """List what is to be timed on a worker with these buckets."""
    decode_rows = sorted({b.rows for b in buckets.steps if not b.tokens})
    tokens = sorted({b.tokens for b in buckets.steps if b.tokens})
    beside = sorted({0, *(b.rows for b in buckets.steps if b.tokens)})
    works = [work for rows in decode_rows for work in _decode(rows, sizes)]
    works += [work for rows in beside for work in _chunks(rows, tokens, sizes)]
    pages = edges(buckets.pages, min(sizes.max_pages, sizes.num_pages - 1))
    return Plan(tuple(works), tuple(pages))


def edges(ladder: Iterable[int], most: int) -> list[int]:
    """Return the least and the largest number that each bucket takes, none above `most`."""
    found: set[int] = set()
    below = 0
    for bucket in ladder:
        found |= {below + 1, bucket}
        below = bucket
    return sorted({min(number, most) for number in found})


def _decode(rows: int, sizes: ExecutorSizes) -> list[Work]:
    """Rows with nothing behind them, with the most that fits, and in between."""
    own_len = (sizes.num_pages - 1) // rows * sizes.page_size
    longest = min(sizes.max_model_len, own_len)
    contexts = sorted({length for length in (1, longest // MIDDLE, longest) if length > 0})
    return [Work(rows, rows * context, 0, 0) for context in contexts if context <= longest]


def _chunks(rows: int, tokens: Sequence[int], sizes: ExecutorSizes) -> list[Work]:
    """Chunks beside `rows` rows that have nothing behind them."""
    room = min(sizes.max_model_len, (sizes.num_pages - 1 - rows) * sizes.page_size)
    if room < 1:
        return []
    new_lens = edges(tokens, room)
    longest = room - new_lens[-1] if new_lens else 0
    pasts = sorted({0, longest // MIDDLE, longest})
    return [Work(rows, rows, new, past) for new in new_lens for past in pasts]
