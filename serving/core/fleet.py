"""Which workers are there, what has been asked of each, and how do they fare? The ledger."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import assert_never

from serving.core.booked import Booked, Work
from serving.core.mirror import PageMirror
from serving.core.windows import Window
from serving.messages import LoadReport, PagesChanged, Role, StepsTimed, WorkerId, WorkerMeans
from serving.request import TurnId


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """One worker.

    `load` counts the tokens that its live turns hold or are expected to hold; `booked` is assigned
    to it and not yet prefilled.
    `decoding` are the turns whose rows are there, `kv_tokens` what these attend to together.
    `leaving`: it takes no new work and becomes `next_role`, or nothing, once it has none left.
    """

    id: WorkerId
    role: Role
    capacity: int
    ttft: Window
    itl: Window
    changed_at: float
    load: int = 0
    turns: int = 0
    booked: Booked = field(default_factory=Booked)
    kv_tokens: int = 0
    decoding: dict[TurnId, None] = field(default_factory=dict[TurnId, None])
    stepped_at: float | None = None
    report: LoadReport | None = None
    leaving: bool = False
    next_role: Role | None = None

    @property
    def decodes(self) -> bool:
        """Whether it can own sessions."""
        return self.role is not Role.PREFILL

    @property
    def takes_work(self) -> bool:
        """Whether new work may be given to it."""
        return not self.leaving

    @property
    def idle(self) -> bool:
        """Whether no live turn knows of it."""
        return self.turns == 0 and not self.booked

    @property
    def rests(self) -> bool:
        """Whether it has left service for good: nothing is left there, and nothing will come."""
        return self.leaving and self.next_role is None and self.idle

    @property
    def available_pages(self) -> int | None:
        """Pages that are neither held nor promised, by its last report; None before the first."""
        report = self.report
        if report is None:
            return None
        return max(0, report.pages_free + report.pages_cached - report.pages_promised)


class Fleet:
    """The only writer of the table of workers."""

    def __init__(self, *, page_size: int, window_s: float) -> None:
        """Start empty. Means are taken over `window_s` seconds."""
        self.workers: dict[WorkerId, WorkerRecord] = {}
        self.pages = PageMirror(page_size)
        self.roles_version = 0  # rises when workers come, go or change their roles
        self.loads_changed: set[WorkerId] = set()  # since placement last looked
        self.page_size = page_size
        self._window_s = window_s

    def join(self, worker: WorkerId, role: Role, capacity: int, now: float) -> None:
        """A worker takes work from now on. Raises ValueError if its id is taken."""
        if worker in self.workers:
            raise ValueError(f"worker {worker} has joined already")
        self.pages.join(worker)
        self.roles_version += 1
        self.workers[worker] = WorkerRecord(
            worker,
            role,
            capacity,
            Window(self._window_s),
            Window(self._window_s),
            now,
        )

    def leave(self, worker: WorkerId) -> None:
        """A worker is gone."""
        self.workers.pop(worker, None)
        self.pages.leave(worker)
        self.roles_version += 1

    def owners(self) -> list[WorkerRecord]:
        """List the workers that may own new sessions."""
        return [w for w in self.workers.values() if w.decodes and w.takes_work]

    def prefillers(self) -> list[WorkerRecord]:
        """List the workers that prefill for others."""
        return [w for w in self.workers.values() if w.role is Role.PREFILL and w.takes_work]

    def peers(self, owner: WorkerId) -> list[WorkerRecord]:
        """List the other workers that do both, and so could prefill for this one."""
        every = self.workers.values()
        return [w for w in every if w.role is Role.BOTH and w.takes_work and w.id != owner]

    def add_load(self, worker: WorkerId, tokens: int, turns: int) -> None:
        """Book (or with negative numbers: unbook) a turn's expected tokens at its owner."""
        record = self.workers.get(worker)
        if record is not None:
            record.load += tokens
            record.turns += turns
            self.loads_changed.add(worker)

    def book(self, worker: WorkerId, turn: TurnId, work: Work, deadline: float) -> None:
        """Book a turn's new tokens, due then, at the worker that prefills them."""
        record = self.workers.get(worker)
        if record is not None:
            record.booked.add(turn, work, deadline)

    def unbook(self, worker: WorkerId, turn: TurnId) -> None:
        """A turn is prefilled there, or not to be any more."""
        record = self.workers.get(worker)
        if record is not None:
            record.booked.remove(turn)

    def begin_decode(self, worker: WorkerId, turn: TurnId, kv_len: int) -> None:
        """A turn's row decodes at a worker from now on."""
        record = self.workers.get(worker)
        if record is not None and turn not in record.decoding:
            record.decoding[turn] = None
            record.kv_tokens += kv_len

    def end_decode(self, worker: WorkerId, turn: TurnId, kv_len: int) -> None:
        """A turn's row does not decode there any more; no effect if it did not."""
        record = self.workers.get(worker)
        if record is not None and turn in record.decoding:
            del record.decoding[turn]
            record.kv_tokens -= kv_len
            if not record.decoding:
                record.stepped_at = None

    def observe(self, event: StepsTimed | PagesChanged | LoadReport) -> WorkerRecord | None:
        """Take what a worker tells of itself; returns its record, None if it is gone."""
        record = self.workers.get(event.worker)
        if record is not None:
            match event:
                case LoadReport():
                    record.report = event
                case PagesChanged(_, tier, added, removed):
                    self.pages.change(record.id, tier, added, removed)
                case StepsTimed():
                    pass  # the latency model learns from it
                case _:
                    assert_never(event)
        return record

    def means(self, now: float) -> list[WorkerMeans]:
        """Return what the policies see of the workers' last seconds."""
        records = self.workers.values()
        return [WorkerMeans(w.id, w.ttft.mean(now), w.itl.mean(now)) for w in records]

    def stepped(self, worker: WorkerId, grown: int, now: float) -> None:
        """A step's tokens have come: its rows have `grown` tokens more."""
        record = self.workers.get(worker)
        if record is None:
            return
        record.kv_tokens += grown
        if record.stepped_at is not None and grown:
            record.itl.add(now, (now - record.stepped_at) * grown, grown)
        record.stepped_at = now if record.decoding else None

    def stepped_on(self, worker: WorkerId, rows: int, ends: Sequence[float]) -> None:
        """Take what `stepped` would of each of these steps, each row a token longer for each."""
        record = self.workers.get(worker)
        if record is None:
            return
        record.kv_tokens += rows * len(ends)
        times = ends if record.stepped_at is None else (record.stepped_at, *ends)
        record.itl.add_all((now, (now - before) * rows, rows) for before, now in pairwise(times))
        record.stepped_at = ends[-1]

    def grow(self, worker: WorkerId) -> None:
        """A row has one token more, apart from the steps of its worker."""
        record = self.workers.get(worker)
        if record is not None:
            record.kv_tokens += 1
