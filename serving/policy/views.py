"""What may a decision look at? Frozen snapshots in seconds, tokens and pages; never queues."""

from dataclasses import dataclass

from serving.messages import WorkerId


@dataclass(frozen=True, slots=True)
class DecodeView:
    """A decode worker: `load` is the tokens its live turns hold or are expected to hold.

    `sessions` counts all that it owns, the idle ones too.
    """

    worker: WorkerId
    load: int
    turns: int
    sessions: int
    capacity: int


@dataclass(frozen=True, slots=True)
class PrefillView:
    """A prefill worker: `queued` is the new tokens assigned to it and not yet prefilled."""

    worker: WorkerId
    queued: int
    turns: int


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task that is to be prefilled: its prompt, and how much more it may become."""

    prompt_len: int
    max_new_len: int


@dataclass(frozen=True, slots=True)
class PoolView:
    """A page pool at admission. `promised` pages are reserved for rows that have yet to grow."""

    available: int
    promised: int
    live: int


@dataclass(frozen=True, slots=True)
class HolderView:
    """A task that holds pages; `arrived` is its turn's first arrival (seconds)."""

    priority: int
    arrived: float
    pages: int


@dataclass(frozen=True, slots=True)
class ChunkView:
    """A task whose prompt is being prefilled: `remaining` new tokens are still to be run."""

    remaining: int
