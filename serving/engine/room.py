"""Does a worker fit in its memory? If not: how much is missing, and which flag would make it fit?

Asked before any weight is read. Sizes alone: knows no arrays and no devices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, inf

from serving.assembly import WORKSPACE_SHARE, kv_budget
from serving.config import ConfigError, MemoryConfig, require
from serving.messages import WorkerId
from serving.policy.admit import pages_for

CPU_POOL_BYTES = 128 * 2**20
"""KV pool of a worker on CPU devices, which share the host's memory with everything else."""
GIB = 2.0**30


@dataclass(frozen=True, slots=True)
class Room:
    """What a worker has and what it has to hold; bytes are those of all its devices together.

    `memory_bytes` is what JAX may use, of which the worker takes `fraction`; for CPU devices
    (`on_host`) its share of what the host has free, and all of it. `lighter` are the bytes of the
    weights by flags that make them fewer. `degrees` are the larger ones of `degree_flag` for which
    there are devices, rising.
    """

    worker: WorkerId
    memory_bytes: float
    fraction: float
    on_host: bool
    weight_bytes: int
    lighter: Mapping[str, int]
    page_bytes: int
    degree: int
    degree_flag: str
    degrees: Sequence[int]

    def kv_bytes(self, fraction: float, degree: int, weight_bytes: int) -> int | float:
        """Return what would be left for pages; negative if the weights alone would not fit."""
        if self.on_host:
            return self.memory_bytes - weight_bytes
        return kv_budget(self.memory_bytes / self.degree, fraction, degree, weight_bytes)


def settle_pages(room: Room, memory: MemoryConfig, max_model_len: int) -> int:
    """Choose how many pages a worker's pool has: those asked for, or as many as there is room for.

    Raises ConfigError if the weights do not fit, or with them the pages asked for, or those of one
    conversation of `max_model_len` tokens.
    """
    if memory.kv_pages is not None:
        return _asked_for(room, memory.kv_pages)
    least = pages_for(max_model_len, memory.page_size) + 1
    left = room.kv_bytes(room.fraction, room.degree, room.weight_bytes)
    if left < least * room.page_bytes:
        raise ConfigError(_no_room(room, least, memory.page_size, max_model_len))
    if room.on_host:
        left = min(left, max(least * room.page_bytes, CPU_POOL_BYTES))
    return int(left // room.page_bytes)


def check_host(memory: MemoryConfig, free_bytes: float, held: Sequence[tuple[Room, int]]) -> None:
    """Raise ConfigError unless the host has room for the pages of idle sessions.

    `held` are all workers with the pages of their pools, which CPU devices have on the host too.
    """
    workers = len(held)
    wanted = memory.host_kv_gib * GIB * workers
    taken = sum(room.weight_bytes + pages * room.page_bytes for room, pages in held if room.on_host)
    left = max(0.0, free_bytes - taken)
    if wanted > left:
        beside = f" beside {_gib(taken)} of weights and pages" if taken else ""
        raise ConfigError(
            f"--host-kv-gib {memory.host_kv_gib:g} for {workers} worker(s) takes {_gib(wanted)} of"
            f" host memory, and {_gib(left)} are free{beside}: {_gib(wanted - left)} are"
            f" missing; use --host-kv-gib {left // (workers * GIB):g} at most"
        )


def unused_host(memory: MemoryConfig, free_bytes: float, workers: int) -> str | None:
    """Say in one line what the host could keep of what has to go; None where it keeps some already.

    Half of what is free, and None where that is less than a GiB a worker.
    """
    offered = 0.0 if free_bytes == inf else free_bytes / 2 // (workers * GIB)
    if memory.host_kv_gib or offered < 1:
        return None
    return (
        f"host memory: {_gib(free_bytes)} are free; --host-kv-gib {offered:g} would keep there what"
        " has to go from the KV pages, to be computed again otherwise"
    )


def _asked_for(room: Room, pages: int) -> int:
    """Take the operator's word for a number of pages, unless it is out of the question."""
    left = room.memory_bytes - room.weight_bytes
    most = max(0, int(left // room.page_bytes)) if left < inf else pages
    require(
        pages <= most,
        f"{room.worker}: --kv-pages {pages} take {_gib(pages * room.page_bytes)} beside"
        f" {_gib(room.weight_bytes)} of weights, in {_memory(room)}:"
        f" {_gib(pages * room.page_bytes - left)} are missing; use --kv-pages {most} at most",
    )
    return pages


def _no_room(room: Room, least: int, page_size: int, max_model_len: int) -> str:
    """Say in one line what does not fit, by how much, and the ways out."""
    pages_bytes = least * room.page_bytes
    share = 0.0 if room.on_host else WORKSPACE_SHARE
    missing = room.weight_bytes + pages_bytes / (1 - share) - room.memory_bytes * room.fraction
    part = "" if room.on_host else f"--memory-fraction {room.fraction:g} of "
    line = (
        f"{room.worker}: weights of {_gib(room.weight_bytes)} and KV pages of {_gib(pages_bytes)},"
        f" for one conversation of {max_model_len} tokens, do not fit in {part}{_memory(room)}:"
        f" {_gib(missing)} are missing"
    )
    ways = _ways_out(room, pages_bytes, page_size)
    return f"{line}; use {' or '.join(ways)}" if ways else f"{line}; use a smaller model"


def _ways_out(room: Room, pages_bytes: int, page_size: int) -> list[str]:
    """List flags of which each alone would do; where none would, some that do together."""

    def fits(fraction: float, degree: int, weight_bytes: int) -> bool:
        return room.kv_bytes(fraction, degree, weight_bytes) >= pages_bytes

    def shorter(weight_bytes: int) -> list[str]:
        left = room.kv_bytes(room.fraction, room.degree, weight_bytes)
        tokens = (int(left // room.page_bytes) - 1) * page_size
        return [f"--max-model-len {tokens}"] if tokens >= 2 else []

    ways = shorter(room.weight_bytes)
    ways += [
        flags
        for flags, weight_bytes in room.lighter.items()
        if fits(room.fraction, room.degree, weight_bytes)
    ]
    wider = [d for d in room.degrees if fits(room.fraction, d, room.weight_bytes)]
    ways += [f"{room.degree_flag} {degree}" for degree in wider[:1]]
    shares = [] if room.on_host else range(ceil(room.fraction * 100), 100)
    larger = [s for s in shares if fits(s / 100, room.degree, room.weight_bytes)]
    ways += [f"--memory-fraction {percent / 100:g}" for percent in larger[:1]]
    if ways:
        return ways
    return [f"{flags} {length}" for flags, own in room.lighter.items() for length in shorter(own)]


def _memory(room: Room) -> str:
    if room.on_host:
        return f"{_gib(room.memory_bytes)} of host memory"
    return f"{room.degree} x {_gib(room.memory_bytes / room.degree)}"


def _gib(size: int | float) -> str:
    return f"{size / GIB:.2f} GiB"
