"""Which facts and commands cross a boundary? Every event and action, as small serialisable values.

The table with senders and receivers stands in ARCHITECTURE.md. A *task* is one attempt at the work
of a turn: a retry (preemption, lost worker) gets a new attempt number, so a late message of an
earlier attempt is recognised and dropped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto
from typing import NamedTuple, NewType

from serving.forecast.forecast import Forecast, Prediction, Stated
from serving.forecast.survival import Survival
from serving.request import FinishReason, SessionId, Slo, TokenLogprobs, Turn, TurnId

WorkerId = NewType("WorkerId", str)


class Role(StrEnum):
    """What a worker does. `BOTH` prefills and decodes on one mesh (the colocated mode)."""

    PREFILL = "prefill"
    DECODE = "decode"
    BOTH = "both"


class EngineState(StrEnum):
    """Whether turns are taken; a state only ever moves down this list."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


class TaskId(NamedTuple):
    """One attempt at one turn."""

    turn: TurnId
    attempt: int


class TransferId(NamedTuple):
    """One batch of pages on its way; `number` counts within the sending worker."""

    sender: WorkerId
    number: int


@dataclass(frozen=True, slots=True)
class Task:
    """The work of one attempt: all tokens known so far, of which the last `replied` are reply.

    `arrived` is the turn's first arrival (seconds): age, not the attempt, decides who is served and
    who is preempted. `slo` holds the targets that count for it, the configured ones where the
    client set none. `remaining` is the curve of the reply tokens still to come; `forecast` what the
    length head said last, if it has been read. `names` are the first of its pages' chained names,
    as far as they are known (core/prefix): they take long to work out. `first_at` is when its
    client got its first token (seconds), None if there is none yet. `session_turns` counts the
    turns of its session so far, this one among them.
    """

    id: TaskId
    turn: Turn
    session: SessionId
    tokens: tuple[int, ...]
    replied: int
    arrived: float
    slo: Slo
    remaining: Survival
    forecast: Forecast | None = None
    names: tuple[bytes, ...] = ()
    first_at: float | None = None
    session_turns: int = 1


# ---- to the coordinator -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arrived:
    """A client's turn.

    `accepted`: it belongs to a request whose first turn was taken, so neither a drain nor a full
    queue refuses it any more.
    """

    turn: Turn
    accepted: bool = False


STOPPED = "stopped"
"""The reason of a `Cancelled` turn whose text reached a stop string: for its client it is whole."""
SHUTDOWN = "shutdown"
"""The reason of a `Cancelled` turn that ran on when the grace of a drain was over."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The client left, or the text layer found a stop string: nothing more is wanted.

    `kept` counts the reply tokens that the client will show in the next turn's history.
    """

    turn: TurnId
    reason: str
    kept: int


class SampledToken(NamedTuple):
    """One sampled token: its place in the reply (0 is the first) and what was asked beside it."""

    reply_index: int
    token: int
    logprobs: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class PrefillDone:
    """A prefill worker has computed a task's prompt and sampled its first new token.

    `computed` counts the positions that were run through the model for it; the rest was cached.
    `prefill_s`: from its admission at this worker, where it had waited before, to the token.
    `forecast` is the length head's reading at the end of the prompt, where there is a head.
    """

    worker: WorkerId
    task: TaskId
    first: SampledToken
    computed: int
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None
    finish: FinishReason | None
    prefill_s: float
    forecast: Forecast | None = None


class Tokens(NamedTuple):
    """What one decode step produced: `tasks[i]` sampled `samples[i]`.

    `forecasts` are the length head's readings in this step, each with its task.
    """

    worker: WorkerId
    tasks: Sequence[TaskId]
    samples: Sequence[SampledToken]
    forecasts: Sequence[tuple[TaskId, Forecast]] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A task's reply of `reply_len` tokens ended on its worker, which reported them all before."""

    worker: WorkerId
    task: TaskId
    reason: FinishReason
    reply_len: int


@dataclass(frozen=True, slots=True)
class Adopted:
    """A worker has a task's whole KV and decodes it from now on: a hand-off or a move is done.

    `reply` are the turn's reply tokens so far: those that the source told last may be lost with it.
    `move` is the number of the move, None for a hand-off.
    """

    worker: WorkerId
    task: TaskId
    reply: tuple[int, ...]
    move: int | None


@dataclass(frozen=True, slots=True)
class MoveGoesOn:
    """The destination of a task's move number `move` has made room, or has taken pages.

    The source says so: as long as it does, the move is not overdue.
    """

    worker: WorkerId
    task: TaskId
    move: int


@dataclass(frozen=True, slots=True)
class MoveFailed:
    """The source of a task's move number `move` gave it up: the row decodes there as before."""

    worker: WorkerId
    task: TaskId
    move: int
    reason: str


NOT_FINITE = "not_finite"
"""Why a turn is refused, and fails, whose model computed NaN or an infinity for it."""
DEAD_END = "grammar_dead_end"
"""Why a turn is refused, and fails, whose grammar leaves no token to go on with."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A worker will not go on with a task, and holds nothing for it any more.

    `reason`: preempted, transfer_failed, worker_lost; timeout if it was granted room and never
    came; for a task that was to move there: busy, no_room; and moved_away from a source that has
    let go of it. The coordinator decides again, except for `NOT_FINITE` and `DEAD_END`, which end
    the turn: it would come to the same the next time. `computed` counts the positions that were run
    through the model for it.
    """

    worker: WorkerId
    task: TaskId
    reason: str
    computed: int = 0


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a worker holds right now, in its own numbers.

    `pages_promised` are set aside, out of those cached or free, for rows that have yet to grow;
    `pages_on_host` counts copies of pages in host memory. `unreadable` readings of the length head
    were no numbers; `tilt` is by how much its curves are shifted, from how they held here. Evicting
    a page is expected to cost `page_loss_s` seconds of prefill to come (policy/evict). A step of
    rows may take the share `pace` of what they may take for a token (core/pace).
    """

    worker: WorkerId
    waiting: int
    running: int
    pages_used: int
    pages_cached: int
    pages_free: int
    pages_promised: int
    pages_on_host: int
    waiting_tokens: int
    unreadable: int = 0
    tilt: float = 0.0
    page_loss_s: float = 0.0
    pace: float = 1.0


class WorkerMeans(NamedTuple):
    """What the policies see of a worker's last seconds; None where nothing happened.

    `ttft_s`: mean time to first token of turns prefilled there. `itl_s`: mean time between two
    tokens of rows that decode there.
    """

    worker: WorkerId
    ttft_s: float | None
    itl_s: float | None


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as operators see it.

    `leaving`: it takes no new work, and becomes `next_role`, or nothing, once it has none left.
    `turns` are those that it owns or is about to; `tokens` what these are expected to hold, out of
    `capacity`.
    """

    worker: WorkerId
    role: Role
    leaving: bool
    next_role: Role | None
    turns: int
    tokens: int
    capacity: int


class StepTime(NamedTuple):
    """How long a step of `rows` decode rows and `new_len` prompt tokens took, and was to take.

    `held_back`: prompt tokens that had room in it and were left out for the rows' sake.
    """

    rows: int
    new_len: int
    held_back: int
    predicted_s: float
    observed_s: float


@dataclass(frozen=True, slots=True)
class StepsTimed:
    """A worker's last steps; predictions are the latency model's own, before any correction.

    `corrected_s` and `error` are what was believed of the last of them, once the steps before it
    had corrected the model: its time, and the relative standard deviation of that.
    """

    worker: WorkerId
    steps: tuple[StepTime, ...]
    corrected_s: float
    error: float


class Tier(Enum):
    """Where a worker keeps pages: in its pool on the device, or in host memory."""

    POOL = auto()
    HOST = auto()


@dataclass(frozen=True, slots=True)
class PagesChanged:
    """Which full pages can be found at a worker has changed: names that came, names that went."""

    worker: WorkerId
    tier: Tier
    added: tuple[bytes, ...]
    removed: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A worker is warm and takes work. `capacity` is its pool in tokens.

    `timed`: what steps of several sizes took as it warmed up; none if nobody looked.
    """

    worker: WorkerId
    role: Role
    capacity: int
    timed: Sequence[StepTime] = ()


@dataclass(frozen=True, slots=True)
class WorkerLost:
    """A worker and everything it held are gone; its peers are told as well.

    `overdue_s`: it was given up because it had owed a step for so long (seconds); None: it broke.
    """

    worker: WorkerId
    overdue_s: float | None = None


@dataclass(frozen=True, slots=True)
class SetRole:
    """A worker is to take another role, or with None no work at all, once it has none left."""

    worker: WorkerId
    role: Role | None


@dataclass(frozen=True, slots=True)
class MoveWanted:
    """A turn that decodes should go on at another worker; of no effect if it cannot."""

    turn: TurnId
    to: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed; deadlines are looked at."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new turns; finish those that run."""


Event = (
    Arrived
    | Cancelled
    | PrefillDone
    | Tokens
    | Finished
    | Adopted
    | MoveGoesOn
    | MoveFailed
    | Refused
    | LoadReport
    | StepsTimed
    | PagesChanged
    | MoveWanted
    | SetRole
    | WorkerJoined
    | WorkerLost
    | Tick
    | Drain
)

# ---- from the coordinator to a worker -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prefill:
    """Prefill a task. With an `owner` its pages go there; without one the worker decodes it too.

    `pull`: history that the owner holds and the worker lacks is fetched, not computed. Without
    `reuse` the worker's own pages do not count either. Unless it `waits`, it is refused where there
    is no room for it once its owner has granted: two workers that prefill for each other would else
    wait for each other's memory.
    """

    task: Task
    owner: WorkerId | None
    pull: bool
    reuse: bool
    waits: bool = True


@dataclass(frozen=True, slots=True)
class Decode:
    """Make room for a task whose KV comes from `source`, and decode it from there on.

    With `move` it decodes at `source` now and moves here, which must be possible at once: the
    turn's move of that number. Without `reuse` nothing held here counts: all of the KV is to be
    sent.
    """

    task: Task
    source: WorkerId
    move: int | None
    reuse: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """Forget a task now, whatever its state."""

    task: TaskId


@dataclass(frozen=True, slots=True)
class MoveOut:
    """Move a row that decodes here to worker `to`, which has been told to make room for it.

    `move` numbers the moves of a turn: what is left of one that failed counts for no later one.
    """

    task: TaskId
    to: WorkerId
    move: int


@dataclass(frozen=True, slots=True)
class MoveAbort:
    """Give up a move unless it is past its stop; answered by `MoveFailed` or `Refused`.

    `reason`: what the destination refused the row for (`Refused`), worker_lost, or timeout.
    """

    task: TaskId
    move: int
    reason: str


# ---- between workers ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Granted:
    """The owner has reserved room; it already holds the KV of the first `held_len` tokens.

    `move` is the number of the move that it takes part in, None for a hand-off after prefill.
    """

    task: TaskId
    owner: WorkerId
    held_len: int
    move: int | None


@dataclass(frozen=True, slots=True)
class PullRequested:
    """The prefill worker asks the owner for the KV of a task's tokens [start, stop)."""

    task: TaskId
    to: WorkerId
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class PagesReady:
    """Pages `first_page` ... of a task, heard of when they have come; KV is valid up to `stop`.

    `reply` is set on the last batch: the turn's whole reply so far. Decode goes on from its last
    token, or, with `finish`, the reply is over and the pages are only kept for the next turn.
    `move` is the number of the move that they belong to, None for a hand-off or a pull.
    `forecast` comes with the reply: what the length head said last. `stated` comes with a row that
    moves: the 90 % quantiles that were stated of it. `computed`: the steps that fill them are over,
    so that nothing but their copy is left.
    """

    task: TaskId
    transfer: TransferId
    first_page: int
    num_pages: int
    stop: int
    reply: tuple[int, ...] | None
    finish: FinishReason | None
    move: int | None
    forecast: Forecast | None = None
    stated: tuple[Stated, ...] = ()
    computed: bool = False


@dataclass(frozen=True, slots=True)
class Ack:
    """The receiver has taken, or will never take, a transfer: its sender may free the pages."""

    worker: WorkerId
    task: TaskId
    transfer: TransferId


@dataclass(frozen=True, slots=True)
class LastStep:
    """A row that moves rides in no step more: what the last one samples is told in `in_s` seconds.

    A forecast; the move may still be given up.
    """

    task: TaskId
    move: int
    in_s: float


@dataclass(frozen=True, slots=True)
class TransferFailed:
    """A transfer for a task broke.

    Its sender is told, or its receiver in place of `PagesReady`: pages that are announced arrive.
    """

    task: TaskId
    transfer: TransferId
    reason: str


@dataclass(frozen=True, slots=True)
class DropCached:
    """Forget every page that no task holds: the operator wants what comes to be computed anew."""


WorkerMessage = (
    Prefill
    | Decode
    | Cancel
    | MoveOut
    | MoveAbort
    | Granted
    | PullRequested
    | PagesReady
    | Ack
    | LastStep
    | TransferFailed
    | WorkerLost
    | DropCached
    | Tick
)

# ---- from the coordinator to the driver ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ToWorker:
    """Deliver `message` to `worker`."""

    worker: WorkerId
    message: WorkerMessage


class Emit(NamedTuple):
    """Hand one step's tokens to the clients: `samples[i]` goes to `turns[i]`, in order, once."""

    turns: Sequence[TurnId]
    samples: Sequence[SampledToken]


@dataclass(frozen=True, slots=True)
class EmitPrompt:
    """Hand the prompt's log-probabilities to a client that asked for them, before any token."""

    turn: TurnId
    logprobs: tuple[TokenLogprobs | None, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """What has gathered for one client since it last looked: tokens in order, none twice.

    `prompt_logprobs` comes once, with the first tokens, when the turn asked for it.
    """

    turn: TurnId
    samples: tuple[SampledToken, ...]
    prompt_logprobs: tuple[TokenLogprobs | None, ...] | None


@dataclass(frozen=True, slots=True)
class Completed:
    """The reply is whole."""

    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Rejected:
    """Nothing was computed; `code` is queue_full, draining, queue_timeout or too_long."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The turn could not be finished; `code` is no_decode_capacity, engine_dead or not_finite."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Dropped:
    """The client no longer wanted it."""

    reason: str


Outcome = Completed | Rejected | Failed | Dropped


@dataclass(frozen=True, slots=True)
class End:
    """The one terminal message of a turn.

    `cached_len` counts prompt tokens that were not computed. `predictions` is what the length head
    said of the reply on the way, by place.
    """

    turn: TurnId
    outcome: Outcome
    prompt_len: int
    reply_len: int
    cached_len: int
    predictions: Sequence[Prediction] = ()


Detail = str | float | int | bool | None | Sequence["Detail"] | Mapping[str, "Detail"]
"""What a record of the decision log may hold: whatever JSON can."""


COSTS = "costs"
"""The kind of the decision that says that predicted step times are wrong beyond correction."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision and its reason, or what became of one, for metrics and the decision log.

    It comes from the coordinator, or from the worker that decided by itself. `turn` and `session`
    are None where a worker is concerned. `details` hold what was known: predictions beside
    alternatives for a choice, what was observed beside what was predicted.
    """

    kind: str
    turn: TurnId | None
    session: SessionId | None
    choice: str
    reason: str
    details: Mapping[str, Detail]


Action = ToWorker | Emit | EmitPrompt | End | Decision
