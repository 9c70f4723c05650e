"""What may one step hold?"""

from dataclasses import dataclass

from serving.config.setting import require, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """What one step may hold."""

    max_num_seqs: int = setting(
        64, "Rows that may decode at once on one worker; 256 on GPUs and TPUs if not given."
    )
    max_num_batched_tokens: int = setting(
        256, "New prompt tokens that one step may prefill; 2048 on GPUs and TPUs if not given."
    )
    max_prefill_rows: int = setting(8, "Tasks that may share the prefill part of one step.")
    min_prefill_tokens: int = setting(
        32,
        "New prompt tokens that ride in a step however late its rows are; 128 on GPUs and TPUs if "
        "not given.",
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for empty steps."""
        require(self.max_num_seqs >= 1, "--max-num-seqs must be at least 1")
        require(self.max_num_batched_tokens >= 1, "--max-num-batched-tokens must be at least 1")
        require(self.max_prefill_rows >= 1, "--max-prefill-rows must be at least 1")
        require(self.min_prefill_tokens >= 1, "--min-prefill-tokens must be at least 1")
