"""Which programs does one worker run, and how do they get compiled before the first turn?

Every program runs under shard_map over the worker's mesh, also when that is one device. Knows
nothing of plans or of when a program is called.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from enum import Enum
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.stages import Compiled

from model import kv_pages
from model.apart import each_layer
from model.attention.backend import Backend
from model.config import ModelConfig
from model.parameters import Params, abstract_params
from model.sharding import TENSOR, Table, param_partitions, partition
from serving.engine import slots
from serving.engine.buckets import GPU_PLATFORMS, Bucket, Buckets
from serving.engine.layout import StepLayout
from serving.engine.probe import Probe, Trace, row_of, with_row
from serving.engine.steps import Step, TargetScores, score_samples

MOST_COMPILE_THREADS = 8
"""XLA compiles without holding the interpreter's lock, but each program takes a few hundred MiB."""

Function = Callable[..., Any]


class Moves(Enum):
    """Where pages of a worker go: what it has to compile beside its steps."""

    NOWHERE = "nowhere"
    TO_WORKERS = "to workers"
    TO_HOST = "to workers and to host memory"


@dataclass(frozen=True, slots=True)
class ExecutorSizes:
    """The fixed sizes of a worker's device state, in tokens, pages and rows."""

    num_pages: int
    page_size: int
    max_model_len: int
    max_rows: int
    max_chunk_tokens: int
    max_chunk_rows: int

    @property
    def max_pages(self) -> int:
        """Entries of a page table."""
        return -(-self.max_model_len // self.page_size)

    @property
    def num_slots(self) -> int:
        """One slot a row, and the scratch slot, which is the last."""
        return self.max_rows + 1


def page_bytes(backend: Backend, config: ModelConfig, page_size: int) -> int:
    """Return the bytes of one page over all layers and shards, keys and values together."""
    shape = backend.pool_shape(config, num_pages=1, page_size=page_size)
    return prod(shape) * jnp.dtype(config.kept_as).itemsize


def unrolls(mesh: Mesh) -> bool:
    """Say whether a step has no loops, and its layers' weights are `model.apart`: on a GPU.

    There a loop is driven by the host, stays outside of command buffers, and copies each layer's
    weights out of the stack before they are used (`benchmarks.compile_gpu` shows what a step is
    compiled to). Elsewhere a loop does as well, and compiles faster.
    """
    return mesh.devices.flat[0].platform in GPU_PLATFORMS


@dataclass(frozen=True)
class Site:
    """Where a worker's arrays live and how large they are; `probe` reads a length head if set."""

    config: ModelConfig
    mesh: Mesh
    table: Table
    sizes: ExecutorSizes
    backend: Backend
    probe: Probe | None = None

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, P())

    @property
    def unrolls(self) -> bool:
        """Whether a step has no loops: its layers are unrolled, and their weights apart."""
        return unrolls(self.mesh)

    @property
    def platform(self) -> str:
        """JAX's name of what its devices are."""
        return self.mesh.devices.flat[0].platform

    @property
    def pool_sharding(self) -> NamedSharding:
        """The sharding of the page pool, and of pages gathered from it."""
        return NamedSharding(self.mesh, partition(self.backend.pool_axes, self.table))

    @property
    def page_sharding(self) -> NamedSharding:
        """The sharding of a page that is an array of its own, which has no axis of pages."""
        layers, _, *rest = partition(self.backend.pool_axes, self.table)
        return NamedSharding(self.mesh, P(layers, *rest))

    @property
    def pool_shape(self) -> tuple[int, ...]:
        """The shape of the page pool."""
        sizes = self.sizes
        return self.backend.pool_shape(
            self.config, num_pages=sizes.num_pages, page_size=sizes.page_size
        )

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers and shards, keys and values together."""
        return page_bytes(self.backend, self.config, self.sizes.page_size)

    def layout(self, bucket: Bucket) -> StepLayout:
        """The vector of a step of this bucket."""
        return StepLayout(bucket, self.sizes.max_pages, self.sizes.num_slots - 1)

    def empty_slots(self) -> tuple[slots.History, slots.Settings]:
        """Slots that remember nothing; traceable."""
        num_slots = self.sizes.num_slots
        trace = None if self.probe is None else self.probe.empty(num_slots)
        return slots.empty(num_slots, self.config.vocab_size, trace)


def of_head(params: Params) -> Params:
    """Leave the layers out: what scores need."""
    return {name: own for name, own in params.items() if name != "layers"}


class Programs:
    """The compiled programs of one worker; each is absent until `compile` has run."""

    def __init__(self, site: Site, buckets: Buckets, *, constrains: bool, offloads: bool) -> None:
        """Plan the programs; compiles nothing.

        Whether it `constrains`: loads rows' masks; and `offloads`: moves pages one by one.
        """
        self._site = site
        self.buckets = buckets
        self._constrains = constrains
        self._offloads = offloads
        self.step: dict[Bucket, Compiled] = {}
        self.gather: dict[int, Compiled] = {}
        self.scatter: dict[int, Compiled] = {}
        self.gather_apart: dict[int, Compiled] = {}
        self.scatter_apart: dict[int, Compiled] = {}
        self.slot: dict[Function, Compiled] = {}
        self.masks: dict[int, Compiled] = {}  # by rows
        self.scores: dict[int, Compiled] = {}  # by rows and chunks together
        self.targets: dict[int, Compiled] = {}  # by tokens of chunks

    @property
    def count(self) -> int:
        """How many programs `compile` makes."""
        return len(self._jobs())

    def compile(self, progress: Callable[[int], Any]) -> None:
        """Compile everything, calling progress(1) after each program."""
        with ThreadPoolExecutor(_compile_threads()) as threads:
            for done in as_completed([threads.submit(job) for job in self._jobs()]):
                done.result()
                progress(1)

    def _jobs(self) -> list[Callable[[], None]]:
        # The largest steps take longest and go first, so that none is left over alone at the end.
        steps = sorted(self.buckets.steps, key=lambda b: b.rows + 4 * b.tokens, reverse=True)
        jobs = [lambda bucket=bucket: self._compile_step(bucket) for bucket in steps]
        jobs += [lambda count=count: self._compile_moves(count) for count in self.buckets.pages]
        apart = self.buckets.apart if self._offloads else ()
        jobs += [lambda count=count: self._compile_apart(count) for count in apart]
        samples = {bucket.rows + bucket.chunks for bucket in steps}
        jobs += [lambda count=count: self._compile_scores(count) for count in sorted(samples)]
        tokens = {bucket.tokens for bucket in steps} - {0}
        jobs += [lambda count=count: self._compile_targets(count) for count in sorted(tokens)]
        masks = self.buckets.masks if self._constrains else ()
        jobs += [lambda count=count: self._compile_masks(count) for count in masks]
        return [*jobs, self._compile_loads]

    def _compile_step(self, bucket: Bucket) -> None:
        site = self._site
        layout = site.layout(bucket)
        history, settings = self._abstract_slots()
        packed = self._abstract((layout.size,), np.int32, P())
        params = self._abstract_params()
        weights = {} if site.probe is None else site.probe.abstract_weights()
        weights = jax.tree.map(lambda x: self._abstract(x.shape, x.dtype, P()), weights)
        pool = self._abstract_pool(site.sizes.num_pages)
        self.step[bucket] = self._compiled(
            Step(
                site.config,
                layout,
                site.sizes.page_size,
                site.backend,
                self._axis,
                site.unrolls,
                site.probe,
            ),
            (pool, history, params, weights, settings, packed),
            out_specs=(pool.sharding.spec, P(), P()),
            donated=(0, 1),
        )

    def _compile_scores(self, count: int) -> None:
        logits = self._abstract((count, self._site.config.vocab_size), np.float32, P())
        sampled = self._abstract((2, count), np.int32, P())
        self.scores[count] = self._compiled(
            score_samples, (logits, sampled), out_specs=P(), donated=()
        )

    def _compile_targets(self, count: int) -> None:
        config = self._site.config
        hidden = self._abstract((count, config.hidden_size), jnp.dtype(config.dtype), P())
        targets = self._abstract((count,), np.int32, P())
        params = of_head(self._abstract_params())
        self.targets[count] = self._compiled(
            TargetScores(config, self._axis), (params, hidden, targets), out_specs=P(), donated=()
        )

    def _compile_moves(self, count: int) -> None:
        pool = self._abstract_pool(self._site.sizes.num_pages)
        payload = self._abstract_pool(count)
        pages = self._abstract((count,), np.int32, P())
        spec = pool.sharding.spec
        self.gather[count] = self._compiled(
            kv_pages.gather, (pool, pages), out_specs=spec, donated=()
        )
        self.scatter[count] = self._compiled(
            kv_pages.scatter, (pool, payload, pages), out_specs=spec, donated=(0,)
        )

    def _compile_apart(self, count: int) -> None:
        pool = self._abstract_pool(self._site.sizes.num_pages)
        whole, own = pool.sharding.spec, self._site.page_sharding.spec
        layers, _, *rest = pool.shape
        apart = [self._abstract((layers, *rest), pool.dtype, own)] * count
        pages = self._abstract((count,), np.int32, P())
        self.gather_apart[count] = self._compiled(
            kv_pages.gather_apart, (pool, pages), out_specs=own, donated=()
        )
        self.scatter_apart[count] = self._compiled(
            kv_pages.scatter_apart, (pool, apart, pages), out_specs=whole, donated=(0,)
        )

    def _compile_loads(self) -> None:
        history, settings = self._abstract_slots()
        scalars = self._abstract((1 + slots.NUM_FLOATS + slots.NUM_INTS,), np.int32, P())
        planes = self._abstract((3, self._site.config.vocab_size), np.int32, P())
        self.slot[slots.load_scalars] = self._compiled(
            slots.load_scalars, (settings, scalars), out_specs=P(), donated=(0,)
        )
        slot = self._abstract((), np.int32, P())
        self.slot[slots.load_planes] = self._compiled(
            slots.load_planes, (history, settings, slot, planes), out_specs=P(), donated=(0, 1)
        )
        if history.trace is not None and self.buckets.pages:
            self._compile_trace_moves(history.trace, slot)

    def _compile_masks(self, count: int) -> None:
        _, settings = self._abstract_slots()
        slot = self._abstract((count,), np.int32, P())
        masks = self._abstract((count, settings.allowed.shape[1]), np.uint32, P())
        self.masks[count] = self._compiled(
            slots.load_masks, (settings, slot, masks), out_specs=P(), donated=(0,)
        )

    def _compile_trace_moves(self, trace: Trace, slot: jax.ShapeDtypeStruct) -> None:
        shapes = jax.eval_shape(row_of, trace, slot)
        row = jax.tree.map(lambda x: self._abstract(x.shape, x.dtype, P()), shapes)
        self.slot[row_of] = self._compiled(row_of, (trace, slot), out_specs=P(), donated=())
        self.slot[with_row] = self._compiled(
            with_row, (trace, slot, row), out_specs=P(), donated=(0,)
        )

    def _abstract(self, shape: tuple[int, ...], dtype: Any, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(self._site.mesh, spec))

    def _abstract_params(self) -> Params:
        site = self._site
        params = jax.tree.map(
            lambda leaf, spec: self._abstract(leaf.shape, leaf.dtype, spec),
            abstract_params(site.config),
            param_partitions(site.config, site.table),
        )
        if not site.unrolls:
            return params
        return each_layer(
            params,
            lambda leaf, _: self._abstract(leaf.shape[1:], leaf.dtype, P(*leaf.sharding.spec[1:])),
        )

    @property
    def _axis(self) -> str | None:
        return TENSOR if self._site.mesh.size > 1 else None

    def _abstract_pool(self, pages: int) -> jax.ShapeDtypeStruct:
        shape = list(self._site.pool_shape)
        shape[1] = pages
        spec = self._site.pool_sharding.spec
        return self._abstract(tuple(shape), jnp.dtype(self._site.config.kept_as), spec)

    def _abstract_slots(self) -> tuple[slots.History, slots.Settings]:
        shapes = jax.eval_shape(self._site.empty_slots)
        return jax.tree.map(lambda x: self._abstract(x.shape, x.dtype, P()), shapes)

    def _compiled(
        self,
        function: Function,
        arguments: tuple[Any, ...],
        *,
        out_specs: Any,
        donated: tuple[int, ...],
    ) -> Compiled:
        in_specs = jax.tree.map(lambda x: x.sharding.spec, arguments)
        mapped = jax.shard_map(
            function,
            mesh=self._site.mesh,
            in_specs=in_specs,
            out_specs=out_specs,
            check_vma=False,  # what is sampled is equal on every shard, which the types cannot tell
        )
        return jax.jit(mapped, donate_argnums=donated).lower(*arguments).compile()


def _compile_threads() -> int:
    """As many as there are cores: more save no time, and take the memory all the same."""
    known = hasattr(os, "sched_getaffinity")  # not on every system
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    return min(cores, MOST_COMPILE_THREADS)
