"""By which rules are sessions placed, and turns routed, ordered, admitted and moved?"""

from dataclasses import dataclass
from math import inf

from serving.config.setting import require, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """How sessions are placed, and turns routed, ordered, admitted and moved."""

    place_policy: str = setting("load", "Where new sessions decode: load or hash.")
    route_policy: str = setting(
        "foretoken",
        "Who prefills: foretoken, replicas (with --prefill-workers 0), or, with prefill workers, "
        "pd-full, pd-delta, local, ppd, threshold or ampd.",
        aliases=("policy",),
    )
    route_weight_ttft: float = setting(1.0, "Weight of a turn's own time to first token.")
    route_weight_tpot: float = setting(1.0, "Weight of the time per token that it costs others.")
    route_weight_miss: float = setting(5.0, "Weight of each target that would be missed.")
    route_late_margin: float = setting(
        0.05, "Share of a TTFT target within which a predicted first token counts as late."
    )
    route_peers: bool = setting(
        True, "Let workers that do both prefill for each other (foretoken)."
    )
    route_table: str | None = setting(
        None, "Measured table of the policy ppd (JSON); without one it goes by predicted times."
    )
    slo_ttft_ms: float | None = setting(None, "TTFT target of turns that bring none, in ms.")
    slo_tpot_ms: float | None = setting(None, "Target per token of such turns, in ms.")
    order_policy: str = setting(
        "on-time", "Who goes first in a queue: on-time, lookahead or arrival."
    )
    order_window: int | None = setting(
        None, "Queued tasks that may change places: 64 by on-time, 3 by lookahead, if not given."
    )
    max_passes: int = setting(64, "New turns that may go before the first of a queue.")
    reserve_quantile: float = setting(
        0.5, "Quantile of the pages that all rows will need at once, which are kept for them."
    )
    wait_for_pages: bool = setting(
        True, "Let rows wait for pages that are about to come, before one of them loses its own."
    )
    keep_pace: bool = setting(
        True, "Let turns wait while a row more would make most rows miss their time per token."
    )
    stand_aside: bool = setting(True, "Let rows with time to spare give way to turns that are due.")
    rebalance_policy: str = setting(
        "predicted", "Which rows move: none, current or predicted.", aliases=("rebalance",)
    )
    rebalance_interval_seconds: float = setting(1.0, "Time between two looks at the load.")
    rebalance_max_moves: int = setting(1, "Rows that may begin to move at one look.")
    rebalance_cool_down_seconds: float = setting(5.0, "Time for which a moved row stays.")
    roles_policy: str = setting(
        "none",
        "Who changes a worker's role at run time: none or queue, which needs --flexible-roles and "
        "--slo-ttft-ms.",
    )
    window_seconds: float = setting(10.0, "Span of the means that policies look at.")
    decision_log: str | None = setting(None, "File for every decision, as JSON lines.")

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range; names are looked up by the engine."""
        for name in ("route_weight_ttft", "rebalance_interval_seconds", "window_seconds"):
            require(getattr(self, name) > 0, f"--{name.replace('_', '-')} must be positive")
        for of in ("ttft", "tpot", "miss"):
            weight = getattr(self, f"route_weight_{of}")
            require(0 <= weight < inf, f"--route-weight-{of} must be finite and at least 0")
        require(0 <= self.route_late_margin < 1, "--route-late-margin must lie in [0, 1)")
        for name in ("slo_ttft_ms", "slo_tpot_ms"):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            require(value is None or 0 < value < inf, f"{flag} must be positive and finite")
        require(
            self.order_window is None or self.order_window >= 1, "--order-window must be at least 1"
        )
        require(self.max_passes >= 0, "--max-passes must not be negative")
        require(0 < self.reserve_quantile < 1, "--reserve-quantile must lie between 0 and 1")
        require(self.rebalance_max_moves >= 1, "--rebalance-max-moves must be at least 1")
        require(
            self.rebalance_cool_down_seconds >= 0,
            "--rebalance-cool-down-seconds must not be negative",
        )
