"""Which workers are there, and how much has been asked of each? The coordinator's own ledger."""

from dataclasses import dataclass

from serving.core.sessions import Sessions
from serving.costs.costs import StepModel
from serving.messages import LoadReport, Role, WorkerId
from serving.policy.views import DecodeView, PrefillView


@dataclass(slots=True, eq=False)
class WorkerRecord:
    """One worker: `load` and `queued` count tokens of the live turns assigned to it."""

    id: WorkerId
    role: Role
    capacity: int
    load: int
    queued: int
    decoding_turns: int
    prefilling_turns: int
    report: LoadReport | None


class Fleet:
    """The only writer of the table of workers."""

    def __init__(self) -> None:
        """Start empty."""
        self.workers: dict[WorkerId, WorkerRecord] = {}

    def join(self, worker: WorkerId, role: Role, capacity: int) -> None:
        """A worker takes work from now on. Raises ValueError if its id is taken."""
        if worker in self.workers:
            raise ValueError(f"worker {worker} has joined already")
        self.workers[worker] = WorkerRecord(worker, role, capacity, 0, 0, 0, 0, None)

    def leave(self, worker: WorkerId) -> None:
        """A worker is gone."""
        self.workers.pop(worker, None)

    def decode_views(self, sessions: Sessions) -> list[DecodeView]:
        """View every worker that decodes."""
        return [
            self.decode_view(w.id, sessions)
            for w in self.workers.values()
            if w.role is not Role.PREFILL
        ]

    def decode_view(self, worker: WorkerId, sessions: Sessions) -> DecodeView:
        """View one worker as an owner.

        Nothing is predicted and no prompt is looked up here: a step is priced by the share of the
        worker's capacity that its live turns are expected to hold.
        """
        record = self.workers[worker]
        return DecodeView(
            worker=worker,
            load=record.load,
            turns=record.decoding_turns,
            sessions=sessions.owned_by(worker),
            capacity=record.capacity,
            cached_len=0,
            expected_tokens=float(record.load),
            expected_rows=float(record.decoding_turns),
            step_model=StepModel(0.0, 0.0, 1 / record.capacity),
            draining=False,
        )

    def prefill_views(self) -> list[PrefillView]:
        """View every worker that only prefills."""
        return [
            PrefillView(w.id, w.queued, w.prefilling_turns)
            for w in self.workers.values()
            if w.role is Role.PREFILL
        ]

    def add_decode(self, worker: WorkerId, tokens: int, turns: int) -> None:
        """Book (or with negative numbers: unbook) a turn's expected tokens at its owner."""
        record = self.workers.get(worker)
        if record is not None:
            record.load += tokens
            record.decoding_turns += turns

    def add_prefill(self, worker: WorkerId, tokens: int, turns: int) -> None:
        """Book (or unbook) a task's prompt tokens at a prefill worker."""
        record = self.workers.get(worker)
        if record is not None:
            record.queued += tokens
            record.prefilling_turns += turns
