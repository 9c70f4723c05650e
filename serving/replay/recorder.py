"""What did the client see? Its records are those of simulated turns, so that both compare."""

from array import array
from collections import Counter

from serving.replay.failure import TurnFailed
from serving.replay.reply import Usage
from serving.request import TurnId
from serving.sim.measure import COMPLETED, TurnRecord


class Recorder:
    """The only writer of records. Times in seconds on one clock, lengths in tokens.

    `late` says of every turn how long after its time it was sent. `odd_lengths` counts replies of
    another length than asked for. `messages` has what was said of the first failure of a kind.
    """

    def __init__(self) -> None:
        """Start with no turn."""
        self.turns: list[TurnRecord] = []
        self.gaps = array("d")
        self.late = array("d")
        self.failed: Counter[str] = Counter()
        self.messages: dict[str, str] = {}
        self.odd_lengths = 0
        self.given_up = 0
        self.cached_known = True

    def on_sent(
        self, turn: TurnId, number: int, prompt_len: int, due: float, now: float
    ) -> TurnRecord:
        """A turn was sent that was to be sent at `due`."""
        record = TurnRecord(turn, number, prompt_len, now)
        self.turns.append(record)
        self.late.append(now - due)
        return record

    def on_tokens(self, record: TurnRecord, tokens: int, now: float) -> None:
        """Some tokens came together; none is no news."""
        if not tokens:
            return
        if record.last is None:
            record.first = now
        else:
            self.gaps.append(now - record.last)
        self.gaps.extend([0.0] * (tokens - 1))
        record.last = now
        record.tokens += tokens

    def on_whole(self, record: TurnRecord, usage: Usage | None, asked: int) -> None:
        """A reply is whole; where the server counts lengths, its numbers are the right ones."""
        record.outcome = COMPLETED
        if usage is not None:
            record.prompt_len, record.tokens = usage.prompt, usage.reply
        if usage is None or usage.cached is None:
            self.cached_known = False
        else:
            record.cached_len = usage.cached
        self.odd_lengths += record.tokens != asked

    def on_failure(self, record: TurnRecord, failure: TurnFailed) -> None:
        """A turn gets no whole reply."""
        record.outcome = failure.reason
        self.failed[failure.reason] += 1
        self.messages.setdefault(failure.reason, failure.message)

    def on_given_up(self, turns: int) -> None:
        """Turns will not be sent, because one before them in their session failed."""
        self.given_up += turns
