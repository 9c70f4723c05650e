"""How are durations predicted?"""

from dataclasses import dataclass

from serving.config.setting import require, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsConfig:
    """How durations are predicted."""

    costs: str | None = setting(
        None, "File of measured times (foretoken profile); estimated from --hardware if not given."
    )
    hardware: str | None = setting(
        None, "Description of the devices to estimate times from; by their kind if not given."
    )
    link_gib_per_s: float = setting(8.0, "Rate at which KV moves between two workers, in GiB/s.")
    link_latency_us: float = setting(500.0, "Time that any KV transfer takes at least.")
    host_link_gib_per_s: float = setting(
        8.0, "Rate at which KV moves to host memory and back, in GiB/s."
    )
    host_link_latency_us: float = setting(
        200.0, "Time that KV takes at least to host memory and back."
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for links that carry nothing."""
        require(self.link_gib_per_s > 0, "--link-gib-per-s must be positive")
        require(self.link_latency_us >= 0, "--link-latency-us must not be negative")
        require(self.host_link_gib_per_s > 0, "--host-link-gib-per-s must be positive")
        require(self.host_link_latency_us >= 0, "--host-link-latency-us must not be negative")
