"""What does a worker know of one task? Its stage, its pages, and how far its KV reaches.

Stages, and what moves a task on:

    prefilled here, decoded here      WAITING -> FETCHING? -> PREFILL -> DECODE -> GONE
                                      (admitted)  (pages came from host memory)
    prefilled here, decoded elsewhere EXPECTING -> WAITING -> PULLING? -> PREFILL -> SENDING -> GONE
                                      (granted)  (admitted)  (pages came)  (last chunk)  (acks)
    prefilled elsewhere, decoded here WAITING -> GRANTED -> DECODE -> GONE
                                      (admitted)  (last pages and first token came)
    moved here                        GRANTED -> DECODE -> GONE
    moved away                        DECODE -> SENDING -> GONE
                                      (stopped, last pages sent)  (acks)

Whoever was admitted, but a row that moves, may have to fetch first (FETCHING).

Positions of the tokens:  [0 .. matched_len .. sound_len .. kv_len .. len(tokens)]
    below matched_len  KV was in the pool when the task was admitted
    below sound_len    KV is in the task's pages and known to be good: others may find it
    below kv_len       KV is on its way, or is being written by a step already launched
    the rest           still to be run through the model

`unacked` are the transfers sent whose receiver has said nothing, `taken` those that came.
`unsure_from` is set while KV from that position on may turn out to be no numbers, or not to come.
`passed` counts the tasks behind it in the queue that were started before it; `started_at` is when
it was admitted itself (seconds), `kept_out` whether it waited for the rows' pace before. Unless it
`waits` it is admitted at once or never. `back_by` is set while a reply under way waits with time to
spare: then it has to be started (seconds). It decodes here `since` that time, when it had so many
reply tokens. `on_host` are the names and host slots of pages that its admission found beyond the
pool's own and that are yet to be asked for, `asked_len` up to where they have been.
`forecast` is the last reading of the length head, `stated` the 90 % quantiles that workers where
it decoded have stated.
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from math import inf

from serving.core.prefix import chain_on, extend, root
from serving.forecast.forecast import Forecast, Stated
from serving.forecast.survival import Survival
from serving.messages import Decode, Prefill, Task, TransferId, WorkerId
from serving.request import TokenLogprobs


class Stage(Enum):
    """Where a task stands on this worker."""

    EXPECTING = auto()
    WAITING = auto()
    FETCHING = auto()
    PULLING = auto()
    PREFILL = auto()
    SENDING = auto()
    GRANTED = auto()
    DECODE = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A transfer dispatched whose announcement waits for the first token."""

    transfer: TransferId
    first_page: int
    num_pages: int


@dataclass(slots=True, eq=False)
class WorkerTask:
    """One task on one worker.

    `owner` is set if it is decoded elsewhere from here on, `source` if its KV comes from elsewhere.
    `move` is the number of the move by which it comes, or leaves.
    """

    task: Task
    stage: Stage
    owner: WorkerId | None
    source: WorkerId | None
    prompt_len: int
    tokens: list[int]
    names: list[bytes]
    pages: list[int] = field(default_factory=list[int])
    slot: int | None = None
    matched_len: int = 0
    kv_len: int = 0
    unsure_from: int | None = None
    computed: int = 0
    named_pages: int = 0
    passed: int = 0
    deferred: bool = False
    kept_out: bool = False
    back_by: float | None = None
    started_at: float = 0.0
    since: tuple[float, int] = (0.0, 0)
    on_host: deque[tuple[bytes, int]] = field(default_factory=deque[tuple[bytes, int]])
    asked_len: int = 0
    held_len: int = 0
    sent_pages: int = 0
    move: int | None = None
    reuse: bool = True
    pull: bool = True
    waits: bool = True
    unannounced: Outgoing | None = None
    taken: set[TransferId] = field(default_factory=set[TransferId])
    unacked: set[TransferId] = field(default_factory=set[TransferId])
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list[TokenLogprobs])
    forecast: Forecast | None = None
    stated: list[Stated] = field(default_factory=list[Stated])

    @property
    def replied(self) -> int:
        """Reply tokens known so far."""
        return len(self.tokens) - self.prompt_len

    @property
    def is_unread(self) -> bool:
        """Whether it decodes here, and the first token that it sampled here is yet to be read."""
        return self.stage is Stage.DECODE and self.replied < self.since[1]

    @property
    def due(self) -> float:
        """When it has to be started: inf without a target.

        Else when its turn's first token is late, or by when a reply has to go on that can wait.
        """
        if self.back_by is not None:
            return self.back_by
        ttft_s = self.task.slo.ttft_s
        return inf if ttft_s is None else self.task.arrived + ttft_s

    @property
    def urgent(self) -> bool:
        """Whether it goes before all prompts: a reply under way whose client waits for the next."""
        return self.task.replied > 0 and self.back_by is None

    @property
    def queued_from(self) -> float:
        """What its age in a queue counts from: with equal targets, who is due first is first."""
        if self.back_by is None:
            return self.task.arrived
        return self.back_by - (self.task.slo.ttft_s or 0.0)

    @property
    def began_at(self) -> float:
        """When its reply's first token came; of a row whose reply began here as that was told."""
        return self.since[0] if self.task.first_at is None else self.task.first_at

    @property
    def sound_len(self) -> int:
        """Up to where the KV is known to be good."""
        return self.kv_len if self.unsure_from is None else self.unsure_from

    @property
    def remaining(self) -> Survival:
        """The curve of the reply tokens still to come: a head's if it was read, else the task's."""
        curve, since = self.curve
        return curve.after(since)

    @property
    def curve(self) -> tuple[Survival, int]:
        """That curve as it was drawn last, and the tokens that have come since."""
        if self.forecast is not None:
            return self.forecast.curve, self.replied - self.forecast.generated
        return self.task.remaining, self.replied - self.task.replied

    @property
    def decodes_here(self) -> bool:
        """Whether its pages grow on this worker."""
        return self.owner is None

    @property
    def scores_prompt(self) -> bool:
        """Whether the whole prompt must be run for its log-probabilities, cached or not."""
        return self.task.turn.sampling.prompt_logprobs is not None and self.task.replied == 0

    @property
    def may_reuse(self) -> bool:
        """Whether KV that is here counts: a prompt that is scored here is run as a whole."""
        return self.reuse and not (self.scores_prompt and self.source is None)

    def name_of_page(self, index: int, page_size: int) -> bytes:
        """Name the task's page `index`, which must be full of known tokens."""
        while len(self.names) <= index + 1:
            start = (len(self.names) - 1) * page_size
            self.names.append(extend(self.names[-1], self.tokens[start : start + page_size]))
        return self.names[index + 1]


def open_task(message: Prefill | Decode, page_size: int) -> WorkerTask:
    """Start the record of a task that has just arrived at a worker."""
    task = message.task
    opened = WorkerTask(
        task=task,
        stage=Stage.EXPECTING,
        owner=message.owner if isinstance(message, Prefill) else None,
        source=message.source if isinstance(message, Decode) else None,
        prompt_len=task.turn.prompt_len,
        tokens=list(task.tokens),
        names=chain_on(task.names or (root(task.turn.salt),), task.tokens, page_size),
        reuse=message.reuse,
    )
    opened.pull = isinstance(message, Prefill) and message.pull
    opened.waits = not isinstance(message, Prefill) or message.waits
    opened.move = message.move if isinstance(message, Decode) else None
    opened.forecast = task.forecast
    return opened
