"""What did each turn get? Times of its arrival, its tokens and its end, as a client sees them."""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import sub

from serving.core.steady import SteadySteps
from serving.messages import Completed, Dropped, End, SampledToken
from serving.request import Turn, TurnId


@dataclass(slots=True)
class TurnRecord:
    """One turn; times in seconds, None where it did not get so far.

    `number` counts the turns before it in its session; `outcome` says how it ended.
    """

    id: TurnId
    number: int
    prompt_len: int
    arrived: float
    first: float | None = None
    last: float | None = None
    tokens: int = 0
    cached_len: int = 0
    outcome: str | None = None

    @property
    def ttft_s(self) -> float | None:
        """Time to the first token."""
        return None if self.first is None else self.first - self.arrived

    @property
    def tpot_s(self) -> float | None:
        """Mean time per token behind the first; None for a reply of one token."""
        if self.first is None or self.last is None or self.tokens < 2:
            return None
        return (self.last - self.first) / (self.tokens - 1)

    @property
    def completed(self) -> bool:
        """Whether the reply is whole."""
        return self.outcome == COMPLETED

    def meets(self, ttft_s: float | None, tpot_s: float | None) -> bool:
        """Tell whether it was completed within both targets (None: no target)."""
        own_ttft, own_tpot = self.ttft_s, self.tpot_s
        if not self.completed or own_ttft is None:
            return False
        in_time = ttft_s is None or own_ttft <= ttft_s
        return in_time and (tpot_s is None or own_tpot is None or own_tpot <= tpot_s)


COMPLETED = "completed"


class Measurements:
    """The records of all turns, in the order of their arrival, and the gaps between tokens.

    `failed` counts those that ended without a whole reply, by reason.
    """

    def __init__(self) -> None:
        """Start with no turn."""
        self.turns: dict[TurnId, TurnRecord] = {}
        self.failed: Counter[str] = Counter()
        self.gaps = array("f")
        self.tokens = 0

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was sent."""
        self.turns[turn.id] = TurnRecord(turn.id, turn.number, turn.prompt_len, now)

    def on_tokens(
        self, turns: Sequence[TurnId], samples: Sequence[SampledToken], now: float
    ) -> None:
        """Tokens came to clients; raises ValueError if one is missing or came twice."""
        self.tokens += len(turns)
        for turn, sample in zip(turns, samples, strict=True):
            record = self.turns[turn]
            if sample.reply_index != record.tokens:
                raise ValueError(f"turn {turn}: token {sample.reply_index} is out of order")
            if record.last is None:
                record.first = now
            else:
                self.gaps.append(now - record.last)
            record.last = now
            record.tokens += 1

    def on_steps(self, steps: SteadySteps) -> None:
        """Take the tokens of several steps; raises ValueError if one is missing or came twice."""
        self.tokens += len(steps.tasks) * len(steps.ends)
        for task, replied in zip(steps.tasks, steps.replied, strict=True):
            record = self.turns[task.turn]
            if replied != record.tokens or record.last is None:
                raise ValueError(f"turn {task.turn}: token {replied} is out of order")
            before = (record.last, *steps.ends)
            self.gaps.extend(map(sub, steps.ends, before))
            record.last = steps.ends[-1]
            record.tokens += len(steps.ends)

    def on_end(self, end: End, now: float) -> None:
        """A turn ended; raises ValueError if it had already."""
        record = self.turns[end.turn]
        if record.outcome is not None:
            raise ValueError(f"turn {end.turn} ended twice")
        outcome = end.outcome
        record.cached_len = end.cached_len
        if isinstance(outcome, Completed):
            record.outcome = COMPLETED
            return
        record.outcome = type(outcome).__name__
        self.failed[outcome.reason if isinstance(outcome, Dropped) else outcome.code] += 1
