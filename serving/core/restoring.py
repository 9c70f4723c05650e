"""How long would it take to have a task's KV again? Computed, or fetched from host memory."""

from collections.abc import Iterable
from typing import NamedTuple

from serving.core.host_store import HostStore
from serving.core.own_decisions import OwnDecisions
from serving.core.pages import Match
from serving.core.worker_task import WorkerTask
from serving.costs.costs import Costs, Link
from serving.policy.evict import fetch_beats_compute


class _Found(NamedTuple):
    """Pages of a prompt in host memory: what it takes to fetch them, and to compute them."""

    pages: int
    fetch_s: float
    compute_s: float

    @property
    def is_fetched(self) -> bool:
        return fetch_beats_compute(fetch_s=self.fetch_s, compute_s=self.compute_s)


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
        return self._link.seconds(tokens * self._costs.kv_bytes_per_token)

    def taken(self, task: WorkerTask, match: Match, host: HostStore) -> Iterable[tuple[bytes, int]]:
        """Take a prompt's next pages out of host memory, if to fetch them beats computing them.

        Returns their names and slots.

        `match` is what the pool has.
        """
        found = self._found(task, match, host)
        if found is None:
            return ()
        reason = "fetch_faster" if found.is_fetched else "compute_faster"
        details = {
            "tokens": found.pages * self._page_size,
            "fetch_s": found.fetch_s,
            "compute_s": found.compute_s,
        }
        self._decisions.about("restore", task, reason, details)
        if not found.is_fetched:
            return ()
        first = len(match.full) + 1
        names = task.names[first : first + found.pages]
        return zip(names, host.take(names), strict=True)

    def prefill_s(self, task: WorkerTask, match: Match, host: HostStore) -> float:
        """Predict how long a task's prompt takes here, with what would be fetched for it."""
        cached_len, fetch_s = match.cached_len, 0.0
        found = self._found(task, match, host)
        if found is not None and found.is_fetched:
            cached_len += found.pages * self._page_size
            fetch_s = found.fetch_s
        return fetch_s + self._costs.prefill(len(task.tokens) - cached_len, cached_len).seconds

    def _found(self, task: WorkerTask, match: Match, host: HostStore) -> _Found | None:
        """Look for what follows a match in host memory; None if there is nothing.

        A part-filled page of the pool stands in the way, and a row that moves brings all it has.
        """
        if not len(host) or not task.may_reuse or match.tail is not None or task.move is not None:
            return None
        last = (len(task.tokens) - 1) // self._page_size
        pages = host.find(task.names[len(match.full) + 1 : last + 1])
        if not pages:
            return None
        length = pages * self._page_size
        compute_s = self._costs.prefill(length, match.cached_len).seconds
        return _Found(pages, self.fetch_s(length), compute_s)

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
