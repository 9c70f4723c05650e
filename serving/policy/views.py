"""What may a decision look at? Frozen snapshots in seconds, tokens and pages; never queues.

Those of which one is made for every worker and turn are columns, or tuples: these are made in half
the time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from serving.costs.costs import Link, StepModel
from serving.forecast.survival import Survival
from serving.messages import WorkerId


@dataclass(frozen=True, slots=True)
class HomesView:
    """The decode workers as homes for a new session, one entry a worker: [D] each.

    `load` is the tokens that a worker's live turns are expected to hold. `cached_len`: tokens of
    the session's first prompt whose KV its full pages hold. `expected_tokens`, `expected_rows`:
    what its steps will attend to and how many rows they will have, on average over the horizon.
    `step_models[model[i]]` prices the steps of worker i. `peer`: it prefills for others too.
    `draining`: takes no new session.

    `sessions` counts all that workers own, the idle ones too; who is missing owns none.
    `kv_tokens` is what all rows attend to now, 0 unless all workers are peers. `tpot_s` is what the
    turn may take for a token, None if it may take any time.
    """

    workers: Sequence[WorkerId]
    load: NDArray[np.int64]
    turns: NDArray[np.int64]
    capacity: NDArray[np.int64]
    cached_len: NDArray[np.int64]
    expected_tokens: NDArray[np.float64]
    expected_rows: NDArray[np.float64]
    step_models: Sequence[StepModel]
    model: NDArray[np.int64]
    peer: NDArray[np.bool_]
    draining: NDArray[np.bool_]
    sessions: Mapping[WorkerId, int]
    kv_tokens: int
    tpot_s: float | None


# ---- routing ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TurnView:
    """A turn that is to be prefilled now.

    `prompt_len` counts all tokens known (a retry's reply so far included); `number` is 0 for the
    first turn of a session; `waited_s` is the time since it arrived. `ttft_s` and `tpot_s` are its
    targets, None where it has none. `remaining` is the curve of its reply. `arrival_rate` is the
    deployment's turns per second over its window.
    """

    prompt_len: int
    number: int
    waited_s: float
    max_new_len: int
    ttft_s: float | None
    tpot_s: float | None
    remaining: Survival
    arrival_rate: float


@dataclass(frozen=True, slots=True)
class ResidentsView:
    """The rows that decode on a worker, one entry a row: [R] each.

    `expected_len` is the mean number of tokens still to come, `tpot_s` the row's target, nan where
    it has none. `gaps` counts the gaps between tokens that its client has seen, and `gaps_s` what
    they took together.
    """

    expected_len: NDArray[np.float64]
    tpot_s: NDArray[np.float64]
    gaps: NDArray[np.float64]
    gaps_s: NDArray[np.float64]


NOBODY = ResidentsView(*(np.zeros(0) for _ in range(4)))
"""Where nothing decodes; nobody writes to it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerView:
    """The worker that holds a session's KV and will decode its turn.

    As a place for the turn's prefill it has what `PrefillView` has. `itl_s`: mean time between
    tokens over the window, None if nothing was decoded in it.
    """

    worker: WorkerId
    cached_len: int
    fetch_s: float
    queued_s: float
    queued_len: int
    chunk_len: int
    rows: int
    kv_tokens: int
    residents: ResidentsView
    max_rows: int
    pages_available: int
    pages_total: int
    page_size: int
    itl_s: float | None


class PrefillView(NamedTuple):
    """A worker that could prefill a turn for its owner.

    `cached_len`: tokens of this prompt whose KV its full pages hold right now, and `fetch_s` what
    it takes to have back those of them that are in host memory. `queued_s`, `queued_len`: prefill
    work ahead of a new task there. `chunk_len`: most new tokens of one step.
    `residents` are the `rows` that decode there, `kv_tokens` what these attend to together.
    `turns` are assigned to it and not yet prefilled. `ttft_s`: mean time to first token of the
    turns that it prefilled in the window, None if there was none. `link` leads to and from the
    owner.
    """

    worker: WorkerId
    cached_len: int
    fetch_s: float
    queued_s: float
    queued_len: int
    chunk_len: int
    rows: int
    kv_tokens: int
    residents: ResidentsView
    turns: int
    ttft_s: float | None
    link: Link

    @property
    def start_s(self) -> float:
        """When it could begin to compute: behind its queue, with what it fetches."""
        return self.queued_s + self.fetch_s


PlaceView: TypeAlias = OwnerView | PrefillView
"""A worker as a place for a turn's prefill."""


# ---- queue and step -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueuedView:
    """A task in a prefill queue: how long its prefill takes, and when its first token is late.

    `deadline` is on the caller's clock (seconds), inf where the turn has no target. `passed` counts
    how often a task behind it was started before it.
    """

    duration_s: float
    deadline: float
    passed: int


@dataclass(frozen=True, slots=True)
class ChunkView:
    """A task whose prompt is being prefilled: `remaining` new tokens on top of `kv_len`."""

    remaining: int
    kv_len: int


@dataclass(frozen=True, slots=True)
class DecodingView:
    """The rows that decode in the next step.

    `slack_s`: time until the most urgent row's next token is late; inf if no row has a target.
    """

    rows: int
    kv_tokens: int
    slack_s: float


# ---- memory -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GrowingView:
    """The rows whose replies grow on a worker, one entry a row: [R] each.

    `tokens` that it has, the `pages` that it holds for them, and `left`, the most that may come.
    `alive` [R, E] are curves at `EDGES`, drawn `since` tokens ago.
    """

    tokens: NDArray[np.int64]
    pages: NDArray[np.int64]
    left: NDArray[np.int64]
    alive: NDArray[np.float64]
    since: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PoolView:
    """A page pool at admission: pages that could be had, and the tasks that hold some."""

    available: int
    live: int


@dataclass(frozen=True, slots=True)
class PaceView:
    """The step that a row more would make, and the targets of all its rows, None for none.

    `step_s`, `least_s` and `targets` are seconds per token; `least_s` is the step of a row alone.
    A step of rows may take this `share` of their targets: prompts ride beside them.
    """

    step_s: float
    least_s: float
    share: float
    targets: Sequence[float | None]


@dataclass(frozen=True, slots=True)
class HolderView:
    """A task that holds pages. `loss_s`: how long rows would stand still if it lost them, added up.

    `suffices`: whether the others are likely to have pages enough until they end, once it is gone.
    """

    priority: int
    arrived: float
    pages: int
    loss_s: float
    suffices: bool


@dataclass(frozen=True, slots=True)
class AskingView:
    """A task that waits for memory, and would have some of a row's.

    `tokens` it will hold at once, and `left` more are expected to come. `left_s`: seconds until it
    can be started in time no more; it asks once no more than `ask_from_s` of them are left.
    `blocks`: nobody may go before it, because many have.
    """

    priority: int
    tokens: int
    left: float
    left_s: float
    ask_from_s: float
    blocks: bool


@dataclass(frozen=True, slots=True)
class AsideView:
    """A row that decodes and could stand aside for a task that waits for memory.

    It holds `tokens`, and `left` more are expected, which take `left_s`. `again_s`: what it takes
    to have its KV again. `spare_s`: how long it can be away and still meet its target, that
    included. `back_s`: for how long it has been back, or here after a move; inf if its reply began
    here. `late`: it misses a target in any case. `leads`: it is the first in (priority, arrival)
    of those that hold pages.
    """

    priority: int
    tokens: int
    left: float
    left_s: float
    again_s: float
    spare_s: float
    back_s: float
    late: bool
    leads: bool


@dataclass(frozen=True, slots=True)
class ShortageView:
    """The rows that decode on a worker some of which need a page, while none is left.

    `room` [R]: the tokens that each has room for yet; 0 for those that are short. `victim_steps`:
    the steps that rows would lose, all together, if one gave way.
    """

    rows: GrowingView
    room: NDArray[np.int64]
    victim_steps: float


@dataclass(frozen=True, slots=True)
class IdleView:
    """Pages that an idle session left behind: `pages` could be freed, `restore_s` to get them back.

    `returns` is the chance that the session still comes back, `rate` how often keeping them pays,
    per second that they are kept (forecast/returns).
    """

    pages: int
    restore_s: float
    returns: float
    rate: float


# ---- rebalancing --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RebalanceView:
    """All decode workers [D] and the rows on them [R], over a grid of future steps [G].

    `step_models` says what a step costs on each worker. `capacity`: tokens of KV that fit;
    `pinned`: tokens held there that do not decode (prompts that are queued there, or prefilled
    elsewhere for rows there, accepted inbound moves).
    `blank`: tokens of pages with nothing in them; any other that a row takes is evicted there,
    which costs `evict_s` a token in prefill to come. `target_s`: the tightest target of a worker's
    rows in seconds per token, nan where none has one.
    `may_send`, `may_receive`: False while a worker drains, or a move to or from it runs.
    `owner[r]`: index of row r's worker. `kv_len[r]`: tokens it attends to now. `alive[r, g]`: the
    chance that it still decodes `grid[g]` steps from now. `movable[r]`: False while it is moving,
    cooling down after a move, or about to end. `grid[0]` is 0. `was_over`: the workers that
    `overloaded` named at the last look, for its hysteresis.
    """

    workers: tuple[WorkerId, ...]
    step_models: tuple[StepModel, ...]
    capacity: NDArray[np.float64]
    pinned: NDArray[np.float64]
    blank: NDArray[np.float64]
    evict_s: NDArray[np.float64]
    target_s: NDArray[np.float64]
    may_send: NDArray[np.bool_]
    may_receive: NDArray[np.bool_]
    owner: NDArray[np.int64]
    kv_len: NDArray[np.float64]
    alive: NDArray[np.float64]
    movable: NDArray[np.bool_]
    grid: NDArray[np.float64]
    link: Link
    kv_bytes_per_token: int
    was_over: frozenset[WorkerId]
