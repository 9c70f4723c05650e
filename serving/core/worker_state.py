"""What do the parts of one batcher share? Its tasks, what it is about to say, and the basic moves.

`Batcher` takes messages, `Stepper` plans and completes steps, `Transfers` takes and lends pages;
each changes a task through this. Knows no message of the coordinator's.
"""

from serving.core.awaited import Awaited
from serving.core.departures import Departures
from serving.core.foresight import Foresight
from serving.core.holdings import Holdings
from serving.core.limits import BatcherLimits
from serving.core.own_decisions import OwnDecisions
from serving.core.plan import DropTransfer, LoadSlot, OffloadPages, Output
from serving.core.prefill_queue import PrefillQueue
from serving.core.rules import BatcherRules
from serving.core.step_clock import StepClock
from serving.core.worker_task import Stage, WorkerTask
from serving.messages import PagesChanged, Refused, TaskId, Tier, TransferId, WorkerId


class WorkerState:
    """One worker's state.

    `clock` times the steps and corrects the costs that all decisions here are made by. `prefilling`
    holds the tasks in stage PREFILL, `awaited` those that wait for another worker's word.
    `foresight` takes the length head's readings; None where there is no head.
    """

    def __init__(self, worker: WorkerId, limits: BatcherLimits, rules: BatcherRules) -> None:
        """Start empty."""
        self.worker = worker
        self.limits = limits
        self.decisions = OwnDecisions(worker)
        self.clock = StepClock(worker, rules.costs)
        self.holdings = Holdings(limits, rules, self.clock.corrected, self.decisions)
        self._changes = [
            (Tier.POOL, self.holdings.pool.changes),
            (Tier.HOST, self.holdings.host.changes),
        ]
        self.prefilling = PrefillQueue(rules.order)
        self._transfers = 0
        self.awaited = Awaited(limits.transfer_timeout_s, lambda: self._transfers)
        self.departures = Departures(worker, self.holdings, self.awaited, self.next_transfer)
        self.foresight = None if rules.reader is None else Foresight(rules.reader)
        self.out: list[Output] = []

    def find(self, task: TaskId, *stages: Stage) -> WorkerTask | None:
        """Return a task that is in one of these stages; None if it is not."""
        entry = self.holdings.tasks.get(task)
        return entry if entry is not None and entry.stage in stages else None

    def next_transfer(self) -> TransferId:
        """Number a transfer."""
        self._transfers += 1
        return TransferId(self.worker, self._transfers)

    def prefill(self, entry: WorkerTask) -> None:
        """Let a task's prompt be computed in the steps to come."""
        entry.stage = Stage.PREFILL
        self.awaited.end(entry)
        self.prefilling.add(entry)

    def load_slot(self, entry: WorkerTask) -> None:
        """Prepare the slot of a task for its row."""
        assert entry.slot is not None
        turn = entry.task.turn
        reply = tuple(entry.tokens[turn.prompt_len :])
        self.out.append(LoadSlot(entry.slot, turn.sampling, turn.tokens, reply, turn.number))

    def decode(self, entry: WorkerTask, now: float, *, token: int | None) -> None:
        """Let a row decode. Without `token` its first one is still on the device."""
        entry.stage = Stage.DECODE
        self.awaited.end(entry)
        known = len(entry.tokens) - (token is not None)
        replied = entry.replied + (token is None)
        entry.since = now, replied
        left = entry.task.turn.sampling.max_tokens - replied
        if left > 0:
            assert entry.slot is not None
            rows = self.holdings.rows
            rows.activate(entry.slot, position=known, reply_index=replied, left=left, token=token)
            tpot_s = entry.task.slo.tpot_s
            # Prompts need not give way to a row that is late in any case.
            if tpot_s is not None and tpot_s >= self.holdings.pace.least_s:
                rows.set_target(entry.slot, now=now, tpot_s=tpot_s)

    def offload(self) -> None:
        """Let evicted pages be copied to host memory before anything is written to them."""
        if offloaded := self.holdings.take_offloaded():
            pages, slots = zip(*offloaded, strict=True)
            self.out.append(OffloadPages(pages, slots))

    def cancel(self, task: TaskId) -> None:
        """Let go of a task, whatever its stage."""
        entry = self.holdings.tasks.get(task)
        if entry is not None:
            self.retire(entry)

    def give_up(self, task: TaskId, reason: str) -> None:
        """Let go of a task, and tell the coordinator."""
        entry = self.holdings.tasks.get(task)
        self.cancel(task)
        self.out.append(Refused(self.worker, task, reason, 0 if entry is None else entry.computed))

    def retire(self, entry: WorkerTask) -> None:
        """Let go of what a task holds, and take it out of the steps and transfers to come."""
        self.holdings.retire(entry)
        self.forget(entry)

    def forget(self, entry: WorkerTask) -> None:
        """Take a task that holds nothing any more out of the steps and transfers to come."""
        self.awaited.end(entry)
        self.departures.forget(entry.task.id)
        self.prefilling.discard(entry)
        if entry.unannounced is not None:
            self.out.append(DropTransfer(entry.unannounced.transfer))

    def check(self) -> None:
        """Raise AssertionError unless just those tasks wait for a peer that hold something for it.

        What a task holds for an owner is the coordinator's, and has no deadline here.
        """
        self.holdings.check()
        waiting = 0
        for entry in self.holdings.tasks.values():
            waits = entry.stage in (Stage.PULLING, Stage.FETCHING)
            waits |= entry.task.id in self.departures
            waits |= entry.stage is Stage.GRANTED and entry.move is not None
            waits |= entry.stage is Stage.SENDING and entry.unannounced is None
            assert waits == (entry in self.awaited), f"{entry.task.id}: {entry.stage} and {waits}"
            waiting += waits
        assert waiting == len(self.awaited), "a task that is gone waits for a peer"

    def take_out(self) -> list[Output]:
        """Return what is to be done, in order, what can be found since, and what was decided."""
        for tier, changes in self._changes:
            if changes.pending:
                added, removed = changes.take()
                if added or removed:
                    self.out.append(PagesChanged(self.worker, tier, added, removed))
        if self.decisions.pending:
            self.out += self.decisions.take()
        out, self.out = self.out, []
        return out
