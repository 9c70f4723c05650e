"""How long would it take to have a task's KV again? Computed, or fetched from host memory."""

from serving.core.worker_task import WorkerTask
from serving.costs.costs import Costs, Link


class Restoring:
    """Predicts it for one worker."""

    def __init__(self, costs: Costs, link: Link, *, page_size: int, host_pages: int) -> None:
        """`link` leads to host memory, which holds at most `host_pages`, and back."""
        self._costs = costs
        self._link = link
        self._page_size = page_size
        self._host_pages = host_pages

    def fetch_s(self, tokens: int) -> float:
        """Predict how long the KV of so many tokens takes from host memory.

        By the link alone: transfers that were measured are those between workers (costs/profile).
        """
        num_bytes = tokens * self._costs.kv_bytes_per_token
        return self._link.latency_s + num_bytes / self._link.bytes_per_s

    def restore_s(self, task: WorkerTask) -> float:
        """Predict what it would take to have a task's KV again: computed, or fetched if faster.

        What a victim leaves is evicted to host memory like any idle session's pages: full and sound
        ones, heads before tails as far as there are slots. The rest is computed in either case.
        """
        length = max(1, task.kv_len)
        compute_s = self._costs.prefill(length, 0).seconds
        pages = min(task.sound_len // self._page_size, self._host_pages)
        if not pages or not task.may_reuse:
            return compute_s
        on_host = pages * self._page_size
        fetch_s = self.fetch_s(on_host)
        if on_host < length:
            fetch_s += self._costs.prefill(length - on_host, on_host).seconds
        return min(compute_s, fetch_s)
