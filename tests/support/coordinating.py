"""How does a test talk to the coordinator alone? Events in by hand, actions out by kind."""

from collections.abc import Sequence
from typing import Any, TypeVar

from serving.core.coordinator import Coordinator
from serving.core.prefix import chain
from serving.messages import (
    Action,
    Arrived,
    Decision,
    Event,
    PagesChanged,
    PrefillDone,
    Role,
    SampledToken,
    TaskId,
    Tier,
    Tokens,
    ToWorker,
    WorkerId,
    WorkerJoined,
    WorkerMessage,
)
from serving.request import TurnId
from tests.support.shape import Shape
from tests.support.turns import make_turn

T = TypeVar("T", bound=WorkerMessage)


class Desk:
    """A coordinator, its clock, and all that it said."""

    def __init__(self, roles: dict[str, Role], shape: Shape | None = None, **rules: Any) -> None:
        self.shape = shape or Shape(max_model_len=256)
        self.coordinator: Coordinator = self.shape.coordinator(**rules)
        self.now = 0.0
        self.said: list[Action] = []
        for name, role in roles.items():
            self.on(WorkerJoined(WorkerId(name), role, 400))

    def on(self, event: Event) -> list[Action]:
        actions = self.coordinator.on(event, self.now)
        self.said += actions
        return actions

    def arrive(self, name: str, tokens: Sequence[int], **turn: Any) -> list[Action]:
        return self.on(Arrived(make_turn(name, tuple(tokens), **turn)))

    def holds(
        self, worker: str, tokens: Sequence[int], *, tier: Tier = Tier.POOL, start: int = 0
    ) -> None:
        """A worker tells that it holds the full pages of these tokens, from page `start` on."""
        names = chain("", tokens, self.shape.page_size)[1 + start :]
        self.on(PagesChanged(WorkerId(worker), tier, tuple(names), ()))

    def prefilled(self, name: str, worker: str, *, computed: int = 1) -> list[Action]:
        """A turn's first token comes."""
        first = SampledToken(0, 1, None)
        task = TaskId(TurnId(name), 0)
        return self.on(PrefillDone(WorkerId(worker), task, first, computed, None, None, 0.0))

    def token(self, name: str, worker: str, index: int) -> list[Action]:
        task = TaskId(TurnId(name), 0)
        return self.on(Tokens(WorkerId(worker), [task], [SampledToken(index, 1, None)]))

    def told(self, worker: str, kind: type[T]) -> list[T]:
        """What a worker was told so far, of one kind."""
        messages = [a.message for a in self.said if isinstance(a, ToWorker) and a.worker == worker]
        return [message for message in messages if isinstance(message, kind)]

    def decided(self, kind: str) -> list[Decision]:
        return [a for a in self.said if isinstance(a, Decision) and a.kind == kind]
