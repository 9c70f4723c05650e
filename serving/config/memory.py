"""How much KV does each worker hold?"""

from dataclasses import dataclass

from serving.config.setting import require, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """How much KV each worker holds."""

    max_model_len: int | None = setting(
        None, "Longest prompt plus reply in tokens; the model's own limit if not given."
    )
    kv_pages: int | None = setting(
        None,
        "KV pages per worker; chosen from the free memory if not given.",
        aliases=("num-gpu-blocks-override",),
    )
    page_size: int = setting(
        16,
        "Token positions per KV page; 128 on TPUs if not given.",
        aliases=("block-size",),
    )
    host_kv_gib: float = setting(0.0, "Host memory per worker for idle KV, in GiB; 0: none.")
    memory_fraction: float = setting(
        0.9, "Share of an accelerator's memory to use.", aliases=("gpu-memory-utilization",)
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for values that hold no conversation."""
        require(self.max_model_len is None or self.max_model_len >= 2, "--max-model-len is below 2")
        require(self.kv_pages is None or self.kv_pages >= 2, "--kv-pages is below 2")
        require(self.page_size >= 1, "--page-size must be at least 1")
        require(self.host_kv_gib >= 0, "--host-kv-gib must not be negative")
        require(0 < self.memory_fraction <= 1, "--memory-fraction must lie in (0, 1]")
