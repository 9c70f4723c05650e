"""What does the coordinator know of one turn between its arrival and its end?"""

from dataclasses import dataclass, field

from serving.core.sessions import Session
from serving.messages import SampledToken, TaskId, WorkerId
from serving.request import FinishReason, Turn


@dataclass(slots=True, eq=False)
class PendingMove:
    """A turn's row on its way to worker `to`. `overdue`: it was asked to give up already."""

    to: WorkerId
    reason: str
    began: float
    deadline: float
    overdue: bool


@dataclass(slots=True, eq=False)
class LiveTurn:
    """A turn between its arrival and its end.

    `prefill` is the worker prefilling it remotely, `move` the move of its row under way.
    """

    turn: Turn
    session: Session
    arrived: float
    expected_len: int
    tokens: list[int]
    task: TaskId
    owner: WorkerId | None = None
    prefill: WorkerId | None = None
    move: PendingMove | None = None
    queued_len: int = 0
    cached_len: int | None = None
    failures: int = 0
    early: dict[int, SampledToken] = field(default_factory=dict[int, SampledToken])
    finish: tuple[FinishReason, int] | None = None

    @property
    def replied(self) -> int:
        """Reply tokens emitted so far."""
        return len(self.tokens) - self.turn.prompt_len

    @property
    def workers(self) -> list[WorkerId]:
        """The workers that know of its current attempt."""
        to = None if self.move is None else self.move.to
        return [worker for worker in (self.prefill, self.owner, to) if worker is not None]
