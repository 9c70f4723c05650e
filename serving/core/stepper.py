"""What is in a worker's next step, and what does it mean once it has run?

Chunks of prompts ride beside all rows that decode (policy/batch); what a chunk fills is sent on as
soon as it is launched. Steps may be planned before earlier ones are completed.
"""

from collections import deque

from serving.core.chunks import plan_chunk
from serving.core.handoff import announce, pages_to_send, send_filled
from serving.core.plan import Chunk, Launch, StepPlan, StepResult
from serving.core.rules import BatcherRules
from serving.core.samples import take_decoded, take_first
from serving.core.step_clock import StepClock
from serving.core.worker_state import WorkerState
from serving.core.worker_task import Stage, WorkerTask
from serving.forecast.forecast import Forecast
from serving.messages import NOT_FINITE, TaskId
from serving.policy.batch import ChunkLimits, batch, room_for
from serving.policy.views import ChunkView, DecodingView
from serving.request import TokenLogprobs


class Stepper:
    """Plans and completes the steps of one worker."""

    def __init__(self, state: WorkerState, rules: BatcherRules) -> None:
        """Start with no step launched."""
        self._state = state
        self._limits = state.limits
        self._clock = StepClock(state.worker, rules.costs)
        self._chunk_limits = ChunkLimits(
            max_tokens=state.limits.max_chunk_tokens,
            max_rows=state.limits.max_chunk_rows,
            min_tokens=min(rules.min_chunk_tokens, state.limits.max_chunk_tokens),
        )
        self._read_every = rules.read_every
        self._unread = 0  # steps with rows since the last one in which the head was read
        self._launched: deque[tuple[list[WorkerTask], list[WorkerTask]]] = deque()

    def plan(self, now: float) -> None:
        """Plan the next step, if there is anything to run."""
        decoding, rows = self._decoding(), self._state.holdings.rows
        kv_tokens = rows.kv_tokens()
        shares, held_back = self._shares(len(decoding), kv_tokens, now)
        if not decoding and not shares:
            return
        chosen = self._state.prefilling[: len(shares)]
        new_len = sum(shares)
        past = sum(share * e.kv_len for e, share in zip(chosen, shares, strict=True))
        self._clock.launched(
            now,
            rows=len(decoding),
            kv_tokens=kv_tokens,
            new_len=new_len,
            held_back=held_back,
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
            reads=self._reads(len(decoding)),
        )
        self._launched.append((decoding, chosen))
        self._state.out.append(Launch(plan))
        for entry, chunk in zip(chosen, chunks, strict=True):
            self._after_launch(entry, chunk, now)

    def complete(self, plan: StepPlan, result: StepResult, now: float) -> None:
        """Take what the oldest launched step sampled. Rows that ended meanwhile are skipped."""
        decoding, chosen = self._launched.popleft()
        timed = self._clock.ended(now)
        if timed is not None:
            self._state.out.append(timed)
        self._break_off(decoding, chosen, result)
        self._complete_decode(plan, decoding, result)
        for i, (entry, chunk) in enumerate(zip(chosen, plan.chunks, strict=True)):
            if entry.stage is Stage.GONE:
                continue
            self._found_sound(entry, chunk)
            entry.prompt_logprobs.extend(result.prompt_logprobs.get(i, ()))
            if chunk.sample:
                logprobs = result.chunk_logprobs[i] if result.chunk_logprobs else None
                if self._state.foresight is not None and result.chunk_readings is not None:
                    readings = result.chunk_readings[i : i + 1]
                    self._state.foresight.read([entry], [entry.replied], readings)
                self._complete_prefill(entry, result.chunk_ids[i], logprobs, now)

    def _break_off(
        self, decoding: list[WorkerTask], chosen: list[WorkerTask], result: StepResult
    ) -> None:
        """End the tasks that computed no numbers; others find only what earlier steps wrote."""
        broken = [decoding[i] for i in result.broken_rows if decoding[i].stage is Stage.DECODE]
        broken += [chosen[i] for i in result.broken_chunks if chosen[i].stage is not Stage.GONE]
        for entry in broken:
            self._state.give_up(entry.task.id, NOT_FINITE)

    def _found_sound(self, entry: WorkerTask, chunk: Chunk) -> None:
        """A chunk has been computed, and with numbers: let others find its pages."""
        stop = chunk.start + len(chunk.tokens)
        entry.unsure_from = stop if stop < entry.kv_len else None
        self._state.holdings.name_full_pages(entry)

    def _reads(self, rows: int) -> bool:
        """Decide whether this step reads the length head for its rows: all of them at once.

        Each row decodes in every step, so it is read every so many of its own tokens.
        """
        if self._state.foresight is None or not rows:
            return False
        self._unread += 1
        if self._unread < self._read_every:
            return False
        self._unread = 0
        return True

    def _shares(self, rows: int, kv_tokens: int, now: float) -> tuple[list[int], int]:
        """Decide how many tokens of which prompts ride in the next step; count those held back."""
        if not self._state.prefilling:
            return [], 0
        slack_s = self._state.holdings.rows.slack_s(now) - self._clock.in_flight_s(now)
        waiting = [ChunkView(len(e.tokens) - e.kv_len, e.kv_len) for e in self._state.prefilling]
        limits = self._chunk_limits
        decoding = DecodingView(rows, kv_tokens, slack_s)
        shares = batch(waiting, decoding, costs=self._clock.corrected, limits=limits)
        return shares, room_for(waiting, limits) - sum(shares)

    def _decoding(self) -> list[WorkerTask]:
        by_slot = self._state.holdings.by_slot
        return [by_slot[slot] for slot in self._state.holdings.rows.active().tolist()]

    def _chunk(self, entry: WorkerTask, share: int) -> Chunk:
        """Plan a chunk; from here on its KV counts as held, because steps run in order.

        Others find it once the step has been completed, and has computed numbers.
        """
        assert entry.slot is not None
        chunk = plan_chunk(entry, share, self._state.holdings.rows.pages(entry.slot))
        if entry.unsure_from is None:
            entry.unsure_from = entry.kv_len
        entry.kv_len += share
        entry.computed += share
        return chunk

    def _after_launch(self, entry: WorkerTask, chunk: Chunk, now: float) -> None:
        """Send what the chunk filled, and let the row decode if the chunk ended its prompt."""
        last, page_size = chunk.sample, self._limits.page_size
        if last:
            self._state.prefilling.remove(entry)
        if entry.owner is not None:
            if pages_to_send(entry, last=last, page_size=page_size):
                self._state.out += send_filled(
                    entry, entry.owner, self._state.next_transfer(), last=last, page_size=page_size
                )
            if last:
                entry.stage = Stage.SENDING
        elif last:
            self._state.decode(entry, now, token=None)

    def _complete_decode(
        self, plan: StepPlan, decoding: list[WorkerTask], result: StepResult
    ) -> None:
        forecasts = self._forecast(plan, decoding, result)
        tokens, ended = take_decoded(self._state.worker, decoding, result, forecasts)
        if tokens is not None:
            self._state.out.append(tokens)
        for entry, finished in ended:
            self._end(entry)
            self._state.out.append(finished)
        if self._state.departures:
            for entry in decoding:
                self._state.out += self._state.departures.settle(entry)

    def _forecast(
        self, plan: StepPlan, decoding: list[WorkerTask], result: StepResult
    ) -> list[tuple[TaskId, Forecast]]:
        """Take the readings of rows that decode, before their new tokens are."""
        foresight, readings = self._state.foresight, result.decode_readings
        if foresight is None or readings is None or not plan.reads:
            return []
        own = [i for i, entry in enumerate(decoding) if entry.stage is Stage.DECODE]
        rows = [decoding[i] for i in own]
        read = foresight.read(rows, [row.replied for row in rows], readings[own])
        told: list[tuple[TaskId, Forecast]] = []
        for row, forecast in zip(rows, read, strict=True):
            if forecast is not None:
                self._state.holdings.reserve(row)
                told.append((row.task.id, forecast))
        return told

    def _end(self, entry: WorkerTask) -> None:
        """A reply has ended here."""
        if self._state.foresight is not None:
            self._state.foresight.learn(entry)
        self._state.retire(entry)

    def _complete_prefill(
        self, entry: WorkerTask, token: int, logprobs: TokenLogprobs | None, now: float
    ) -> None:
        done, reason = take_first(self._state.worker, entry, token, logprobs, now)
        self._state.out.append(done)
        if entry.owner is None:
            if reason is not None:
                self._end(entry)
            elif entry.forecast is not None:
                self._state.holdings.reserve(entry)
            return
        self._state.out.append(announce(entry, entry.owner, reason))
        entry.deadline = now + self._limits.transfer_timeout_s
        self._state.holdings.close_slot(entry)
