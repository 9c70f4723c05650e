"""How large is one worker? Sizes that do not change while it lives."""

from dataclasses import dataclass

from serving.policy.admit import pages_for


@dataclass(frozen=True, slots=True)
class BatcherLimits:
    """The fixed sizes of one worker, in tokens, pages, rows and seconds."""

    num_pages: int
    page_size: int
    max_model_len: int
    max_rows: int
    max_chunk_tokens: int
    max_chunk_rows: int
    transfer_timeout_s: float
    move_pages: int
    host_pages: int

    def __post_init__(self) -> None:
        """Raise ValueError unless one turn of the greatest length fits: else it could never end."""
        if (self.num_pages - 1) * self.page_size < self.max_model_len:
            raise ValueError(
                f"{self.num_pages} KV pages of {self.page_size} tokens (one is set aside) do not "
                f"hold one conversation of {self.max_model_len} tokens; raise --kv-pages or lower "
                "--max-model-len"
            )

    @property
    def payload_pages(self) -> int:
        """The most pages that go in one payload: what a chunk fills, in parts at both its ends."""
        return pages_for(self.max_chunk_tokens, self.page_size) + 1
