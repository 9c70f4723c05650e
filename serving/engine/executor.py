"""How does a worker's mesh carry out a batcher's commands? In the order given, without waiting.

Life of an executor:
    1. made: its page pool and slots are allocated, nothing is compiled
    2. `warm_up`: every program of every bucket is compiled, and run on padding
    3. `load_slot`, `launch`, `gather`, `scatter`, `read_trace`, `write_trace` queue work on the
       device and return at once; `collect` waits for one launched step

Only one thread may use it at a time. The pool and the slots' history are donated to each program
that changes them, so the attributes always hold the newest ones and nobody else may keep them.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from numpy.typing import NDArray

from model import kv_pages
from model.id_masks import ALL_ALLOWED
from model.parameters import Params
from predictor.head import Weights
from serving.core.batcher import MAX_LAUNCHED
from serving.core.plan import LoadSlot, StepPlan, StepResult
from serving.engine import slots
from serving.engine.buckets import Bucket, Buckets, least_rows, make_buckets
from serving.engine.connectors.connector import Payload
from serving.engine.host_memory import HostMemory
from serving.engine.masks import Masks, StepMasks
from serving.engine.probe import Trace, row_of, with_row
from serving.engine.programs import ExecutorSizes, Moves, Programs, Site, of_head
from serving.engine.steps import StepOutput
from serving.messages import Role
from serving.request import SamplingParams, TokenLogprobs

if TYPE_CHECKING:  # a server without grammars needs no llguidance
    from serving.engine.grammars import Grammars

TIMINGS = 3
SLOW_S = 0.5
"""A step that takes longer is timed once as it warms up: a start shall not wait for more."""
GRAPH_RUNS = 3
"""Runs of a program until XLA only updates its command buffer (by its authors; not seen by us)."""


@dataclass(frozen=True, slots=True)
class Pending:
    """A step that has been dispatched: what `collect` needs to read it.

    Scores are those of `steps.score_samples`; None unless the plan asks for them.
    """

    plan: StepPlan
    bucket: Bucket
    sampled: jax.Array
    readings: jax.Array
    scores: jax.Array | None
    target_scores: jax.Array | None
    masks: StepMasks | None


class JaxExecutor:
    """The device side of one worker."""

    def __init__(
        self,
        params: Params,
        site: Site,
        role: Role,
        *,
        moves: Moves,
        head_weights: Weights | None = None,
        buckets: Buckets | None = None,
        grammars: "Grammars | None" = None,
    ) -> None:
        """Allocate the pool and the slots. `params` lie on the site's mesh as its table says.

        Where the site unrolls layers they are `apart`.
        `head_weights` belong to the site's probe, if it has one, and may lie anywhere. What does
        not move cannot be asked to: `gather`, `read_trace` and what undoes them take pages that go
        to workers, `offload`, `fetch` and `write` pages that go to host memory. With `buckets`, as
        measurements want them, it has these in place of those of its role.
        Without `grammars` no turn may have one.
        """
        sizes = site.sizes
        self._params = params
        self._head_weights = jax.device_put(head_weights or {}, site.replicated)
        self._site = site
        self._buckets = buckets or make_buckets(
            role,
            min_rows=least_rows(site.platform),
            max_rows=sizes.max_rows,
            max_tokens=sizes.max_chunk_tokens,
            max_chunks=sizes.max_chunk_rows,
            max_pages=0 if moves is Moves.NOWHERE else sizes.max_pages,
        )
        offloads = moves is Moves.TO_HOST
        self._host = HostMemory(site.page_sharding) if offloads else None
        self._programs = Programs(
            site, self._buckets, constrains=grammars is not None, offloads=offloads
        )
        self._masks = Masks(grammars, site.config.vocab_size)
        self._layouts = {bucket: site.layout(bucket) for bucket in self._buckets.steps}
        allocate = jax.jit(
            lambda: jnp.zeros(site.pool_shape, site.config.kept_as),
            out_shardings=site.pool_sharding,
        )
        self._pool = allocate()
        make_slots = jax.jit(site.empty_slots, out_shardings=site.replicated)
        self._history, self._settings = make_slots()
        # What `_settings` holds of loaded slots.
        self._loaded: dict[int, tuple[SamplingParams, int]] = {}
        self._padding_s: dict[Bucket, Sequence[float]] = {}

    @property
    def num_programs(self) -> int:
        """How often `warm_up` reports progress."""
        return self._programs.count

    @property
    def buckets(self) -> Buckets:
        """The padded shapes it compiles."""
        return self._buckets

    @property
    def padding_s(self) -> Mapping[Bucket, Sequence[float]]:
        """What a step of padding alone took as it warmed up, a few times each; empty before."""
        return self._padding_s

    @property
    def payload_sharding(self) -> NamedSharding:
        """How gathered pages lie on this mesh, and must lie to be scattered. Traces lie whole."""
        return self._site.pool_sharding

    @property
    def kv_bytes_per_page(self) -> int:
        """Bytes of one page over all layers and shards."""
        return self._site.page_bytes

    @property
    def sizes(self) -> ExecutorSizes:
        """The sizes it was made with."""
        return self._site.sizes

    def warm_up(self, progress: Callable[[int], Any]) -> None:
        """Compile every program, calling progress(1) after each, and run each on padding."""
        self._programs.compile(progress)
        for bucket, layout in self._layouts.items():
            packed = np.zeros(layout.size, np.int32)
            fields = layout.split(packed)
            fields.decode_slot[:] = fields.chunk_slot[:] = layout.scratch_slot
            self._padding_s[bucket] = self._timed(bucket, packed)
            output = self._run(bucket, packed)
            jax.block_until_ready(self._scores(output))
            if bucket.tokens:
                nothing = np.zeros(bucket.tokens, np.int32)
                jax.block_until_ready(self._target_scores(output, nothing))
        for count in self._buckets.pages:
            nowhere = [kv_pages.WRITE_OFF_PAGE] * count
            self.scatter(self.gather(nowhere), nowhere)
        for count in self._programs.gather_apart:
            nowhere = [kv_pages.WRITE_OFF_PAGE] * count
            self.offload(nowhere, range(count))
            self.write(self.fetch(range(count)), nowhere)
        scratch = self._site.sizes.num_slots - 1
        for count in self._programs.masks:
            self._load_masks([scratch] * count, [np.array([ALL_ALLOWED], np.uint32)] * count)
        if self._buckets.pages and (trace := self.read_trace(scratch)) is not None:
            self.write_trace(scratch, trace)
        jax.block_until_ready((self._pool, self._history, self._settings))

    def blank_payloads(self) -> Iterator[Payload]:
        """Make a payload of every size in which pages move; what is in them means nothing."""
        scratch = self._site.sizes.num_slots - 1
        for count in self._buckets.pages:
            pages = self.gather([kv_pages.WRITE_OFF_PAGE] * count)
            yield Payload(pages, self.read_trace(scratch))

    def load_slot(self, load: LoadSlot) -> None:
        """Prepare a slot for a new row. What it holds already is not sent again."""
        self._masks.load(load)
        vocab_size = self._site.config.vocab_size
        scalars = load.sampling, load.turn_number
        if self._loaded.get(load.slot) != scalars:
            packed = slots.pack_scalars(load, vocab_size)
            self._settings = self._programs.slot[slots.load_scalars](self._settings, packed)
            self._loaded[load.slot] = scalars
        if load.sampling.needs_planes:
            planes = slots.pack_planes(load, vocab_size)
            load_planes = self._programs.slot[slots.load_planes]
            self._history, self._settings = load_planes(
                self._history, self._settings, np.int32(load.slot), planes
            )

    def launch(self, plan: StepPlan) -> Pending:
        """Dispatch a step. Raises ValueError if no bucket holds it."""
        bucket = self._buckets.fit(
            rows=plan.num_decode,
            tokens=plan.num_new_tokens - plan.num_decode,
            chunks=len(plan.chunks),
        )
        masks = self._masks.of(plan)
        if masks is not None and masks.slots:
            self._load_masks(masks.slots, masks.masks)
        output = self._run(bucket, self._layouts[bucket].pack(plan))
        output.sampled.copy_to_host_async()
        scores = targets = None
        if plan.logprobs:
            scores = self._scores(output)
            scores.copy_to_host_async()
        if any(chunk.targets is not None for chunk in plan.chunks):
            targets = self._target_scores(output, _packed_targets(plan, bucket))
            targets.copy_to_host_async()
        if self._is_read(plan):
            output.readings.copy_to_host_async()
        return Pending(plan, bucket, output.sampled, output.readings, scores, targets, masks)

    def has_run(self, pending: Pending) -> bool:
        """Say whether `collect` would return at once."""
        sampled: Any = pending.sampled  # the public type does not name what every array has
        return sampled.is_ready()

    def collect(self, pending: Pending) -> StepResult:
        """Wait for a step and return what it sampled."""
        plan, rows = pending.plan, pending.bucket.rows
        ids, broken = np.asarray(pending.sampled)
        decode_logprobs = chunk_logprobs = None
        if pending.scores is not None:
            scores = np.asarray(pending.scores)
            decode_logprobs = _unpack(scores[: plan.num_decode])
            chunk_logprobs = _unpack(scores[rows : rows + len(plan.chunks)])
        readings = np.asarray(pending.readings) if self._is_read(plan) else None
        return StepResult(
            ids[: plan.num_decode].tolist(),
            ids[rows : rows + len(plan.chunks)].tolist(),
            decode_logprobs,
            chunk_logprobs,
            _unpacked_targets(pending),
            # A step that ends a prompt reads all its rows; those that decode were not asked for.
            None if readings is None or not plan.reads else readings[: plan.num_decode],
            None if readings is None else readings[rows : rows + len(plan.chunks)],
            broken_rows=_marked(broken[: plan.num_decode]),
            broken_chunks=_marked(broken[rows : rows + len(plan.chunks)]),
            stuck_rows=() if pending.masks is None else tuple(pending.masks.stuck_rows),
            stuck_chunks=() if pending.masks is None else tuple(pending.masks.stuck_chunks),
        )

    def _is_read(self, plan: StepPlan) -> bool:
        return self._site.probe is not None and (plan.reads or plan.samples_chunk)

    def gather(self, pages: Sequence[int]) -> jax.Array:
        """Copy pages into one new array [L, n, ...]; n is padded to a bucket."""
        count = self._buckets.fit_pages(len(pages))
        return self._programs.gather[count](self._pool, _padded(pages, count))

    def scatter(self, payload: jax.Array, pages: Sequence[int]) -> None:
        """Write what `gather` returned, moved to this mesh, to other pages. Keeps the payload."""
        count = payload.shape[1]
        self._pool = self._programs.scatter[count](self._pool, payload, _padded(pages, count))

    def read_trace(self, slot: int) -> Trace | None:
        """Copy what the length head remembers of a slot's row; None if it remembers nothing."""
        trace = self._history.trace
        return None if trace is None else self._programs.slot[row_of](trace, np.int32(slot))

    def write_trace(self, slot: int, trace: Trace) -> None:
        """Give a slot what `read_trace` returned, moved to this mesh."""
        write = self._programs.slot[with_row]
        whole = write(self._history.trace, np.int32(slot), trace)
        self._history = self._history._replace(trace=whole)

    def offload(self, pages: Sequence[int], host_slots: Sequence[int]) -> None:
        """Copy pages to host memory; what is written to them later is not in the copy."""
        host = self._host_memory()
        for some in _in_turn(self._buckets.split_apart(len(pages))):
            gather = self._programs.gather_apart[some.stop - some.start]
            apart = gather(self._pool, np.array(pages[some], np.int32))
            host.keep(apart, host_slots[some])

    def fetch(self, host_slots: Sequence[int]) -> list[jax.Array]:
        """Start to copy what `offload` kept to the devices. Its slots are empty then."""
        return self._host_memory().take(host_slots)

    def write(self, fetched: Sequence[jax.Array], pages: Sequence[int]) -> None:
        """Write what `fetch` returned into pages. Steps behind wait for what is yet to come."""
        for some in _in_turn(self._buckets.split_apart(len(pages))):
            scatter = self._programs.scatter_apart[some.stop - some.start]
            self._pool = scatter(self._pool, fetched[some], np.array(pages[some], np.int32))

    def _host_memory(self) -> HostMemory:
        if self._host is None:
            raise ValueError("this executor was made without host memory")
        return self._host

    def _run(self, bucket: Bucket, packed: NDArray[np.int32]) -> StepOutput:
        step = self._programs.step[bucket]
        self._pool, self._history, output = step(
            self._pool, self._history, self._params, self._head_weights, self._settings, packed
        )
        return output

    def _load_masks(self, slots_of: Sequence[int], masks: Sequence[NDArray[np.uint32]]) -> None:
        """Set the masks of slots; padding sets the scratch slot's to what forbids nothing."""
        count = self._buckets.fit_masks(len(slots_of))
        places = np.full(count, self._site.sizes.num_slots - 1, np.int32)
        places[: len(slots_of)] = slots_of
        words = np.full((count, self._settings.allowed.shape[1]), ALL_ALLOWED, np.uint32)
        words[: len(masks)] = masks
        self._settings = self._programs.masks[count](self._settings, places, words)

    def _timed(self, bucket: Bucket, packed: NDArray[np.int32]) -> Sequence[float]:
        """Run a step a few times and return the seconds of each; of one that is slow only once.

        Steps are launched as a worker launches them: one behind the other. Not before it has loaded
        the program, and on a GPU recorded its command buffer, in the second run.
        """
        first = GRAPH_RUNS if self._site.unrolls else 1
        alone_s = [self._seconds(bucket, packed, 1) for _ in range(first)]
        if alone_s[-1] > SLOW_S:
            return alone_s[-1:]
        return [self._seconds(bucket, packed, MAX_LAUNCHED) for _ in range(TIMINGS)]

    def _seconds(self, bucket: Bucket, packed: NDArray[np.int32], steps: int) -> float:
        began = time.perf_counter()
        outputs = [self._run(bucket, packed) for _ in range(steps)]
        jax.block_until_ready(outputs[-1])
        return (time.perf_counter() - began) / steps

    def _scores(self, output: StepOutput) -> jax.Array:
        return self._programs.scores[len(output.logits)](output.logits, output.sampled)

    def _target_scores(self, output: StepOutput, targets: NDArray[np.int32]) -> jax.Array:
        score = self._programs.targets[len(targets)]
        return score(of_head(self._params), output.hidden, targets)


def _packed_targets(plan: StepPlan, bucket: Bucket) -> NDArray[np.int32]:
    """Write the targets of all chunks into a fresh vector; 0 where there are none."""
    packed = np.zeros(bucket.tokens, np.int32)
    at = 0
    for chunk in plan.chunks:
        stop = at + len(chunk.tokens)
        if chunk.targets is not None:
            packed[at:stop] = chunk.targets
        at = stop
    packed.setflags(write=False)
    return packed


def _unpacked_targets(pending: Pending) -> dict[int, tuple[TokenLogprobs, ...]]:
    chunks = pending.plan.chunks
    if pending.target_scores is None:
        return {}
    scores = np.asarray(pending.target_scores)
    ends = np.cumsum([len(chunk.tokens) for chunk in chunks])
    return {
        i: tuple(_unpack(scores[end - len(chunk.tokens) : end]))
        for i, (chunk, end) in enumerate(zip(chunks, ends, strict=True))
        if chunk.targets is not None
    }


def _marked(flags: NDArray[np.int32]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(flags).tolist()) if flags.any() else ()


def _in_turn(counts: Sequence[int]) -> list[slice]:
    """Return where each of several parts lies, one after the other."""
    return [
        slice(stop - count, stop) for stop, count in zip(accumulate(counts), counts, strict=True)
    ]


def _padded(pages: Sequence[int], count: int) -> NDArray[np.int32]:
    padded = np.full(count, kv_pages.WRITE_OFF_PAGE, np.int32)
    padded[: len(pages)] = pages
    padded.setflags(write=False)
    return padded


def _unpack(scores: NDArray[np.int32]) -> list[TokenLogprobs]:
    """Read scores [rows, 1 + 2N] as a step packs them."""
    best = (scores.shape[1] + 1) // 2
    values = scores[:, :best].view(np.float32).tolist()
    ids = scores[:, best:].tolist()
    return [
        TokenLogprobs(chosen, tuple(zip(own, top, strict=True)))
        for (chosen, *top), own in zip(values, ids, strict=True)
    ]
