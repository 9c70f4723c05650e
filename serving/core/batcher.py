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

from serving.core.chunks import plan_chunk
from serving.core.departures import Departures
from serving.core.handoff import EarlyGrants, announce, lend, pages_to_send, send_filled
from serving.core.holdings import BatcherLimits, Holdings
from serving.core.plan import (
    Chunk,
    DropTransfer,
    Launch,
    LoadSlot,
    OffloadPages,
    Output,
    ReceivePages,
    RestorePages,
    StepPlan,
    StepResult,
)
from serving.core.rules import BatcherRules
from serving.core.samples import take_decoded, take_first
from serving.core.step_clock import StepClock
from serving.core.waiting import age
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.messages import (
    Ack,
    Adopted,
    Cancel,
    Decode,
    Granted,
    LoadReport,
    MoveAbort,
    MoveFailed,
    MoveOut,
    PagesChanged,
    PagesReady,
    Prefill,
    PullRequested,
    Refused,
    TaskId,
    Tick,
    ToWorker,
    TransferFailed,
    TransferId,
    WorkerId,
    WorkerLost,
    WorkerMessage,
)
from serving.policy.batch import ChunkLimits, batch
from serving.policy.views import ChunkView, DecodingView
from serving.request import TokenLogprobs


class Batcher:
    """The only writer of one worker's state. Not thread-safe: one thread drives it."""

    def __init__(self, worker: WorkerId, limits: BatcherLimits, rules: BatcherRules) -> None:
        """Start empty."""
        self.worker = worker
        self.limits = limits
        self.holdings = Holdings(limits, rules)
        self._clock = StepClock(worker, rules.costs)
        self._chunk_limits = ChunkLimits(
            max_tokens=limits.max_chunk_tokens,
            max_rows=limits.max_chunk_rows,
            min_tokens=min(rules.min_chunk_tokens, limits.max_chunk_tokens),
        )
        self._prefilling: list[WorkerTask] = []
        self._launched: deque[tuple[list[WorkerTask], list[WorkerTask]]] = deque()
        self._early_grants = EarlyGrants(limits.transfer_timeout_s)
        self._transfers = 0
        self._departures = Departures(worker, self.holdings, self._next_transfer)
        self._out: list[Output] = []

    # ---- in ------------------------------------------------------------------------------------

    def on(self, message: WorkerMessage, now: float) -> list[Output]:
        """Take one message. A message about a task that is gone changes nothing."""
        self.holdings.idle.now = now
        match message:
            case Prefill() | Decode(move=None):
                self._open(open_task(message, self.limits.page_size))
            case Decode():
                self._let_in(open_task(message, self.limits.page_size), now)
            case Cancel(task):
                self._cancel(task)
            case MoveOut():
                self._let_go(message, now)
            case MoveAbort():
                self._stay(message)
            case WorkerLost(worker):
                self._part_from(worker)
            case Tick():
                self._expire(now)
            case _:
                self._on_peer(message, now)
        return self._take_out()

    def _on_peer(
        self, message: Granted | PullRequested | PagesReady | Ack | TransferFailed, now: float
    ) -> None:
        match message:
            case Granted(task, _, held_len, move):
                entry = self._find(task, Stage.EXPECTING)
                if entry is not None:
                    self._granted(entry, held_len)
                elif not self._departures.grant(task, move, held_len):
                    self._early_grants.keep(message, now)
            case PullRequested():
                entry = self._find(message.task, Stage.GRANTED)
                if entry is not None:
                    transfer, page_size = self._next_transfer(), self.limits.page_size
                    self._out += lend(entry, message, transfer, page_size=page_size)
            case PagesReady():
                self._receive(message, now)
            case Ack(task, transfer):
                self._acknowledge(task, transfer)
            case TransferFailed(task, transfer):
                self._transfer_failed(task, transfer)
            case _:
                assert_never(message)

    def step(self, now: float) -> list[Output]:
        """Admit who may start and plan the next step: at most one Launch is among the outputs."""
        self.holdings.idle.now = now
        while (entry := self.holdings.admit_next(now)) is not None:
            self._start(entry, now)
        for victim in self.holdings.grow():
            self._forget(victim)
            self._out.append(Refused(self.worker, victim.task.id, "preempted"))
        self._offload()
        self._plan(now)
        # Behind the step just planned, so that a row in it is copied with what the step writes.
        self._out += self._departures.advance()
        return self._take_out()

    def _plan(self, now: float) -> None:
        """Plan the next step, if there is anything to run."""
        decoding, rows = self._decoding(), self.holdings.rows
        kv_tokens = rows.kv_tokens()
        shares = self._shares(len(decoding), kv_tokens, now)
        if not decoding and not shares:
            return
        chosen = self._prefilling[: len(shares)]
        new_len = sum(shares)
        past = sum(share * e.kv_len for e, share in zip(chosen, shares, strict=True))
        self._clock.launched(
            now,
            rows=len(decoding),
            kv_tokens=kv_tokens,
            new_len=new_len,
            cached_len=past // new_len if new_len else 0,
        )
        logprobs = rows.wants_logprobs()
        decode = rows.advance()
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
            self._after_launch(entry, chunk, now)

    def _shares(self, rows: int, kv_tokens: int, now: float) -> list[int]:
        """Decide how many tokens of which prompts ride in the next step."""
        if not self._prefilling:
            return []
        slack_s = self.holdings.rows.slack_s(now) - self._clock.in_flight_s(now)
        return batch(
            [ChunkView(len(e.tokens) - e.kv_len, e.kv_len) for e in self._prefilling],
            DecodingView(rows, kv_tokens, slack_s),
            costs=self._clock.corrected,
            limits=self._chunk_limits,
        )

    def complete(self, plan: StepPlan, result: StepResult, now: float) -> list[Output]:
        """Take what the oldest launched step sampled. Rows that ended meanwhile are skipped."""
        self.holdings.idle.now = now
        decoding, chosen = self._launched.popleft()
        timed = self._clock.ended(now)
        if timed is not None:
            self._out.append(timed)
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
            pages_promised=self.holdings.promised,
            pages_on_host=len(self.holdings.host),
            waiting_tokens=queue.tokens,
        )

    def check(self) -> None:
        """Raise AssertionError unless the accounts agree (pages, slots, tasks)."""
        self.holdings.check()

    # ---- tasks ---------------------------------------------------------------------------------

    def _open(self, entry: WorkerTask) -> None:
        """A task has come. If it is decoded elsewhere, it waits for its owner's grant first."""
        self.holdings.tasks[entry.task.id] = entry
        if entry.owner is None:
            self.holdings.queue.add(entry)
        elif (held_len := self._early_grants.take(entry.task.id, None)) is not None:
            self._granted(entry, held_len)

    def _find(self, task: TaskId, *stages: Stage) -> WorkerTask | None:
        entry = self.holdings.tasks.get(task)
        return entry if entry is not None and entry.stage in stages else None

    def _granted(self, entry: WorkerTask, held_len: int) -> None:
        entry.held_len = held_len
        self.holdings.queue.add(entry)

    def _start(self, entry: WorkerTask, now: float) -> None:
        """A task has its pages: grant, pull or prefill."""
        self._restore(entry)
        if entry.source is not None:
            entry.stage = Stage.GRANTED
            granted = Granted(entry.task.id, self.worker, entry.kv_len, entry.move)
            self._out.append(ToWorker(entry.source, granted))
            return
        self._load_slot(entry)
        entry.sent_pages = entry.held_len // self.limits.page_size
        lacking = entry.held_len > entry.kv_len and entry.pull and not entry.scores_prompt
        if entry.owner is not None and lacking:
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

    def _offload(self, keep: tuple[int, ...] = ()) -> None:
        """Let evicted pages be copied to host memory before anything is written to them."""
        pages, slots = self.holdings.take_evicted(keep)
        if pages:
            self._out.append(OffloadPages(pages, slots))

    def _restore(self, entry: WorkerTask) -> None:
        slots, pages = entry.restored or ((), ())
        self._offload(slots)
        if slots:
            self._out.append(RestorePages(slots, pages))
            self.holdings.name_full_pages(entry)

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
        self._out += self._departures.part_from(worker)
        for entry in list(self.holdings.tasks.values()):
            if entry.owner == worker:
                self._cancel(entry.task.id)
            elif entry.source == worker and entry.stage in (Stage.WAITING, Stage.GRANTED):
                self._give_up(entry.task.id, "worker_lost")

    def _forget(self, entry: WorkerTask) -> None:
        """Take a retired task out of the steps and transfers to come."""
        self._departures.forget(entry.task.id)
        if entry in self._prefilling:
            self._prefilling.remove(entry)
        if entry.unannounced is not None:
            self._out.append(DropTransfer(entry.unannounced.transfer))

    def _expire(self, now: float) -> None:
        self._early_grants.expire(now)
        self._out += self._departures.expire(now)
        overdue = [
            entry
            for entry in self.holdings.tasks.values()
            if entry.deadline is not None and entry.deadline <= now
        ]
        for entry in overdue:
            if entry.stage is Stage.PULLING:
                self._prefill(entry)  # the history did not come: compute it
            else:
                self._give_up(entry.task.id, "transfer_failed")

    # ---- moves ---------------------------------------------------------------------------------

    def _let_in(self, entry: WorkerTask, now: float) -> None:
        """A row wants to move here: there is room for it now, or it stays where it is."""
        reason = self.holdings.admit_at_once(entry)
        if reason is None:
            self._start(entry, now)
        else:
            self._out.append(Refused(self.worker, entry.task.id, reason))

    def _let_go(self, asked: MoveOut, now: float) -> None:
        held_len = self._early_grants.take(asked.task, asked.move)
        entry = self._find(asked.task, Stage.DECODE)
        if entry is None:
            self._out.append(MoveFailed(self.worker, asked.task, asked.move, "not_decoding"))
        else:
            self._departures.ask(entry, asked, held_len, now)

    def _stay(self, asked: MoveAbort) -> None:
        """Give a move up, or say that it is too late for that."""
        if self._find(asked.task, Stage.DECODE) is not None:
            self._out += self._departures.stay(asked)
        else:
            self._out.append(Refused(self.worker, asked.task, "moved_away"))

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

    def _after_launch(self, entry: WorkerTask, chunk: Chunk, now: float) -> None:
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
            self._decode_on(entry, now, token=None)

    def _decode_on(self, entry: WorkerTask, now: float, *, token: int | None) -> None:
        """Let a row decode. Without `token` its first one is still on the device."""
        entry.stage = Stage.DECODE
        known = len(entry.tokens) - (token is not None)
        replied = entry.replied + (token is None)
        left = entry.task.turn.sampling.max_tokens - replied
        if left > 0:
            assert entry.slot is not None
            rows = self.holdings.rows
            rows.activate(entry.slot, position=known, reply_index=replied, left=left, token=token)
            if entry.task.slo.tpot_s is not None:
                rows.set_target(entry.slot, now=now, tpot_s=entry.task.slo.tpot_s)

    def _complete_decode(self, decoding: list[WorkerTask], result: StepResult) -> None:
        tokens, ended = take_decoded(self.worker, decoding, result)
        if tokens is not None:
            self._out.append(tokens)
        for entry, finished in ended:
            self.holdings.retire(entry)
            self._forget(entry)
            self._out.append(finished)
        if self._departures:
            for entry in decoding:
                self._out += self._departures.settle(entry)

    def _complete_prefill(
        self, entry: WorkerTask, token: int, logprobs: TokenLogprobs | None, now: float
    ) -> None:
        done, reason = take_first(self.worker, entry, token, logprobs)
        self._out.append(done)
        if entry.owner is None:
            if reason is not None:
                self.holdings.retire(entry)
                self._forget(entry)
            return
        self._out.append(announce(entry, entry.owner, reason))
        entry.deadline = now + self.limits.transfer_timeout_s
        self.holdings.close_slot(entry)

    # ---- transfers -----------------------------------------------------------------------------

    def _next_transfer(self) -> TransferId:
        self._transfers += 1
        return TransferId(self.worker, self._transfers)

    def _receive(self, ready: PagesReady, now: float) -> None:
        entry = self._find(ready.task, Stage.GRANTED, Stage.PULLING)
        ack = ToWorker(ready.transfer.sender, Ack(ready.task, ready.transfer))
        if entry is None or entry.move != ready.move:
            self._out += [DropTransfer(ready.transfer), ack]
            return
        entry.taken.add(ready.transfer)
        stop = ready.first_page + ready.num_pages
        if not self.holdings.extend(entry, stop):
            self._out += [DropTransfer(ready.transfer), ack]
            self._give_up(entry.task.id, "no_room")
            return
        self._offload()
        pages = entry.pages[ready.first_page : stop]
        self._out += [ReceivePages(ready.transfer, ready.task, tuple(pages)), ack]
        if ready.reply is not None:
            entry.tokens[entry.prompt_len :] = ready.reply
        # A row that moves fills pages with tokens that are told only at its stop.
        entry.kv_len = max(entry.kv_len, min(ready.stop, len(entry.tokens)))
        self.holdings.name_full_pages(entry)
        if entry.stage is Stage.PULLING:
            self._prefill(entry)
        elif ready.reply is not None:
            self._adopt(entry, now, over=ready.finish is not None)

    def _adopt(self, entry: WorkerTask, now: float, *, over: bool) -> None:
        """The KV is whole: decode on, or keep the pages of a reply that is over already."""
        if over:
            self.holdings.retire(entry)
            return
        reply = tuple(entry.tokens[entry.prompt_len :])
        self._out.append(Adopted(self.worker, entry.task.id, reply, entry.move))
        self._load_slot(entry)
        self._decode_on(entry, now, token=entry.tokens[-1])

    def _transfer_failed(self, task: TaskId, transfer: TransferId) -> None:
        entry = self.holdings.tasks.get(task)
        if entry is None or transfer in entry.taken:  # announced twice: the second time in vain
            return
        stays = self._departures.abort(task, "transfer_failed")
        if stays:
            self._out += stays
            return
        if transfer.sender != self.worker:
            self.holdings.distrust(entry)
        self._give_up(task, "transfer_failed")

    def _acknowledge(self, task: TaskId, transfer: TransferId) -> None:
        entry = self.holdings.tasks.get(task)
        if entry is None:
            return
        entry.unacked.discard(transfer)
        if entry.stage is Stage.SENDING and not entry.unacked:
            self.holdings.retire(entry)

    def _take_out(self) -> list[Output]:
        added, removed = self.holdings.pool.take_changes()
        if added or removed:
            self._out.append(PagesChanged(self.worker, added, removed))
        out, self._out = self._out, []
        return out
