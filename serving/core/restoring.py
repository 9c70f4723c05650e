"""How long would it take to have a task's KV again? Computed, or fetched from host memory."""

from serving.core.host_store import HostStore
from serving.core.own_decisions import OwnDecisions
from serving.core.pages import Match
from serving.core.worker_task import WorkerTask
from serving.costs.costs import Costs, Link
from serving.policy.evict import fetch_beats_compute


class Restoring:
    """Predicts and decides it for one worker."""

    def __init__(
        self,
        costs: Costs,
        link: Link,
        decisions: OwnDecisions,
        *,
        page_size: int,
        host_pages: int,
    ) -> None:
        """`link` leads to host memory, which holds at most `host_pages`, and back.

        What is decided is noted in `decisions`.
        """
        self._decisions = decisions
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

    def fetched(self, task: WorkerTask, match: Match, host: HostStore) -> tuple[int, ...]:
        """Find a prompt's next pages in host memory, if to fetch them beats computing them.

        `match` is what the pool has. A part-filled page of the pool stands in the way: it is there
        without any copying.
        """
        if not self._host_pages or not task.may_reuse or match.tail is not None:
            return ()
        last = (len(task.tokens) - 1) // self._page_size
        slots = host.find(task.names[: last + 1], len(match.full) + 1)
        if not slots:
            return ()
        length = len(slots) * self._page_size
        fetch_s = self.fetch_s(length)
        compute_s = self._costs.prefill(length, match.cached_len).seconds
        fetched = fetch_beats_compute(fetch_s=fetch_s, compute_s=compute_s)
        reason = "fetch_faster" if fetched else "compute_faster"
        details = {"tokens": length, "fetch_s": fetch_s, "compute_s": compute_s}
        self._decisions.about("restore", task, reason, details)
        return tuple(slots) if fetched else ()

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
