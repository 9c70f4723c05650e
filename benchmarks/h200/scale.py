"""How much is measured? The points of the project's table, or a tiny copy of every one of them.

Contexts are the tokens behind a row's fed one; times are measured after `warm_runs` runs.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Chunk:
    """New tokens of one prompt on top of those that its pages hold."""

    cached_len: int
    new_len: int


@dataclass(frozen=True, slots=True)
class Work:
    """One step: rows that decode, one entry of `contexts` each, then chunks."""

    contexts: tuple[int, ...]
    chunks: tuple[Chunk, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that is prefilled in chunks of `chunk_len` tokens."""

    length: int
    chunk_len: int

    @property
    def works(self) -> list[Work]:
        """Its steps, one chunk each."""
        starts = range(0, self.length, self.chunk_len)
        return [
            Work((), (Chunk(start, min(self.chunk_len, self.length - start)),)) for start in starts
        ]


@dataclass(frozen=True, slots=True)
class GridSizes:
    """The worker whose cost profile is measured."""

    max_rows: int
    max_chunk_tokens: int
    max_chunk_rows: int
    max_model_len: int
    kv_tokens: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Scale:
    """Everything that is measured. Lengths in tokens, sizes in bytes.

    `first`: the points of `decode`, `mixed` and `prefill` that are measured before all others; all
    if there are none. `table_len`: page tables are at least wide enough for such a context, as a
    server's are. `matmuls`: (m, k, n). `pages`: how many are moved at once.
    """

    first: frozenset[str]

    decode: dict[str, Work]
    skewed: dict[str, Work]
    mixed: dict[str, Work]
    prefill: dict[str, Prompt]
    gaps: tuple[int, ...]
    gap_context: int
    table_len: int
    steps: int
    warm_runs: int
    repeats: int
    copied_bytes: int
    matmuls: tuple[tuple[int, int, int], ...]
    pages: tuple[int, ...]
    grid: GridSizes

    def step_works(self) -> dict[str, list[Work]]:
        """Return the steps of every point that is a program of its own."""
        single = {**self.decode, **self.skewed, **self.mixed}
        prompts = {name: prompt.works for name, prompt in self.prefill.items()}
        return {**{name: [work] for name, work in single.items()}, **prompts}


def uniform(rows: int, context: int) -> Work:
    """Rows with equally much behind them."""
    return Work((context,) * rows, ())


def skew(long: int, rows: int, context: int) -> dict[str, Work]:
    """One long row beside short ones, and as many equal rows with as much KV together."""
    equal = (long + (rows - 1) * context) // rows
    return {
        f"1 row at {long} + {rows - 1} at {context}": Work((long, *[context] * (rows - 1)), ()),
        f"{rows} rows at {equal}": uniform(rows, equal),
    }


def _beside(rows: int, context: int, new_len: int, cached_len: int) -> Work:
    return Work((context,) * rows, (Chunk(cached_len, new_len),))


FULL = Scale(
    first=frozenset(
        (
            *("1 rows at 1024", "32 rows at 1024", "128 rows at 1024", "256 rows at 1024"),
            *("32 rows at 2048 + 512 on 6144", "8192 tokens in chunks of 8192"),
        )
    ),
    decode={
        f"{rows} rows at {context}": uniform(rows, context)
        for rows, context in (
            *((1, 1024), (32, 1024), (128, 1024), (256, 1024)),  # the project's table
            *((8, 4096), (16, 1024), (32, 4096), (64, 1024)),
        )
    },
    skewed=skew(32768, 32, 512),
    mixed={
        f"{rows} rows at {context} + {new} on {cached}": _beside(rows, context, new, cached)
        for rows, context, new, cached in (
            (32, 2048, 512, 6144),  # the project's table
            (32, 2048, 512, 0),
            (32, 2048, 2048, 6144),
            (128, 1024, 512, 6144),
        )
    },
    prefill={f"8192 tokens in chunks of {size}": Prompt(8192, size) for size in (8192, 2048, 512)},
    gaps=(1, 32, 256),
    gap_context=1024,
    table_len=8704,
    steps=32,
    warm_runs=3,
    repeats=5,
    copied_bytes=2 * 2**30,
    matmuls=((8192, 8192, 8192), (8192, 4096, 28672), (2048, 4096, 28672)),
    pages=(16, 128, 512),
    grid=GridSizes(
        max_rows=256,
        max_chunk_tokens=2048,
        max_chunk_rows=4,
        max_model_len=8704,
        kv_tokens=256 * 1088,
        repeats=3,
    ),
)
SMALL = Scale(
    first=frozenset(),
    decode={f"{rows} rows at 512": uniform(rows, 512) for rows in (1, 4, 16, 64)},
    skewed=skew(2048, 16, 128),
    mixed={"16 rows at 512 + 128 on 512": _beside(16, 512, 128, 512)},
    prefill={f"1024 tokens in chunks of {size}": Prompt(1024, size) for size in (1024, 256)},
    gaps=(1, 16),
    gap_context=512,
    table_len=1024,
    steps=32,
    warm_runs=3,
    repeats=5,
    copied_bytes=2**28,
    matmuls=((1024, 1024, 1024), (64, 1024, 1024)),
    pages=(16, 64),
    grid=GridSizes(
        max_rows=16,
        max_chunk_tokens=256,
        max_chunk_rows=2,
        max_model_len=1024,
        kv_tokens=16 * 600,
        repeats=3,
    ),
)
"""For a model of a few million parameters on a CPU."""
CHECK = Scale(
    first=frozenset(("4 rows at 20",)),
    decode={"1 rows at 8": uniform(1, 8), "4 rows at 20": uniform(4, 20)},
    skewed=skew(40, 4, 8),
    mixed={"2 rows at 8 + 8 on 16": _beside(2, 8, 8, 16)},
    prefill={"16 tokens in chunks of 8": Prompt(16, 8)},
    gaps=(1,),
    gap_context=8,
    table_len=64,
    steps=4,
    warm_runs=1,
    repeats=2,
    copied_bytes=2**16,
    matmuls=((32, 32, 32),),
    pages=(2,),
    grid=GridSizes(
        max_rows=2,
        max_chunk_tokens=8,
        max_chunk_rows=1,
        max_model_len=32,
        kv_tokens=64,
        repeats=1,
    ),
)
"""Proves that every part runs from end to end; what it times means nothing."""
