"""What does the coordinator know of one turn between its arrival and its end?"""

from bisect import insort
from dataclasses import dataclass, field
from math import inf

from serving.core.sessions import Session
from serving.forecast.forecast import Forecast, Prediction
from serving.forecast.survival import Survival
from serving.messages import SampledToken, Task, TaskId, WorkerId
from serving.request import FinishReason, Slo, Turn

REFRESH_SHARE = 0.125
"""An expected remaining length serves until the reply has grown by this share (ours: it changes
slowly, and every routing decision reads it for every row)."""


@dataclass(slots=True, eq=False)
class PendingMove:
    """A turn's row on its way to worker `to`: the turn's move of this `number`.

    `gain_s` is what the move was predicted to gain. It is `booked` at that worker until that one is
    lost. `called_back`: why the source was last asked to keep the row, if it was. `overdue`: it was
    once for being late.
    """

    number: int
    to: WorkerId
    reason: str
    gain_s: float
    began: float
    deadline: float
    booked: bool = True
    called_back: str | None = None
    overdue: bool = False


@dataclass(slots=True, eq=False)
class LiveTurn:
    """A turn between its arrival and its end.

    `prefill` is the worker prefilling it remotely, `sender` the one whose pages its owner has yet
    to take, `move` the move of its row under way; `moves` counts all that were begun. `names` are
    the chained names of its prompt's pages. `slo` are the targets that count. `curve` is the
    forecast of the reply tokens that come after the first `curve_from`: of past replies, until the
    length head's first `forecast`. `predictions` are all that it said. `computed` counts positions
    that former attempts ran through the model: what is found of them was not cached before.
    `untold` are the sources of its row, which told, or are still to tell, so many reply tokens.
    `resumes_at` is the place in the reply of the first token to come from where it moved to, out of
    `resumes_from`.
    """

    turn: Turn
    session: Session
    arrived: float
    tokens: list[int]
    names: list[bytes]
    slo: Slo
    curve: Survival
    expected_len: int
    task: TaskId
    prompt_len: int
    curve_from: int = 0
    forecast: Forecast | None = None
    predictions: list[Prediction] = field(default_factory=list[Prediction])
    owner: WorkerId | None = None
    prefill: WorkerId | None = None
    sender: WorkerId | None = None
    move: PendingMove | None = None
    moves: int = 0
    decoding: bool = False
    queued_at: WorkerId | None = None
    computed: int = 0
    cached_len: int | None = None
    predicted_ttft_s: float | None = None
    first_at: float | None = None
    last_at: float | None = None
    moved_at: float = -inf
    untold: dict[WorkerId, int] = field(default_factory=dict[WorkerId, int])
    resumes_at: int | None = None
    resumes_from: WorkerId | None = None
    failures: int = 0
    early: dict[int, SampledToken] = field(default_factory=dict[int, SampledToken])
    finish: tuple[FinishReason, int] | None = None
    _expected_left: float = 0.0
    _refresh_at: int = -1

    @property
    def replied(self) -> int:
        """Reply tokens emitted so far."""
        return len(self.tokens) - self.prompt_len

    @property
    def due(self) -> float:
        """When its first token is late; inf without a target."""
        return inf if self.slo.ttft_s is None else self.arrived + self.slo.ttft_s

    @property
    def gaps_s(self) -> float:
        """Seconds from the reply's first token to its last so far."""
        if self.first_at is None or self.last_at is None:
            return 0.0
        return self.last_at - self.first_at

    @property
    def max_new_len(self) -> int:
        """The most reply tokens still to come."""
        return self.turn.sampling.max_tokens - self.replied

    @property
    def at_owner(self) -> bool:
        """Whether its row decodes, and at its owner: no pages of its prompt are still to come."""
        return self.decoding and self.sender is None

    @property
    def since_curve(self) -> int:
        """Reply tokens emitted since the curve's place; a reading may overtake its tokens."""
        return max(0, self.replied - self.curve_from)

    @property
    def workers(self) -> list[WorkerId]:
        """The workers that know of its current attempt."""
        to = None if self.move is None else self.move.to
        return [worker for worker in (self.prefill, self.owner, to) if worker is not None]

    @property
    def expected_left(self) -> float:
        """The mean number of reply tokens still to come, a little stale."""
        replied = self.replied
        if replied >= self._refresh_at:
            left = self.curve.after(self.since_curve).expected()
            self._expected_left = min(left, self.max_new_len)
            self._refresh_at = replied + 1 + int(replied * REFRESH_SHARE)
        return self._expected_left

    def foresee(self, forecast: Forecast) -> None:
        """Take a reading of the length head; of two workers' readings the later place counts.

        Who goes on with a reply may tell once more what was said of it before.
        """
        if forecast.prediction in self.predictions:
            return
        insort(self.predictions, forecast.prediction)
        if self.forecast is not None and forecast.generated < self.forecast.generated:
            return
        self.forecast = forecast
        self.curve, self.curve_from = forecast.curve, forecast.generated
        self._expected_left = forecast.prediction.mean
        self._refresh_at = forecast.generated + 1 + int(forecast.generated * REFRESH_SHARE)

    def make_task(self) -> Task:
        """Make the work of the current attempt out of the tokens emitted so far."""
        remaining = self.curve.after(self.since_curve).capped(self.max_new_len)
        return Task(
            id=self.task,
            turn=self.turn,
            session=self.session.id,
            tokens=tuple(self.tokens),
            replied=self.replied,
            arrived=self.arrived,
            slo=self.slo,
            remaining=remaining,
            forecast=self.forecast,
            names=tuple(self.names),
            first_at=self.first_at,
            session_turns=self.session.turns,
        )


def open_turn(
    turn: Turn, session: Session, now: float, *, names: list[bytes], slo: Slo, curve: Survival
) -> LiveTurn:
    """Start the record of a turn that arrives; `curve` is of a reply that nothing cuts off.

    `names` are those of its prompt's pages, `slo` the targets that count.
    """
    most = turn.sampling.max_tokens
    curve = curve.capped(most)
    return LiveTurn(
        turn=turn,
        session=session,
        arrived=now,
        tokens=list(turn.tokens),
        names=names,
        slo=slo,
        curve=curve,
        expected_len=turn.prompt_len + min(most, round(curve.expected())),
        task=TaskId(turn.id, 0),
        prompt_len=turn.prompt_len,
    )
