"""What is in a worker's next step, and what does it mean once it has run?

Chunks of prompts ride beside all rows that decode (policy/batch); what a chunk fills is sent on as
soon as it is launched. Steps may be planned before earlier ones are completed.
"""

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from serving.core.chunks import plan_chunk
from serving.core.handoff import announce, send_filled
from serving.core.plan import Chunk, Launch, StepPlan, StepResult
from serving.core.rules import BatcherRules
from serving.core.samples import take_decoded, take_first, take_steady
from serving.core.steady import SteadySteps
from serving.core.step_clock import REPORT_STEPS
from serving.core.worker_state import WorkerState
from serving.core.worker_task import Stage, WorkerTask
from serving.forecast.forecast import Forecast
from serving.messages import StepsTimed, TaskId, Tokens
from serving.policy.batch import ChunkLimits, batch, room_for
from serving.policy.views import ChunkView, DecodingView
from serving.request import TokenLogprobs

Sample = Callable[[Sequence[bool]], Sequence[StepResult]]
"""Says what the next steps sample, if their rows go on; the head is read in those that are True."""
Told = StepsTimed | Tokens | SteadySteps
"""What is told of steps that merely go on."""


class Stepper:
    """Plans and completes the steps of one worker."""

    def __init__(self, state: WorkerState, rules: BatcherRules) -> None:
        """Start with no step launched."""
        self._state = state
        self._limits = state.limits
        self._clock = state.clock
        self._chunk_limits = ChunkLimits(
            max_tokens=state.limits.max_chunk_tokens,
            max_rows=state.limits.max_chunk_rows,
            min_tokens=min(rules.min_chunk_tokens, state.limits.max_chunk_tokens),
        )
        self._read_every = rules.read_every
        self._ahead = 0  # steps that the clock has seen end, and `go_on` has yet to take
        self._unread = 0  # steps with rows since the last one in which the head was read
        self._launched: deque[tuple[list[WorkerTask], list[WorkerTask]]] = deque()
        # The rows of the last step, which are mostly those of the next one.
        self._slots: NDArray[np.int32] | None = None
        self._decoding: list[WorkerTask] = []
        self._decode_tasks: tuple[TaskId, ...] = ()

    def plan(self, now: float) -> None:
        """Plan the next step, if there is anything to run."""
        decoding, rows = self._rows(), self._state.holdings.rows
        decode_tasks, reads = self._decode_tasks, self._reads(len(decoding))
        if self._state.prefilling:
            self._plan_chunks(decoding, decode_tasks, now, reads=reads)
        elif decoding:
            kv_tokens = rows.kv_tokens()
            self._clock.launched(now, len(decoding), kv_tokens, 0, 0, 0)
            logprobs = rows.wants_logprobs()
            plan = StepPlan(rows.advance(), (), logprobs, decode_tasks, (), reads)
            self._launched.append((decoding, []))
            self._state.out.append(Launch(plan))

    def _plan_chunks(
        self,
        decoding: list[WorkerTask],
        decode_tasks: tuple[TaskId, ...],
        now: float,
        *,
        reads: bool,
    ) -> None:
        """Plan a step with chunks beside the rows that decode, as far as there is room for any."""
        rows = self._state.holdings.rows
        kv_tokens = rows.kv_tokens()
        tasks = self._state.prefilling.arranged(now, self._duration_s)
        shares, held_back = self._shares(tasks, kv_tokens, now)
        if not decoding and not shares:
            return
        chosen = list(tasks[: len(shares)])
        new_len = sum(shares)
        past = sum(share * e.kv_len for e, share in zip(chosen, shares, strict=True))
        cached_len = past // new_len if new_len else 0
        self._clock.launched(now, len(decoding), kv_tokens, new_len, held_back, cached_len)
        logprobs = rows.wants_logprobs()
        decode = rows.advance()
        chunks = tuple(
            self._chunk(entry, share) for entry, share in zip(chosen, shares, strict=True)
        )
        logprobs |= any(e.task.turn.sampling.logprobs is not None for e in chosen)
        chunk_tasks = tuple(entry.task.id for entry in chosen)
        plan = StepPlan(decode, chunks, logprobs, decode_tasks, chunk_tasks, reads)
        self._launched.append((decoding, chosen))
        self._state.out.append(Launch(plan))
        for entry, chunk in zip(chosen, chunks, strict=True):
            self._after_launch(entry, chunk, now)

    @property
    def steady_for(self) -> int:
        """How many steps more have just the rows of those launched; see `Batcher.steady_for`."""
        rows, decoding = self._state.holdings.rows, self._decoding
        if self._state.prefilling or rows.active() is not self._slots:
            return 0
        alike = all(rows_of is decoding and not chosen for rows_of, chosen in self._launched)
        return rows.steady_for if alike else 0

    def time(self, ends: Sequence[float]) -> list[tuple[int, Told]]:
        """Time steps that `go_on` has yet to take; see `Batcher.time`."""
        rows, count = self._state.holdings.rows, len(self._decoding)
        timed = self._clock.go_on(ends, count, rows.kv_tokens() + count * self._ahead)
        self._ahead += len(ends)
        return [*timed]

    def go_on(
        self, ends: Sequence[float], results: list[StepResult], sample: Sample
    ) -> list[tuple[int, Told]]:
        """End the oldest step at each of these times and plan another; see `Batcher.go_on`."""
        rows, decoding = self._state.holdings.rows, self._decoding
        count, steps = len(decoding), len(ends)
        told: list[tuple[int, Told]] = []
        if (timed := self._ahead) < steps:
            told += [(timed + i, report) for i, report in self.time(ends[timed:])]
        self._ahead -= steps
        results += sample([self._reads(count) for _ in ends])
        first = 0  # of the steps since the last one with readings
        for i in range(steps):
            if results[i].decode_readings is not None:
                told += self._take_steady(results[first:i], first, ends)
                told.append((i, self._take_read(results[i])))
                first = i + 1
        told += self._take_steady(results[first:steps], first, ends)
        del results[:steps]
        rows.go_on(steps)
        return told

    def _take_steady(
        self, results: Sequence[StepResult], first: int, ends: Sequence[float]
    ) -> list[tuple[int, Told]]:
        """Take the tokens of steps without readings, the first of which ended at `ends[first]`."""
        if not results:
            return []
        ids = [result.decode_ids for result in results]
        own = ends[first : first + len(ids)]
        return [(first, take_steady(self._state.worker, self._decoding, ids, own))]

    def _take_read(self, result: StepResult) -> Tokens:
        """Take the tokens of a step with readings; raises ValueError if a row ends with it."""
        forecasts = self._forecast(self._decoding, result)
        tokens, ended = take_decoded(self._state.worker, self._decoding, result, forecasts)
        if tokens is None or ended:
            raise ValueError("a row has ended, so its worker does not merely go on")
        return tokens

    @property
    def has_launched(self) -> bool:
        """Whether a step is launched and not completed."""
        return bool(self._launched)

    def in_flight_s(self, now: float) -> float:
        """Predict how long the steps launched will still take."""
        return self._clock.in_flight_s(now)

    @property
    def reports_in(self) -> int:
        """How many steps more have to end before their times are reported."""
        return REPORT_STEPS - self._clock.unreported

    def next_s(self, more_rows: int, more_kv_tokens: int) -> float:
        """Predict a step of the rows that decode now and so many more."""
        rows = self._state.holdings.rows
        count, kv_tokens = len(rows.active()) + more_rows, rows.kv_tokens() + more_kv_tokens
        return self._clock.corrected.decode(count, kv_tokens).seconds

    def complete(self, plan: StepPlan, result: StepResult, now: float) -> None:
        """Take what the oldest launched step sampled. Rows that ended meanwhile are skipped."""
        decoding, chosen = self._launched.popleft()
        timed = self._clock.ended(now)
        if timed is not None:
            self._state.out.append(timed)
        for reason, rows, chunks in result.failed:
            self._break_off([decoding[i] for i in rows], [chosen[i] for i in chunks], reason)
        if decoding:
            self._complete_decode(decoding, result, now)
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

    def _break_off(self, decoding: list[WorkerTask], chosen: list[WorkerTask], reason: str) -> None:
        """End tasks whose samples mean nothing; others find only what earlier steps wrote."""
        failed = [entry for entry in decoding if entry.stage is Stage.DECODE]
        failed += [entry for entry in chosen if entry.stage is not Stage.GONE]
        for entry in failed:
            self._state.give_up(entry.task.id, reason)

    def _found_sound(self, entry: WorkerTask, chunk: Chunk) -> None:
        """A chunk has been computed, and with numbers: let others find its pages."""
        stop = chunk.start + len(chunk.tokens)
        entry.unsure_from = stop if stop < entry.kv_len else None
        self._state.holdings.name_full_pages(entry)

    def _reads(self, rows: int) -> bool:
        """Decide whether this step reads the length head for its rows: all of them at once.

        Each row decodes in every step, so it is read every so many of its own tokens. Those that
        cannot ride in this one do in the next: it is put off once, or they might never be read.
        """
        if self._state.foresight is None or not rows:
            return False
        self._unread += 1
        due = self._read_every + (self._state.holdings.rows.num_awaiting > 0)
        if self._unread < due:
            return False
        self._unread = 0
        return True

    def _duration_s(self, entry: WorkerTask) -> float:
        """Say how long a prompt takes beside the rows that decode now, as one chunk."""
        rows, new_len = self._state.holdings.rows, len(entry.tokens) - entry.kv_len
        costs, decoding = self._clock.corrected, rows.num_decoding
        if decoding:
            return costs.mixed(decoding, rows.kv_tokens(), new_len, entry.kv_len).seconds
        return costs.prefill(new_len, entry.kv_len).seconds

    def _shares(
        self, tasks: Sequence[WorkerTask], kv_tokens: int, now: float
    ) -> tuple[list[int], int]:
        """Decide how many tokens of which prompts ride in the next step; count those held back.

        Rows that cannot ride in it wait for its end, and count like those that do.
        """
        rows = self._state.holdings.rows
        slack_s = rows.slack_s(now) - self._clock.in_flight_s(now)
        waiting = [ChunkView(len(e.tokens) - e.kv_len, e.kv_len) for e in tasks]
        limits = self._chunk_limits
        decoding = DecodingView(rows.num_decoding, kv_tokens, slack_s)
        shares = batch(waiting, decoding, costs=self._clock.corrected, limits=limits)
        return shares, room_for(waiting, limits) - sum(shares)

    def _rows(self) -> list[WorkerTask]:
        """List the tasks that decode, in the order of the rows. Not to be changed by who asks."""
        slots = self._state.holdings.rows.active()
        if slots is not self._slots:
            by_slot = self._state.holdings.by_slot
            self._slots = slots
            self._decoding = [by_slot[slot] for slot in slots.tolist()]
            self._decode_tasks = tuple(entry.task.id for entry in self._decoding)
        return self._decoding

    def _chunk(self, entry: WorkerTask, share: int) -> Chunk:
        """Plan a chunk; from here on its KV counts as held, because steps run in order.

        Others find it once the step has been completed, and has computed numbers.
        """
        assert entry.slot is not None
        if not entry.computed:
            passed_over = self._state.prefilling.begin(entry)
            if passed_over:
                details = {"passed_over": passed_over}
                self._state.decisions.about("order", entry, "deadlines", details)
        chunk = plan_chunk(entry, share, self._state.holdings.rows.pages(entry.slot))
        if entry.unsure_from is None:
            entry.unsure_from = entry.kv_len
        entry.kv_len += share
        entry.computed += share
        return chunk

    def _after_launch(self, entry: WorkerTask, chunk: Chunk, now: float) -> None:
        """Send what the chunk filled, and let the row decode if the chunk ended its prompt."""
        last = chunk.sample
        if last:
            self._state.prefilling.discard(entry)
        if entry.owner is not None:
            next_transfer, limits = self._state.next_transfer, self._limits
            self._state.out += send_filled(entry, entry.owner, next_transfer, limits, last=last)
            if last:
                entry.stage = Stage.SENDING
        elif last:
            self._state.decode(entry, now, token=None)

    def _complete_decode(self, decoding: list[WorkerTask], result: StepResult, now: float) -> None:
        forecasts = self._forecast(decoding, result)
        tokens, ended = take_decoded(self._state.worker, decoding, result, forecasts)
        if tokens is not None:
            self._state.out.append(tokens)
        for entry, finished in ended:
            self._state.holdings.pace.judge(entry, now)
            self._end(entry)
            self._state.out.append(finished)
        rows = self._state.holdings.rows
        if rows.num_unread:
            for entry, token in zip(decoding, result.decode_ids, strict=True):
                if entry.slot is not None:  # it has not ended or left
                    rows.read(entry.slot, token)
        if self._state.departures:
            in_flight_s = self._clock.in_flight_s(now)
            for entry in decoding:
                self._state.out += self._state.departures.settle(entry, in_flight_s, now)

    def _forecast(
        self, decoding: list[WorkerTask], result: StepResult
    ) -> Sequence[tuple[TaskId, Forecast]]:
        """Take the readings of rows that decode, before their new tokens are."""
        foresight, readings = self._state.foresight, result.decode_readings
        if foresight is None or readings is None:
            return ()
        own = [i for i, entry in enumerate(decoding) if entry.stage is Stage.DECODE]
        rows = [decoding[i] for i in own]
        read = foresight.read(rows, [row.replied for row in rows], readings[own])
        told: list[tuple[TaskId, Forecast]] = []
        for row, forecast in zip(rows, read, strict=True):
            if forecast is not None:
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
            entry.since = now, entry.replied
            if reason is not None:
                self._end(entry)
                return
            assert entry.slot is not None
            self._state.holdings.rows.read(entry.slot, token)
            # A row may leave before its first token is known.
            in_flight_s = self._clock.in_flight_s(now)
            self._state.out += self._state.departures.settle(entry, in_flight_s, now)
            return
        self._state.out.append(announce(entry, entry.owner, reason, computed=True))
        self._state.awaited.begin(entry, entry.owner, now)
        self._state.holdings.close_slot(entry)
