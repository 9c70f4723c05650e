"""An engine whose replies you write down: which tokens, in which groups, and how it ends."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from model.sampling import MAX_LOGPROBS
from serving.messages import (
    Completed,
    Deliver,
    Dropped,
    End,
    EngineState,
    LoadReport,
    Outcome,
    Role,
    SampledToken,
    WorkerId,
    WorkerMeans,
    WorkerStatus,
)
from serving.request import FinishReason, TokenLogprobs, Turn, TurnId


@dataclass(frozen=True, slots=True)
class Script:
    """One reply: groups of token ids, each delivered together, then the outcome.

    `outcome` None: as an engine would end these tokens (stop token, else length). `stalls`: after
    the groups nothing comes until the turn is cancelled. `lag` seconds pass before each group.
    """

    groups: Sequence[Sequence[int]]
    outcome: Outcome | None = None
    stalls: bool = False
    lag: float = 0.0
    cached_len: int = 0


def each(ids: Iterable[int]) -> Script:
    """Every token on its own."""
    return Script([[i] for i in ids])


def at_once(ids: Iterable[int]) -> Script:
    """All tokens in one group."""
    return Script([list(ids)])


def logprobs_of(token: int) -> TokenLogprobs:
    """Token t has the log-probability -t/100; the likeliest are it and those above.

    As many as a step scores, however few were wanted: showing only those is the endpoint's part.
    """
    alternatives = [(token + i, -(token + i) / 100) for i in range(MAX_LOGPROBS)]
    return TokenLogprobs(-token / 100, tuple(alternatives))


@dataclass
class FakeReply:
    """What the test wrote down, as the seam wants it."""

    turn: Turn
    script: Script
    items: deque[Deliver | End] = field(default_factory=deque)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    ended: bool = False
    sent: int = 0
    at_end: bool = False

    def __post_init__(self) -> None:
        sampling, count = self.turn.sampling, 0
        outcome = self.script.outcome
        for group in self.script.groups:
            taken = []
            for token in group[: sampling.max_tokens - count]:
                beside = None if sampling.logprobs is None else logprobs_of(token)
                taken.append(SampledToken(count, token, beside))
                count += 1
                if token in sampling.stop_ids and count > sampling.min_tokens:
                    outcome = outcome or Completed(FinishReason.STOP)
                    break
            if taken:
                prompt = self._prompt_logprobs() if not self.items else None
                self.items.append(Deliver(self.turn.id, tuple(taken), prompt))
            if outcome is not None and outcome == Completed(FinishReason.STOP):
                break
        if not self.script.stalls:
            self.items.append(self._end(outcome or Completed(FinishReason.LENGTH), count))

    def _prompt_logprobs(self) -> tuple[TokenLogprobs | None, ...] | None:
        if self.turn.sampling.prompt_logprobs is None:
            return None
        return (None, *(logprobs_of(token) for token in self.turn.tokens[1:]))

    def _end(self, outcome: Outcome, count: int) -> End:
        return End(self.turn.id, outcome, self.turn.prompt_len, count, self.script.cached_len)

    def wake_at_end(self) -> None:
        self.at_end = True
        delivered = [item for item in self.items if isinstance(item, Deliver)]
        ends = [item for item in self.items if isinstance(item, End)]
        rest = tuple(sample for item in delivered for sample in item.samples)
        self.items = deque([Deliver(self.turn.id, rest, None)] if rest and ends else [])
        self.items += ends

    def __aiter__(self) -> "FakeReply":
        return self

    async def __anext__(self) -> Deliver | End:
        if self.ended:
            raise StopAsyncIteration
        if not self.cancelled.is_set():
            await asyncio.sleep(self.script.lag)
            if not self.items:
                await self.cancelled.wait()
        if self.cancelled.is_set():
            self.ended = True
            return self._end(Dropped("cancelled"), self.sent)
        item = self.items.popleft()
        if isinstance(item, End):
            self.ended = True
        else:
            self.sent += len(item.samples)
        return item


class FakeEngine:
    """Answers turn number i with `script(turn)`; remembers turns and cancels."""

    def __init__(self) -> None:
        self.script: Callable[[Turn], Script] = lambda turn: each(b"ok")
        self.state = EngineState.READY
        self.load: Sequence[LoadReport] = ()
        self.fleet: Sequence[WorkerStatus] = ()
        self.role_problem: str | None = None
        self.turns: list[Turn] = []
        self.resets = 0
        self.cancels: list[tuple[TurnId, str]] = []
        self.seconds: list[WorkerMeans] = []
        self.ages: dict[WorkerId, float] = {}
        self._replies: dict[TurnId, FakeReply] = {}

    def submit(self, turn: Turn) -> FakeReply:
        self.turns.append(turn)
        reply = FakeReply(turn, self.script(turn))
        self._replies[turn.id] = reply
        return reply

    def cancel(self, turn: TurnId, reason: str) -> None:
        self.cancels.append((turn, reason))
        if turn in self._replies:
            self._replies[turn].cancelled.set()

    def reset_prefix_cache(self) -> None:
        self.resets += 1

    def reports(self) -> Sequence[LoadReport]:
        return self.load

    def means(self) -> Sequence[WorkerMeans]:
        return self.seconds

    def step_ages(self) -> Mapping[WorkerId, float]:
        return self.ages

    def workers(self) -> Sequence[WorkerStatus]:
        return self.fleet

    def set_role(self, worker: WorkerId, role: Role | None) -> str | None:
        """Every change begins, unless the test has written down a `role_problem`."""
        if self.role_problem is None:
            self.fleet = [
                replace(one, leaving=True, next_role=role) if one.worker == worker else one
                for one in self.fleet
            ]
        return self.role_problem

    @property
    def waits_for_the_end(self) -> list[bool]:
        """Of every turn, whether its reader wants to be woken at the end only."""
        return [self._replies[turn.id].at_end for turn in self.turns]

    @property
    def unfinished(self) -> int:
        """Turns whose reply has not ended."""
        return sum(not reply.ended for reply in self._replies.values())
