"""How are the lengths of replies predicted?"""

from dataclasses import dataclass

from serving.config.setting import require, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastConfig:
    """How the lengths of replies are predicted."""

    length_head: str = setting(
        "auto",
        "Directory of a length head; auto: the checkpoint's own, if one fits; none: do without.",
    )
    length_head_every: int = setting(20, "Tokens after which a row's length head is read again.")
    smooth_readings: bool = setting(True, "Fold readings of the head into earlier ones.")
    calibrate_readings: bool = setting(True, "Bend predicted curves as held-out replies demand.")

    def __post_init__(self) -> None:
        """Raise ConfigError for a head that is never read."""
        require(self.length_head_every >= 1, "--length-head-every must be at least 1")
