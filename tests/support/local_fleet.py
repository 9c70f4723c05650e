"""The real coordinator, batchers and executors, driven round by round in one thread.

No event loop and no threads: `run` gives every worker a round in turn until all turns have ended,
so a test sees every state between rounds. The clock counts rounds.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from predictor.reading import Reader
from serving.core.batcher import Batcher
from serving.core.coordinator import Coordinator
from serving.core.limits import BatcherLimits
from serving.core.rules import CoordinatorLimits, CoordinatorRules
from serving.core.sessions import Sessions
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.executor_protocol import Executor
from serving.engine.worker import Leaving, Moved, Worker
from serving.messages import (
    Arrived,
    Cancelled,
    Decision,
    Emit,
    EmitPrompt,
    End,
    Event,
    Role,
    SampledToken,
    ToWorker,
    WorkerId,
    WorkerJoined,
)
from serving.policy.aside import AsideConfig
from serving.request import SamplingParams, SessionId, Slo, TokenLogprobs, Turn, TurnId
from tests.support.rules import batcher_rules
from tests.support.sharp_lengths import SharpLengths

MAX_ROUNDS = 20_000


def sampling(max_tokens: int, **changes) -> SamplingParams:
    """Greedy sampling without any extra, but for the changes."""
    neutral = {
        "min_tokens": 0,
        "temperature": 0.0,
        "top_k": None,
        "top_p": 1.0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "logit_bias": (),
        "allowed_ids": None,
        "stop_ids": (),
        "seed": 0,
        "logprobs": None,
        "prompt_logprobs": None,
        "grammar": None,
    }
    return SamplingParams(max_tokens=max_tokens, **{**neutral, **changes})


def turn(
    name: str, tokens: Sequence[int], wanted: SamplingParams, session: SessionId | None = None
):
    """A turn of the default tenant."""
    return Turn(TurnId(name), session, tuple(tokens), wanted, Slo(None, None), 0, "")


@dataclass
class Answer:
    """What a client has received."""

    samples: list[SampledToken] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
    ends: list[End] = field(default_factory=list)

    @property
    def tokens(self) -> tuple[int, ...]:
        """The reply's token ids."""
        return tuple(sample.token for sample in self.samples)


class LocalFleet:
    """`executors[worker]` is an executor with its role; they share `connector`.

    Every reply is forecast to have `forecast` tokens. With `reader` every step's length head is
    read.
    """

    def __init__(
        self,
        executors: dict[WorkerId, tuple[Role, Executor]],
        connector: InProcessConnector,
        limits: BatcherLimits,
        rules: CoordinatorRules,
        forecast: int,
        reader: Reader | None = None,
    ) -> None:
        self.now = 0.0
        self.answers: dict[TurnId, Answer] = {}
        self.decisions: list[Decision] = []
        self.moved_bytes = 0
        self.workers: dict[WorkerId, Worker] = {}
        self.coordinator = Coordinator(
            CoordinatorLimits(limits.max_model_len, limits.page_size, 1000, None, 3, 1e9),
            rules,
            Sessions(max_sessions=100, ttl_s=1e9, page_size=limits.page_size),
            SharpLengths(forecast),
        )
        for name, (role, executor) in executors.items():
            batcher = Batcher(
                name, limits, replace(batcher_rules(stand_aside=AsideConfig()), reader=reader)
            )
            self.workers[name] = Worker(batcher, executor, connector, self.post, self.clock)
            capacity = limits.num_pages * limits.page_size
            self.give(WorkerJoined(name, role, capacity))

    def clock(self) -> float:
        """Rounds so far."""
        return self.now

    def post(self, leaving: Sequence[Leaving]) -> None:
        """Deliver at once, in order."""
        for item in leaving:
            match item:
                case ToWorker(worker, message):
                    self.workers[worker].deliver(message)
                case Moved(_, _, num_bytes):
                    self.moved_bytes += num_bytes
                case Decision():
                    self.decisions.append(item)
                case _:
                    self.give(item)

    def give(self, event: Event) -> None:
        """Give the coordinator an event and carry its actions out."""
        for action in self.coordinator.on(event, self.now):
            match action:
                case ToWorker(worker, message):
                    self.workers[worker].deliver(message)
                case Emit(turns, samples):
                    for name, sample in zip(turns, samples, strict=True):
                        self.answers[name].samples.append(sample)
                case EmitPrompt(name, logprobs):
                    self.answers[name].prompt_logprobs = logprobs
                case End(name):
                    self.answers[name].ends.append(action)
                case Decision():
                    self.decisions.append(action)

    def submit(self, one: Turn) -> Answer:
        """Start a turn."""
        answer = self.answers[one.id] = Answer()
        self.give(Arrived(one))
        return answer

    def cancel(self, name: TurnId) -> None:
        """Stop a turn."""
        self.give(Cancelled(name, "test", len(self.answers[name].samples)))

    def run(self, each_round: Callable[[], None] | None = None) -> None:
        """Go on until every turn has ended and every worker is idle, checking all accounts."""
        for _ in range(MAX_ROUNDS):
            self.now += 1.0
            worked = [worker.round() for worker in list(self.workers.values())]
            for worker in self.workers.values():
                worker.batcher.check()
            if each_round is not None:
                each_round()
            if not any(worked) and all(answer.ends for answer in self.answers.values()):
                return
        raise AssertionError("the fleet makes no progress")

    def ask(self, one: Turn) -> Answer:
        """Run a turn to its end."""
        answer = self.submit(one)
        self.run()
        return answer
