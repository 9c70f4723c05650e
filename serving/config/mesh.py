"""Which workers does a deployment have?"""

from dataclasses import dataclass

from serving.config.setting import require, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """How many workers of each role, and over how many devices each is sharded."""

    prefill_workers: int = setting(
        0, "Prefill workers; 0 is the colocated mode.", aliases=("pd-num-prefill",)
    )
    decode_workers: int = setting(
        1,
        "Decode workers; in the colocated mode they prefill too.",
        aliases=("pd-num-decode",),
    )
    prefill_tp: int = setting(
        1, "Tensor-parallel degree of each prefill worker.", aliases=("pd-prefill-tp-size",)
    )
    decode_tp: int = setting(
        1, "Tensor-parallel degree of each decode worker.", aliases=("pd-decode-tp-size",)
    )
    flexible_roles: bool = setting(
        False, "Compile every worker for both roles, so that roles can change at run time."
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for an impossible shape."""
        require(self.prefill_workers >= 0, "--prefill-workers must not be negative")
        require(self.decode_workers >= 1, "--decode-workers must be at least 1")
        require(self.prefill_tp >= 1, "--prefill-tp must be at least 1")
        require(self.decode_tp >= 1, "--decode-tp must be at least 1")
        require(
            self.prefill_workers > 0 or self.prefill_tp == 1,
            "--prefill-tp has no effect with --prefill-workers 0; leave it out or add workers",
        )

    @property
    def devices_needed(self) -> int:
        """Devices that the disjoint meshes take together."""
        return self.prefill_workers * self.prefill_tp + self.decode_workers * self.decode_tp
