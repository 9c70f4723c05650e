"""What are the coordinator's limits?"""

from dataclasses import dataclass

from serving.config.setting import require, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Limits of the coordinator."""

    max_queue_size: int = setting(1024, "Turns that may wait for their first token.")
    queue_timeout_seconds: float = setting(0.0, "Give up on a turn that waited longer; 0: never.")
    reserve_tokens: int = setting(
        512,
        "Mean length of a reply, as long as none was seen.",
        aliases=("disaggregation-num-reserved-decode-tokens",),
    )
    session_ttl_seconds: float = setting(600.0, "Forget the place of a session idle for longer.")
    max_sessions: int = setting(10_000, "Sessions whose place is remembered.")
    transfer_timeout_seconds: float = setting(30.0, "Give up a transfer that stands still so long.")
    move_pages_per_step: int = setting(
        32, "KV pages of a moving row copied beside one step of its worker."
    )
    drain_timeout_seconds: float = setting(30.0, "Grace for running turns after SIGTERM.")
    step_timeout_seconds: float = setting(
        300.0,
        "Give up on a worker whose step has not come back for so long; inf: never.",
        aliases=("watchdog-timeout",),
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for negative limits."""
        require(self.max_queue_size >= 1, "--max-queue-size must be at least 1")
        require(self.queue_timeout_seconds >= 0, "--queue-timeout-seconds must not be negative")
        require(self.reserve_tokens >= 2, "--reserve-tokens must be at least 2")
        require(self.session_ttl_seconds > 0, "--session-ttl-seconds must be positive")
        require(self.max_sessions >= 1, "--max-sessions must be at least 1")
        require(self.transfer_timeout_seconds > 0, "--transfer-timeout-seconds must be positive")
        require(self.move_pages_per_step >= 1, "--move-pages-per-step must be at least 1")
        require(self.drain_timeout_seconds >= 0, "--drain-timeout-seconds must not be negative")
        require(self.step_timeout_seconds > 0, "--step-timeout-seconds must be positive")
