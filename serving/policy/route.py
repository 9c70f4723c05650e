"""Who prefills a turn's new tokens: its owner, or a prefill worker? What an answer looks like.

The rules that give it stand in `foretoken` and `baselines/`, by name in `routes`. All of them share
one signature, so that they can be compared by changing one word.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import NamedTuple, TypeAlias

from serving.config import require
from serving.costs.costs import Costs
from serving.messages import WorkerId
from serving.policy.ppd_table import PpdTable
from serving.policy.views import OwnerView, PrefillView, TurnView

LOCAL = "local"
"""The `choice` of an option in which the owner prefills."""


class History(StrEnum):
    """How a prefill worker gets the KV of the prompt's beginning."""

    CACHED = "cached_there"
    """It holds at least as much as the owner does."""
    PULL = "pull_from_owner"
    """It fetches what the owner holds and it lacks."""
    RECOMPUTE = "recompute"
    """It computes all that it does not hold itself; also where nobody holds anything."""


class RouteReason(StrEnum):
    """Why a turn went where it went; each policy uses a few of them. They label metrics."""

    NO_PREFILL_WORKER = "no_prefill_worker"  # every policy
    # foretoken
    LOCAL_FASTEST = "local_fastest"
    REMOTE_FASTEST = "remote_fastest"
    RESIDENTS_HARMED = "residents_harmed"
    OWNER_PAGES = "owner_pages"
    SAVES_TARGET = "saves_target"
    PEERS_BUSY = "peers_busy"
    # the owner's KV alone decides (local, ppd)
    FIRST_TURN = "first_turn"
    HISTORY_LOST = "history_lost"
    HISTORY_HELD = "history_held"
    # replicas, pd-full, pd-delta
    COLOCATED = "colocated"
    ALWAYS_REMOTE = "always_remote"
    # ppd
    BYPASS = "bypass"
    UNKNOWN_CELL = "unknown_cell"
    SCORE_LOCAL = "score_local"
    SCORE_REMOTE = "score_remote"
    # threshold
    OWNER_BUSY = "owner_busy"
    FEW_UNCACHED = "few_uncached"
    MANY_UNCACHED = "many_uncached"
    PREFILL_BUSY = "prefill_busy"
    # ampd
    PREFILL_SLACK = "prefill_slack"
    OWNER_SLACK = "owner_slack"
    LESS_TIME_LOCAL = "less_time_local"
    LESS_TIME_REMOTE = "less_time_remote"


class Option(NamedTuple):
    """One alternative with its price, for the decision log.

    `choice` is LOCAL or the prefill worker's id. `history` is None where the owner prefills.
    `ttft_s`: from now until the first token is out and the owner could go on from it. `harm`: the
    relative rise of TPOT, summed over the owner's rows. `moved_bytes`: KV that would travel.
    `missed`: targets that would be missed for it, the turn's own and those of rows on the owner.
    `score`: weighted sum of TTFT, harm and misses; least is best.
    """

    choice: str
    history: History | None
    ttft_s: float
    harm: float
    moved_bytes: int
    missed: int
    score: float


@dataclass(frozen=True, slots=True)
class Local:
    """The owner prefills. `options` are the alternatives that were priced, this one first."""

    reason: RouteReason
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Remote:
    """`worker` prefills and hands over to the owner.

    Without `reuse` neither side may use cached pages: everything is computed and sent (pd-full).
    `options` are the alternatives that were priced, this one first.
    """

    worker: WorkerId
    history: History
    reuse: bool
    reason: RouteReason
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteConfig:
    """The knobs of all routing policies. Lengths in tokens, shares in [0, 1].

    Targets for turns that bring none are the caller's to fill in.
    """

    w_ttft: float = 1.0
    """Weight of the turn's relative TTFT (foretoken, ppd); only the ratio of the weights counts."""
    w_tpot: float = 1.0
    """Weight of the relative TPOT it costs others. PPD 2.2: (1, 1), "balanced"."""
    w_miss: float = 5.0
    """Weight of each target that an option would miss, the turn's own or a row's. Ours: without it
    a turn went to a queue in which it was late rather than to an owner with time to spare (LOG.md).
    """
    late_margin: float = 0.05
    """Share of the TTFT target within which a predicted first token counts as late. Ours: turns
    were late by one to three hundredths where the prediction had met the target (LOG.md)."""
    page_watermark: float = 0.95
    """Share of the owner's pages above which foretoken vetoes local prefill. Ours."""
    reserve_quantile: float = 0.5
    """Quantile of the reply's length that is counted as needed pages. Ours (LOG.md)."""
    min_chunk_len: int = 64
    """Smallest chunk to which the owner's batch shrinks for its rows' TPOT. Ours."""
    ppd_bypass_len: int = 512
    """Fewer uncached tokens than this are local without a look at the table. PPD's code."""
    threshold_len: int = 2048
    """`threshold`: fewer uncached tokens than this may be local. Dynamo's `isl_bounding`."""
    threshold_ratio: float = 0.7
    """`threshold`: the uncached share of the prompt must lie below. Dynamo's `isl_bounding`."""
    threshold_busy: float = 0.9
    """`threshold`: no local prefill if the owner's pages would fill beyond this share. The veto
    is Dynamo's `decode_busy_threshold`, unset there; the value is ours."""
    threshold_prefill_busy: float | None = None
    """`threshold`: local if more than this many full steps are queued at the chosen prefill worker,
    None for never. Dynamo's `prefill_load`, whose default mode does not look at it."""
    ampd_alpha: float = 0.8
    """A prefill worker has slack while its TTFT is at most this share of the target. Ours: AMPD's
    own alpha is not published."""
    ampd_beta: float = 0.8
    """The owner has slack while its ITL is at most this share of the target. Ours, likewise."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values that order no options."""
        require(0 < self.w_ttft < inf, "the route's weight of TTFT must be positive and finite")
        for of, weight in (("TPOT", self.w_tpot), ("a missed target", self.w_miss)):
            require(0 <= weight < inf, f"the route's weight of {of} must be finite and at least 0")
        require(0 < self.page_watermark <= 1, "the route's page watermark must lie in (0, 1]")
        require(0 < self.reserve_quantile < 1, "the route's reserve quantile must lie in (0, 1)")
        require(self.min_chunk_len >= 1, "the route's smallest chunk must be at least 1")


@dataclass(frozen=True, slots=True)
class RouteContext:
    """What a policy knows beside the views; `table` is for `ppd` only."""

    costs: Costs
    config: RouteConfig
    table: PpdTable | None


RoutePolicy: TypeAlias = Callable[
    [TurnView, OwnerView, Sequence[PrefillView], RouteContext], Local | Remote
]
