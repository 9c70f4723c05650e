"""How far has each reply come? Tokens of steps, in the order of the reply, none twice.

What an earlier attempt still sends is dropped by its number, what comes early waits for its place.
The one part of the coordinator that works per step, so it does the least it can.
"""

from collections.abc import Mapping

from serving.core.fleet import Fleet
from serving.core.live_turn import LiveTurn
from serving.core.moves import Moves
from serving.core.outbox import Outbox
from serving.core.steady import SteadySteps
from serving.messages import Emit, SampledToken, Tokens
from serving.request import TurnId


class Progress:
    """The only writer of replies' tokens."""

    def __init__(
        self, turns: Mapping[TurnId, LiveTurn], fleet: Fleet, moves: Moves, outbox: Outbox
    ) -> None:
        """Read `turns`, all that are live; count in `fleet` what their rows have grown by."""
        self._turns = turns
        self._fleet = fleet
        self._moves = moves
        self._outbox = outbox

    def take(self, event: Tokens, now: float) -> list[LiveTurn]:
        """Emit what one step decoded; returns the turns that may have more to emit, or to end."""
        turns: list[TurnId] = []
        emitted: list[SampledToken] = []
        settled: list[LiveTurn] = []
        worker, grown, known = event.worker, 0, self._turns.get
        for task, sample in zip(event.tasks, event.samples, strict=True):
            live = known(task.turn)
            if live is None or live.task != task:
                continue
            tokens = live.tokens
            expected = len(tokens) - live.prompt_len
            if sample.reply_index != expected:
                if sample.reply_index > expected:
                    live.early[sample.reply_index] = sample
                continue
            if expected == live.resumes_at:
                self._moves.resumed(live, now)
            tokens.append(sample.token)
            live.last_at = now
            if live.owner == worker:
                grown += live.decoding
            else:
                self._grow(live)
            turns.append(task.turn)
            emitted.append(sample)
            if live.early or live.finish is not None:
                settled.append(live)
        self._fleet.stepped(worker, grown, now)
        if turns:
            self._outbox.add(Emit(turns, emitted))
        self._foresee(event)
        return settled

    def take_steady(self, steps: SteadySteps) -> bool:
        """Take what several steps decoded, of turns that merely go on; nothing is to be emitted.

        False, and nothing is taken, where a single step matters: a turn is not at its place, has
        just moved, or is about to end.
        """
        rows: list[LiveTurn] = []
        for task, replied in zip(steps.tasks, steps.replied, strict=True):
            live = self._turns.get(task.turn)
            if live is None or live.task != task or live.replied != replied:
                return False
            if live.owner != steps.worker or not live.decoding:
                return False
            if live.resumes_at is not None or live.early or live.finish is not None:
                return False
            rows.append(live)
        last_at = steps.ends[-1]
        for live, tokens in zip(rows, steps.tokens, strict=True):
            live.tokens += tokens
            live.last_at = last_at
        self._fleet.stepped_on(steps.worker, len(rows), steps.ends)
        return True

    def take_early(self, live: LiveTurn, now: float) -> None:
        """Emit what came early and is due now."""
        while (sample := live.early.pop(live.replied, None)) is not None:
            if live.replied == live.resumes_at:
                self._moves.resumed(live, now)
            live.tokens.append(sample.token)
            live.last_at = now
            self._grow(live)
            self._outbox.add(Emit((live.turn.id,), (sample,)))

    def _foresee(self, event: Tokens) -> None:
        for task, forecast in event.forecasts:
            live = self._turns.get(task.turn)
            if live is not None and live.task == task:
                live.foresee(forecast)

    def _grow(self, live: LiveTurn) -> None:
        if live.owner is not None and live.decoding:
            self._fleet.grow(live.owner)
