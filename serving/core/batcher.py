"""What does one worker do next? The state machine between messages, steps and pages.

`on` takes messages, `step` plans the next step, `complete` takes what a step sampled. Each returns
what is to be done, in order: commands and launches for the executor, events for the coordinator,
messages for other workers. Steps may be planned before earlier ones are completed: a row's next
token is then still on the device, and what a row samples after its end is dropped.

Does no I/O, reads no clock, knows no device. Pages that a launched step still writes may be freed:
whoever gets them writes them in a later step, and an executor runs steps in order.
"""

from bisect import insort
from collections import deque
from typing import assert_never

from serving.core.chunks import plan_chunk, prompt_scores
from serving.core.finish import finish_after
from serving.core.handoff import EarlyGrants, announce, lend, pages_to_send, send_filled
from serving.core.holdings import BatcherLimits, Holdings, age
from serving.core.plan import (
    Chunk,
    DropTransfer,
    Launch,
    LoadSlot,
    Output,
    ReceivePages,
    StepPlan,
    StepResult,
)
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.messages import (
    Ack,
    Cancel,
    Decode,
    DropCached,
    Finished,
    Granted,
    LoadReport,
    PagesReady,
    Prefill,
    PrefillDone,
    PullRequested,
    Refused,
    SampledToken,
    TaskId,
    Tick,
    Tokens,
    ToWorker,
    TransferFailed,
    TransferId,
    WorkerId,
    WorkerLost,
    WorkerMessage,
)
from serving.policy.batch import batch
from serving.policy.views import ChunkView
from serving.request import TokenLogprobs


class Batcher:
    """The only writer of one worker's state. Not thread-safe: one thread drives it."""

    def __init__(self, worker: WorkerId, limits: BatcherLimits) -> None:
        """Start empty."""
        self.worker = worker
        self.limits = limits
        self.holdings = Holdings(limits)
        self._prefilling: list[WorkerTask] = []
        self._launched: deque[tuple[list[WorkerTask], list[WorkerTask]]] = deque()
        self._early_grants = EarlyGrants(limits.transfer_timeout_s)
        self._transfers = 0
        self._out: list[Output] = []

    # ---- in ------------------------------------------------------------------------------------

    def on(self, message: WorkerMessage, now: float) -> list[Output]:
        """Take one message. A message about a task that is gone changes nothing."""
        match message:
            case Prefill(task, owner):
                self._open(open_task(task, owner, None, self.limits.page_size))
            case Decode(task, prefill):
                self._open(open_task(task, None, prefill, self.limits.page_size))
            case Cancel(task):
                self._cancel(task)
            case WorkerLost(worker):
                self._part_from(worker)
            case DropCached():
                self.holdings.pool.clear_cached()
            case Tick():
                self._expire(now)
            case _:
                self._on_peer(message, now)
        return self._take_out()

    def _on_peer(
        self, message: Granted | PullRequested | PagesReady | Ack | TransferFailed, now: float
    ) -> None:
        match message:
            case Granted(task, _, held_len):
                entry = self._find(task, Stage.EXPECTING)
                if entry is not None:
                    self._granted(entry, held_len)
                else:
                    self._early_grants.keep(task, held_len, now)
            case PullRequested():
                entry = self._find(message.task, Stage.GRANTED)
                if entry is not None:
                    transfer, page_size = self._next_transfer(), self.limits.page_size
                    self._out += lend(entry, message, transfer, page_size=page_size)
            case PagesReady():
                self._receive(message)
            case Ack(task, transfer):
                self._acknowledge(task, transfer)
            case TransferFailed(task, transfer):
                if (entry := self.holdings.tasks.get(task)) is not None:
                    if transfer.sender != self.worker:
                        self.holdings.distrust(entry)
                    self._give_up(task, "transfer_failed")
            case _:
                assert_never(message)

    def step(self, now: float) -> list[Output]:
        """Admit who may start and plan the next step: at most one Launch is among the outputs."""
        while (entry := self.holdings.admit_next()) is not None:
            self._start(entry, now)
        for victim in self.holdings.grow():
            self._forget(victim)
            self._out.append(Refused(self.worker, victim.task.id, "preempted"))
        decoding = self._decoding()
        shares = batch(
            [ChunkView(len(entry.tokens) - entry.kv_len) for entry in self._prefilling],
            max_tokens=self.limits.max_chunk_tokens,
            max_rows=self.limits.max_chunk_rows,
        )
        if not decoding and not shares:
            return self._take_out()
        logprobs = self.holdings.rows.wants_logprobs()
        decode = self.holdings.rows.advance()
        chosen = self._prefilling[: len(shares)]
        chunks = tuple(
            self._chunk(entry, share) for entry, share in zip(chosen, shares, strict=True)
        )
        logprobs |= any(e.task.turn.sampling.logprobs is not None for e in chosen)
        plan = StepPlan(
            decode=decode,
            chunks=chunks,
            logprobs=logprobs,
            decode_tasks=tuple(entry.task.id for entry in decoding),
            chunk_tasks=tuple(entry.task.id for entry in chosen),
        )
        self._launched.append((decoding, chosen))
        self._out.append(Launch(plan))
        for entry, chunk in zip(chosen, chunks, strict=True):
            self._after_launch(entry, chunk)
        return self._take_out()

    def complete(self, plan: StepPlan, result: StepResult, now: float) -> list[Output]:
        """Take what the oldest launched step sampled. Rows that ended meanwhile are skipped."""
        decoding, chosen = self._launched.popleft()
        self._complete_decode(decoding, result)
        for i, (entry, chunk) in enumerate(zip(chosen, plan.chunks, strict=True)):
            if entry.stage is Stage.GONE:
                continue
            entry.prompt_logprobs.extend(result.prompt_logprobs.get(i, ()))
            if chunk.sample:
                logprobs = result.chunk_logprobs[i] if result.chunk_logprobs else None
                self._complete_prefill(entry, result.chunk_ids[i], logprobs, now)
        return self._take_out()

    def report(self) -> LoadReport:
        """Count what the worker holds."""
        pool, queue = self.holdings.pool, self.holdings.queue
        return LoadReport(
            worker=self.worker,
            waiting=sum(
                e.stage in (Stage.WAITING, Stage.EXPECTING) for e in self.holdings.tasks.values()
            ),
            running=len(self.holdings.by_slot),
            pages_used=pool.num_held,
            pages_cached=pool.num_cached,
            pages_free=pool.available - pool.num_cached,
            waiting_tokens=sum(len(entry.tokens) for entry in queue),
        )

    def check(self) -> None:
        """Raise AssertionError unless the accounts agree (pages, slots, tasks)."""
        self.holdings.check()

    # ---- tasks ---------------------------------------------------------------------------------

    def _open(self, entry: WorkerTask) -> None:
        """A task has come. If it is decoded elsewhere, it waits for its owner's grant first."""
        self.holdings.tasks[entry.task.id] = entry
        if entry.owner is None:
            self.holdings.enqueue(entry)
        elif (held_len := self._early_grants.take(entry.task.id)) is not None:
            self._granted(entry, held_len)

    def _find(self, task: TaskId, *stages: Stage) -> WorkerTask | None:
        entry = self.holdings.tasks.get(task)
        return entry if entry is not None and entry.stage in stages else None

    def _granted(self, entry: WorkerTask, held_len: int) -> None:
        entry.held_len = held_len
        self.holdings.enqueue(entry)

    def _start(self, entry: WorkerTask, now: float) -> None:
        """A task has its pages: grant, pull or prefill."""
        if entry.prefill is not None:
            entry.stage = Stage.GRANTED
            granted = Granted(entry.task.id, self.worker, entry.kv_len)
            self._out.append(ToWorker(entry.prefill, granted))
            return
        self._load_slot(entry)
        entry.sent_pages = entry.held_len // self.limits.page_size
        if entry.owner is not None and entry.held_len > entry.kv_len and not entry.scores_prompt:
            entry.stage = Stage.PULLING
            entry.deadline = now + self.limits.transfer_timeout_s
            pull = PullRequested(entry.task.id, self.worker, entry.kv_len, entry.held_len)
            self._out.append(ToWorker(entry.owner, pull))
            return
        self._prefill(entry)

    def _prefill(self, entry: WorkerTask) -> None:
        entry.stage = Stage.PREFILL
        entry.deadline = None
        insort(self._prefilling, entry, key=age)

    def _load_slot(self, entry: WorkerTask) -> None:
        assert entry.slot is not None
        turn = entry.task.turn
        reply = tuple(entry.tokens[turn.prompt_len :])
        self._out.append(LoadSlot(entry.slot, turn.sampling, turn.tokens, reply))

    def _cancel(self, task: TaskId) -> None:
        entry = self.holdings.tasks.get(task)
        if entry is not None:
            self.holdings.retire(entry)
            self._forget(entry)

    def _give_up(self, task: TaskId, reason: str) -> None:
        self._cancel(task)
        self._out.append(Refused(self.worker, task, reason))

    def _part_from(self, worker: WorkerId) -> None:
        """A peer is gone: nothing will come from it, and nothing is to be kept for it."""
        for entry in list(self.holdings.tasks.values()):
            if entry.owner == worker:
                self._cancel(entry.task.id)
            elif entry.prefill == worker and entry.stage in (Stage.WAITING, Stage.GRANTED):
                self._give_up(entry.task.id, "worker_lost")

    def _forget(self, entry: WorkerTask) -> None:
        """Take a retired task out of the steps and transfers to come."""
        if entry in self._prefilling:
            self._prefilling.remove(entry)
        if entry.unannounced is not None:
            self._out.append(DropTransfer(entry.unannounced.transfer))

    def _expire(self, now: float) -> None:
        self._early_grants.expire(now)
        overdue = [
            entry
            for entry in self.holdings.tasks.values()
            if entry.deadline is not None and entry.deadline <= now
        ]
        for entry in overdue:
            if entry.stage is Stage.PULLING:
                self._prefill(entry)  # the history did not come: compute it
            else:
                self._cancel(entry.task.id)

    # ---- steps ---------------------------------------------------------------------------------

    def _decoding(self) -> list[WorkerTask]:
        by_slot = self.holdings.by_slot
        return [by_slot[slot] for slot in self.holdings.rows.active().tolist()]

    def _chunk(self, entry: WorkerTask, share: int) -> Chunk:
        """Plan a chunk; from here on its KV counts as held, because steps run in order."""
        assert entry.slot is not None
        chunk = plan_chunk(entry, share, self.holdings.rows.pages(entry.slot))
        entry.kv_len += share
        entry.computed += share
        self.holdings.name_full_pages(entry)
        return chunk

    def _after_launch(self, entry: WorkerTask, chunk: Chunk) -> None:
        """Send what the chunk filled, and let the row decode if the chunk ended its prompt."""
        last, page_size = chunk.sample, self.limits.page_size
        if last:
            self._prefilling.remove(entry)
        if entry.owner is not None:
            if pages_to_send(entry, last=last, page_size=page_size):
                self._out += send_filled(
                    entry, entry.owner, self._next_transfer(), last=last, page_size=page_size
                )
            if last:
                entry.stage = Stage.SENDING
        elif last:
            self._decode_on(entry, token=None)

    def _decode_on(self, entry: WorkerTask, *, token: int | None) -> None:
        """Let a row decode. Without `token` its first one is still on the device."""
        entry.stage = Stage.DECODE
        known = len(entry.tokens) - (token is not None)
        replied = entry.replied + (token is None)
        left = entry.task.turn.sampling.max_tokens - replied
        if left > 0:
            assert entry.slot is not None
            self.holdings.rows.activate(
                entry.slot, position=known, reply_index=replied, left=left, token=token
            )

    def _complete_decode(self, decoding: list[WorkerTask], result: StepResult) -> None:
        tasks: list[TaskId] = []
        samples: list[SampledToken] = []
        ended: list[Finished] = []
        logprobs = result.decode_logprobs
        for i, (entry, token) in enumerate(zip(decoding, result.decode_ids, strict=True)):
            if entry.stage is not Stage.DECODE:
                continue
            task, sampling, replied = entry.task, entry.task.turn.sampling, entry.replied
            scored = None
            if logprobs is not None and sampling.logprobs is not None:
                scored = logprobs[i]
            tasks.append(task.id)
            samples.append(SampledToken(replied, token, scored))
            entry.kv_len = len(entry.tokens)
            entry.tokens.append(token)
            reason = finish_after(sampling, token, replied + 1)
            if reason is not None:
                self.holdings.retire(entry)
                ended.append(Finished(self.worker, task.id, reason, replied + 1))
        if tasks:
            self._out.append(Tokens(self.worker, tasks, samples))
            self._out.extend(ended)

    def _complete_prefill(
        self, entry: WorkerTask, token: int, logprobs: TokenLogprobs | None, now: float
    ) -> None:
        sampling = entry.task.turn.sampling
        first = SampledToken(
            entry.replied, token, logprobs if sampling.logprobs is not None else None
        )
        entry.tokens.append(token)
        reason = finish_after(sampling, token, entry.replied)
        scores = prompt_scores(entry)
        self._out.append(
            PrefillDone(self.worker, entry.task.id, first, entry.computed, scores, reason)
        )
        if entry.owner is None:
            if reason is not None:
                self.holdings.retire(entry)
            return
        self._out.append(announce(entry, entry.owner, first, reason))
        entry.deadline = now + self.limits.transfer_timeout_s
        self.holdings.close_slot(entry)

    # ---- transfers -----------------------------------------------------------------------------

    def _next_transfer(self) -> TransferId:
        self._transfers += 1
        return TransferId(self.worker, self._transfers)

    def _receive(self, ready: PagesReady) -> None:
        entry = self._find(ready.task, Stage.GRANTED, Stage.PULLING)
        ack = ToWorker(ready.transfer.sender, Ack(ready.task, ready.transfer))
        if entry is None:
            self._out += [DropTransfer(ready.transfer), ack]
            return
        pages = entry.pages[ready.first_page : ready.first_page + ready.num_pages]
        self._out += [ReceivePages(ready.transfer, ready.task, tuple(pages)), ack]
        entry.kv_len = max(entry.kv_len, ready.stop)
        self.holdings.name_full_pages(entry)
        if entry.stage is Stage.PULLING:
            self._prefill(entry)
        elif ready.first is not None:
            self._adopt(entry, ready)

    def _adopt(self, entry: WorkerTask, ready: PagesReady) -> None:
        """The hand-off is whole: decode on, or keep the pages of a reply that is over already."""
        assert ready.first is not None
        entry.tokens.append(ready.first.token)
        if ready.finish is not None:
            self.holdings.retire(entry)
            return
        self._load_slot(entry)
        self._decode_on(entry, token=ready.first.token)

    def _acknowledge(self, task: TaskId, transfer: TransferId) -> None:
        entry = self.holdings.tasks.get(task)
        if entry is None:
            return
        entry.unacked.discard(transfer)
        if entry.stage is Stage.SENDING and not entry.unacked:
            self.holdings.retire(entry)

    def _take_out(self) -> list[Output]:
        out, self._out = self._out, []
        return out
