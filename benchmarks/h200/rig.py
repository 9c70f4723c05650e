"""On what is everything measured? One device, a model of random weights, an attention backend."""

import gc
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from benchmarks.h200.scale import Scale, Work
from benchmarks.machine import usable_cores
from model.apart import apart
from model.attention.backend import Backend
from model.attention.choice import AttentionError, choose
from model.config import ModelConfig, RopeConfig
from model.parameters import Params
from model.random_weights import draw_params
from model.sharding import DECODE, TENSOR, param_shardings
from serving.core.plan import StepPlan
from serving.engine import raw_loop
from serving.engine.buckets import Bucket, Buckets, least_rows
from serving.engine.executor import JaxExecutor
from serving.engine.programs import ExecutorSizes, Moves, Programs, Site, page_bytes, unrolls
from serving.messages import Role

PAGE_SIZE = 16
NO_TIME = "no time was left"
FILLED_AT_ONCE = 64  # pages that get random keys and values by one copy

TINY = ModelConfig(
    family="qwen3",
    vocab_size=256,
    num_layers=2,
    hidden_size=64,
    intermediate_size=96,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rope=RopeConfig(theta=10_000.0, scaling=None),
    norm_eps=1e-6,
    tie_embeddings=False,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    qk_norm=True,
    sliding_window=None,
    max_position=4096,
    dtype="float32",
    eos_ids=(),
    bos_id=None,
)


class RigError(Exception):
    """Something cannot be measured here; one line for a person."""


class DisagreementError(RigError):
    """The device computes something else than the reference: nothing is worth timing."""


class OutOfTimeError(Exception):
    """What has not begun yet is left for another run."""


def backend_named(name: str, config: ModelConfig) -> Backend:
    """Choose as the engine does; raises RigError for one that is unknown or cannot serve."""
    platform = jax.default_backend()
    try:
        return choose(name, config, page_size=PAGE_SIZE, degrees=(1,), platform=platform).backend
    except AttentionError as error:
        raise RigError(f"--attention {error}") from error


@dataclass(frozen=True)
class Rig:
    """What the parts are given. `say` tells a person how far they are; `clock` is in seconds.

    `costs` is the file of the cost profile. Nothing begins after `until` on the clock.
    """

    config: ModelConfig
    attention: Backend
    scale: Scale
    costs: Path
    say: Callable[[str], None]
    clock: Callable[[], float]
    until: float

    def check_time(self) -> None:
        """Raise OutOfTimeError if nothing more may begin."""
        if self.clock() > self.until:
            raise OutOfTimeError(NO_TIME)

    @cached_property
    def mesh(self) -> Mesh:
        """The first device alone."""
        return Mesh(np.array(jax.devices()[:1]), (TENSOR,))

    @cached_property
    def params(self) -> Params:
        """Random weights on the device, drawn once."""
        self.say(f"drawing {self.config.family} weights")
        shardings = param_shardings(self.config, self.mesh, DECODE)
        params = draw_params(self.config, 0, shardings, jnp.dtype(self.config.dtype), None)
        return apart(params) if unrolls(self.mesh) else params

    def executor(
        self, sizes: ExecutorSizes, buckets: Buckets | None, *, moves: Moves
    ) -> JaxExecutor:
        """Make a worker's executor, warm. With `buckets` its pool is full of random numbers.

        Without them it has those of a worker that does everything, moves no pages, and its pool is
        empty, as it is for `foretoken profile`.
        """
        gc.collect()  # the pool of the one before may have gone out of use in a cycle
        executor = JaxExecutor(
            self.params,
            self.site(sizes),
            Role.BOTH,
            moves=moves,
            buckets=buckets,
        )
        executor.warm_up(lambda done: None)
        raw_loop.load_slots(executor, sizes.max_rows)
        if buckets is not None and buckets.pages:
            _fill(executor, buckets.pages[0])
        return executor

    def executor_for(self, works: list[Work]) -> JaxExecutor:
        """Make an executor with one bucket, padded no further than the engine pads at least."""
        return self.executor(*self._shapes(works), moves=Moves.TO_WORKERS)

    def compile_ahead(self, steps: Mapping[str, list[Work]]) -> dict[str, float]:
        """Compile the programs that `executor_for` will, some at a time; seconds of each by name.

        They are kept by the compilation cache alone, which has to be on. What cannot be compiled is
        left out: it shows when it is measured.
        """

        def compiled(programs: Programs) -> float:
            start = self.clock()
            programs.compile(lambda done: None)
            return self.clock() - start

        shapes = {name: self._shapes(works) for name, works in steps.items()}
        programs = {
            n: Programs(self.site(sizes), own, constrains=False, offloads=False)
            for n, (sizes, own) in shapes.items()
        }
        seconds: dict[str, float] = {}
        with ThreadPoolExecutor(max(2, usable_cores() // 2)) as threads:
            futures = {name: threads.submit(compiled, own) for name, own in programs.items()}
            for name, future in futures.items():
                if future.exception() is None:
                    seconds[name] = round(future.result(), 1)
        return seconds

    def site(self, sizes: ExecutorSizes) -> Site:
        """Say where a worker's arrays lie."""
        return Site(self.config, self.mesh, DECODE, sizes, self.attention)

    def _shapes(self, works: list[Work]) -> tuple[ExecutorSizes, Buckets]:
        """Return what an executor needs to run these steps."""
        rows = max(len(work.contexts) for work in works)
        bucket = Bucket(
            rows=max(rows, least_rows(jax.default_backend())) if rows else 0,
            tokens=max(sum(chunk.new_len for chunk in work.chunks) for work in works),
            chunks=max(len(work.chunks) for work in works),
        )
        sizes = ExecutorSizes(
            num_pages=self._countable(
                1 + max(sum(map(_pages_for, _lengths(work))) for work in works)
            ),
            page_size=PAGE_SIZE,
            max_model_len=max(self.scale.table_len, *(max(_lengths(work)) for work in works)),
            max_rows=max(1, bucket.rows),
            max_chunk_tokens=max(1, bucket.tokens),
            max_chunk_rows=max(1, bucket.chunks),
        )
        return sizes, Buckets((bucket,), (min(FILLED_AT_ONCE, sizes.num_pages),))

    def _countable(self, pages: int) -> int:
        """Return how many pages to have for these: of one-byte numbers, not 2 to 4 GiB.

        The GPU's kernels refuse a pool of that size.
        """
        num_bytes = page_bytes(self.attention, self.config, PAGE_SIZE)
        narrow = jnp.dtype(self.config.kept_as).itemsize == 1
        if narrow and 2**31 < pages * num_bytes <= 2**32:
            return 2**32 // num_bytes + 1
        return pages

    def plan(self, work: Work, sizes: ExecutorSizes) -> StepPlan:
        """Plan a step with random tokens, each row and chunk on pages of its own."""
        random = np.random.default_rng(0)
        tables = raw_loop.own_pages(sizes, _lengths(work))
        rows = len(work.contexts)

        def tokens(count: int) -> Any:
            return random.integers(0, self.config.vocab_size, count).astype(np.int32)

        chunks = [
            _with(raw_loop.make_chunk(table, chunk.cached_len, chunk.new_len), tokens)
            for chunk, table in zip(work.chunks, tables[rows:], strict=True)
        ]
        plan = raw_loop.make_plan(tables[:rows], 0, 0, chunks)
        plan.decode.position[:] = work.contexts
        plan.decode.token[:] = tokens(rows)
        return plan


def _with(chunk: Any, tokens: Callable[[int], Any]) -> Any:
    chunk.tokens[:] = tokens(len(chunk.tokens))
    return chunk


def _lengths(work: Work) -> list[int]:
    """The positions that each row and chunk of a step needs pages for."""
    return [
        *(context + 1 for context in work.contexts),
        *(chunk.cached_len + chunk.new_len for chunk in work.chunks),
    ]


def _pages_for(length: int) -> int:
    return -(-length // PAGE_SIZE)


def _fill(executor: JaxExecutor, count: int) -> None:
    """Give all pages random keys and values: what is multiplied shows in power, so in clocks."""
    like = executor.gather(range(count))
    draw = jax.jit(
        lambda: jax.random.normal(jax.random.key(1), like.shape, jnp.float32).astype(like.dtype),
        out_shardings=executor.payload_sharding,
    )
    payload = draw()
    for first in range(0, executor.sizes.num_pages, count):
        executor.scatter(payload, range(first, min(first + count, executor.sizes.num_pages)))
