"""Which padded shapes does a worker's step come in? A short fixed list, made once per role.

Every bucket is one compiled program per mesh, so the list trades start-up time against padding.
Knows nothing of programs or arrays.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import assert_never

from serving.messages import Role

ROW_FACTOR = 4  # one bucket to the next; padding rows cost attention, programs cost start-up
TOKEN_FACTOR = 8
PAGE_FACTOR = 4
LEAST_CHUNK_TOKENS = 32
FLAT_TOKENS = 256
"""Tokens up to which a step on an accelerator mostly reads weights, so that padding costs little:
an H200 has computed 170 tokens of an 8B model when it has read the weights, an H100 or a TPU v5e
240 (their descriptions in costs/hardware). Beyond, a step takes as long as its padding says."""
FINE_FACTOR = 2
MOST_APART = 16
"""Pages that move at once as arrays of their own: such programs take long to compile with more."""
GPU_PLATFORMS = ("gpu", "cuda")


@dataclass(frozen=True, slots=True)
class Bucket:
    """A step of at most `rows` decode rows and `chunks` chunks with `tokens` tokens together."""

    rows: int
    tokens: int
    chunks: int


@dataclass(frozen=True, slots=True)
class Buckets:
    """What one worker compiles: its step shapes, and how many pages move at once."""

    steps: tuple[Bucket, ...]
    pages: tuple[int, ...]

    def fit(self, *, rows: int, tokens: int, chunks: int) -> Bucket:
        """Return the bucket with the fewest tokens that holds a step; ValueError if none does."""
        fitting = self._that_hold(rows, tokens, chunks)
        if not fitting:
            raise ValueError(f"no bucket holds {rows} rows and {tokens} tokens in {chunks} chunks")
        return min(fitting, key=lambda bucket: (bucket.rows + bucket.tokens, bucket.rows))

    def holds(self, *, rows: int, tokens: int, chunks: int) -> bool:
        """Whether any bucket holds a step."""
        return bool(self._that_hold(rows, tokens, chunks))

    def _that_hold(self, rows: int, tokens: int, chunks: int) -> list[Bucket]:
        return [
            b for b in self.steps if b.rows >= rows and b.tokens >= tokens and b.chunks >= chunks
        ]

    def pad(self, rows: int, tokens: int) -> tuple[int, int]:
        """Return how many rows and tokens a step runs that is one chunk beside rows, or has none.

        What no bucket holds is returned as it is: it takes more than one step.
        """
        try:
            bucket = self.fit(rows=rows, tokens=tokens, chunks=min(tokens, 1))
        except ValueError:
            return rows, tokens
        return bucket.rows, bucket.tokens

    @property
    def masks(self) -> tuple[int, ...]:
        """How many rows with grammars get their masks at once."""
        return _ladder(1, max((b.rows + b.chunks for b in self.steps), default=1), ROW_FACTOR)

    @property
    def apart(self) -> tuple[int, ...]:
        """How many pages move at once as arrays of their own."""
        return _ladder(1, min(max(self.pages), MOST_APART), PAGE_FACTOR) if self.pages else ()

    def split_apart(self, count: int) -> list[int]:
        """Split so many pages into numbers that move at once as arrays of their own, unpadded."""
        parts: list[int] = []
        for apart in reversed(self.apart):
            parts += [apart] * (count // apart)
            count %= apart
        return parts

    def fit_masks(self, count: int) -> int:
        """Return the smallest number of masks that holds `count`, of rows of one step."""
        return min(masks for masks in self.masks if masks >= count)

    def fit_pages(self, count: int) -> int:
        """Return the smallest number of pages that holds `count`; ValueError if none does."""
        fitting = [pages for pages in self.pages if pages >= count]
        if not fitting:
            raise ValueError(f"no bucket holds {count} pages")
        return min(fitting)


def least_rows(platform: str) -> int:
    """Return the fewest rows of a step that decodes on devices of this platform, padding included.

    With a single row XLA multiplies by vectors on a GPU, for which it makes float32 copies of two
    weights in every step (1,088 MiB at four layers of Llama-3.1-8B's shape; `compile_gpu`).
    """
    return 2 if platform in GPU_PLATFORMS else 1


def make_buckets(
    role: Role,
    *,
    min_rows: int,
    max_rows: int,
    max_tokens: int,
    max_chunks: int,
    max_pages: int,
) -> Buckets:
    """List a role's buckets.

    A prefill worker never decodes. A decode worker prefills what its sessions append, beside rows
    padded to the most: what fewer would save is little beside a chunk, but for the smallest, which
    may run alone. A worker that does both meets every mixture. `max_pages` 0: pages never move.
    Steps with rows are padded to `min_rows` at least (`least_rows`).
    """
    pages = _ladder(1, max_pages, PAGE_FACTOR) if max_pages else ()
    rows = _ladder(min(min_rows, max_rows), max_rows, ROW_FACTOR)
    flat = min(FLAT_TOKENS, max_tokens)
    tokens = _ladder(min(LEAST_CHUNK_TOKENS, flat), flat, TOKEN_FACTOR)
    tokens += _ladder(flat, max_tokens, FINE_FACTOR)[1:]
    match role:
        case Role.PREFILL:
            return Buckets(_steps([0], tokens, max_chunks), pages)
        case Role.DECODE:
            steps = _steps(rows, [0], max_chunks) + _steps([0], tokens[:1], max_chunks)
            return Buckets(steps + _steps([max_rows], tokens, max_chunks), pages)
        case Role.BOTH:
            mixed = _steps([0, *rows[len(rows) // 2 :]], tokens, max_chunks)
            return Buckets(_steps(rows, [0], max_chunks) + mixed, pages)
        case unreachable:
            assert_never(unreachable)


def _steps(rows: Iterable[int], tokens: Iterable[int], chunks: int) -> tuple[Bucket, ...]:
    return tuple(Bucket(r, t, min(chunks, t)) for r in rows for t in tokens)


def _ladder(least: int, most: int, factor: int) -> tuple[int, ...]:
    """Return least, least * factor, ... up to `most`, which always is the last."""
    steps: list[int] = []
    while least < most:
        steps.append(least)
        least *= factor
    return (*steps, most)
