"""How fast does KV move? Pages gathered and scattered, to host memory and back, to another device.

`gather` and `scatter` read and write every byte, as a copy does. `offload` and `fetch` are the
engine's own way to host memory, a page at a time, with the seconds of the worker's thread that they
take before they return; `pinned` is all pages as one page-locked array, the most that can be had.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import jax

from benchmarks.figures import figure
from benchmarks.h200.part import Job, Part, Points
from benchmarks.h200.rig import PAGE_SIZE, Rig
from benchmarks.h200.timing import timed
from serving.engine.buckets import Buckets
from serving.engine.executor import JaxExecutor
from serving.engine.programs import ExecutorSizes, Moves, page_bytes


def _jobs(rig: Rig) -> Mapping[str, Job]:
    executor = cache(lambda: _executor(rig))  # made when the first point is measured
    return {str(n): partial(_rates, rig, executor, n) for n in rig.scale.pages}


def _executor(rig: Rig) -> JaxExecutor:
    """Make an executor that runs no steps: these are what takes long to compile."""
    most = max(rig.scale.pages)
    sizes = ExecutorSizes(
        num_pages=1 + 2 * most,
        page_size=PAGE_SIZE,
        max_model_len=most * PAGE_SIZE,
        max_rows=1,
        max_chunk_tokens=1,
        max_chunk_rows=1,
    )
    return rig.executor(sizes, Buckets((), rig.scale.pages), moves=Moves.TO_HOST)


def _summary(rig: Rig, points: Points) -> dict[str, Any]:
    return {
        "page_bytes": page_bytes(rig.attention, rig.config, PAGE_SIZE),
        "not_measured": _missing(),
    }


def _missing() -> dict[str, str]:
    """Say which ways this machine does not have."""
    missing: dict[str, str] = {}
    if len(jax.devices()) == 1:
        missing["to another device"] = "there is one device"
    kinds = {memory.kind for memory in jax.devices()[0].addressable_memories()}
    if "pinned_host" not in kinds:
        missing["pinned host memory"] = f"this device addresses {', '.join(sorted(kinds))} alone"
    return missing


def _rates(rig: Rig, make: Callable[[], JaxExecutor], count: int) -> dict[str, Any]:
    executor, missing = make(), _missing()
    num_bytes = count * executor.kv_bytes_per_page
    from_pages, to_pages = range(1, 1 + count), range(1 + count, 1 + 2 * count)
    payload = jax.block_until_ready(executor.gather(from_pages))

    def scatter() -> None:
        executor.scatter(payload, to_pages)
        jax.block_until_ready(executor.gather(to_pages))

    moves = _Moves(rig, executor, from_pages, to_pages)
    gather_s = _seconds(rig, lambda: jax.block_until_ready(executor.gather(from_pages)))
    rates: dict[str, Any] = {
        "bytes": num_bytes,
        "gather_bytes_per_s": _rate(2 * num_bytes, gather_s),
        # The gather that shows when a scatter is over is taken off again.
        "scatter_bytes_per_s": _rate(2 * num_bytes, _less(_seconds(rig, scatter), gather_s)),
        "offload_and_fetch_bytes_per_s": _rate(2 * num_bytes, _seconds(rig, moves.both)),
    }
    rates |= moves.dispatch_of_last(rig.scale.repeats)
    if "pinned host memory" not in missing:
        rates |= _pinned(rig, payload, num_bytes)
    if "to another device" not in missing:
        there = jax.devices()[1]
        moved = _seconds(rig, lambda: jax.block_until_ready(jax.device_put(payload, there)))
        rates["device_to_device_bytes_per_s"] = _rate(num_bytes, moved)
    return rates


class _Moves:
    """The engine's way to host memory and back, and how long it keeps the worker's thread."""

    def __init__(self, rig: Rig, executor: JaxExecutor, from_pages: range, to_pages: range) -> None:
        self._clock = rig.clock
        self._executor = executor
        self._from_pages, self._to_pages = from_pages, to_pages
        self._offload_s: list[float] = []
        self._fetch_s: list[float] = []

    def both(self) -> None:
        """Move pages to host memory and back, and wait until they are there."""
        slots = range(len(self._from_pages))
        began = self._clock()
        self._executor.offload(self._from_pages, slots)
        kept = self._clock()
        self._executor.write(self._executor.fetch(slots), self._to_pages)
        self._offload_s.append(kept - began)
        self._fetch_s.append(self._clock() - kept)
        jax.block_until_ready(self._executor.gather(self._to_pages))

    def dispatch_of_last(self, repeats: int) -> dict[str, Any]:
        """Return the seconds of the thread that a page took, each way, in the last repeats."""
        pages = len(self._from_pages)
        return {
            f"{name}_dispatch_s_per_page": figure([took / pages for took in times[-repeats:]])
            for name, times in (("offload", self._offload_s), ("fetch", self._fetch_s))
        }


def _pinned(rig: Rig, payload: jax.Array, num_bytes: int) -> dict[str, Any]:
    here = payload.sharding
    pinned = here.with_memory_kind("pinned_host")
    held = jax.block_until_ready(jax.device_put(payload, pinned))
    out = _seconds(rig, lambda: jax.block_until_ready(jax.device_put(payload, pinned)))
    back = _seconds(rig, lambda: jax.block_until_ready(jax.device_put(held, here)))
    return {
        "device_to_pinned_bytes_per_s": _rate(num_bytes, out),
        "pinned_to_device_bytes_per_s": _rate(num_bytes, back),
    }


def _seconds(rig: Rig, work: Any) -> list[float]:
    timed(work, rig.scale.warm_runs, rig.clock)
    return timed(work, rig.scale.repeats, rig.clock)


def _less(times: list[float], taken: list[float]) -> list[float]:
    """Take the shortest of `taken` off; a clock too coarse for that leaves them as they are."""
    return [time - min(taken) if time > min(taken) else time for time in times]


def _rate(num_bytes: int, times: list[float]) -> Any:
    return figure([num_bytes / seconds for seconds in times])


PAGES = Part(_jobs, _summary)
"""The bytes a second of every way, and the engine's seconds a page, for every number of pages."""
