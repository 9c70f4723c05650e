"""How long would a turn's prefill take on its owner, or on a prefill worker with its transfers?

Asks the latency model and knows neither weights nor targets but those that shrink a chunk. Of a
prefill's many full chunks only the middle one is asked for: what a chunk takes grows in a straight
line with the KV before it, so the middle is the mean of all.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import NamedTuple

import numpy as np

from serving.costs.costs import Costs, Link
from serving.policy.views import OwnerView, PlaceView, PrefillView, TurnView


class Steps(NamedTuple):
    """The steps of one prefill: `full` full chunks of `full_s` on average, then the last one."""

    full: int
    full_s: float
    last_len: int
    last_s: float

    @property
    def total_s(self) -> float:
        """Seconds of all steps."""
        return self.full * self.full_s + self.last_s


class Sent(NamedTuple):
    """A prefill on another worker: when the owner could decode, and the bytes that travel."""

    ttft_s: float
    moved_bytes: int
    steps: Steps


def split(
    step_s: Callable[[int, int], float], new_len: int, cached_len: int, chunk_len: int
) -> Steps:
    """Time a prefill of `new_len` tokens, at least 1, after `cached_len`, in steps of `chunk_len`.

    `step_s(new_len, cached_len)` is the time of a step with such a chunk.
    """
    full = (new_len - 1) // chunk_len
    before_last = full * chunk_len
    last_len = new_len - before_last
    last_s = step_s(last_len, cached_len + before_last)
    if full == 0:
        return Steps(0, 0.0, last_len, last_s)
    middle = cached_len + (before_last - chunk_len) // 2
    return Steps(full, step_s(chunk_len, middle), last_len, last_s)


class PrefillTimes:
    """The predictions for one turn and its owner; each prefill and transfer is asked for once."""

    def __init__(self, turn: TurnView, owner: OwnerView, costs: Costs, min_chunk_len: int) -> None:
        """Predict for this turn; the owner's chunks shrink to no less than `min_chunk_len`."""
        self.turn = turn
        self.owner = owner
        self.costs = costs
        self.kv_bytes_per_token = costs.kv_bytes_per_token
        self.lacking_len = max(0, turn.prompt_len - owner.cached_len)
        """Tokens whose KV the owner would have to be sent."""
        self.uncached_len = max(1, self.lacking_len)
        """Tokens that the owner would compute; the last one's hidden state is always needed."""
        self._min_chunk_len = min_chunk_len
        self._alone: dict[tuple[int, int], Steps] = {}
        # By link and then by tokens; neighbours mostly share their link.
        self._transfers: dict[tuple[float, float], dict[int, float]] = {}
        self._over_link: dict[int, float] = {}
        self._link: Link | None = None

    def local(self) -> Steps:
        """Predict the prefill on the owner."""
        return self.at(self.owner, self.owner.cached_len)

    def at(self, place: PlaceView, cached_len: int) -> Steps:
        """Predict the prefill of all tokens but `cached_len`, beside the rows that decode there."""
        if place.rows == 0:
            return self.alone(cached_len, place.chunk_len)
        new_len = max(1, self.turn.prompt_len - cached_len)
        step_s = partial(self._mixed_s, place)
        return split(step_s, new_len, cached_len, self._chunk_len(place, new_len))

    def decode_s(self, place: PlaceView) -> float:
        """Predict a worker's step without a chunk in it."""
        return self.costs.decode(place.rows, place.kv_tokens).seconds

    def alone(self, cached_len: int, chunk_len: int) -> Steps:
        """Predict the prefill of all tokens but `cached_len` where nothing decodes."""
        key = (cached_len, chunk_len)
        steps = self._alone.get(key)
        if steps is None:
            new_len = max(1, self.turn.prompt_len - cached_len)
            steps = self._alone[key] = split(self._prefill_s, new_len, cached_len, chunk_len)
        return steps

    def pull_len(self, worker: PrefillView) -> int:
        """Count the history tokens that the owner holds and `worker` lacks."""
        return max(0, self.owner.cached_len - worker.cached_len)

    def pull_s(self, worker: PrefillView) -> float:
        """Predict how long it takes until `worker` has what the owner holds and it lacks.

        The owner fetches what it has in host memory first, and would for itself in any case.
        """
        return self.owner.fetch_s + self.transfer_s(self.pull_len(worker), worker)

    def transfer_s(self, tokens: int, worker: PrefillView) -> float:
        """Predict the transfer of KV between `worker` and the owner; no time if there is none."""
        if tokens == 0:
            return 0.0
        link = worker.link
        if link is not self._link:
            self._link = link
            self._over_link = self._transfers.setdefault((link.latency_s, link.bytes_per_s), {})
        seconds = self._over_link.get(tokens)
        if seconds is None:
            estimate = self.costs.transfer(tokens * self.kv_bytes_per_token, link)
            seconds = self._over_link[tokens] = estimate.seconds
        return seconds

    def remote(self, worker: PrefillView, pull_s: float | None) -> Sent:
        """Predict the prefill on `worker`, hand-off included; it pulls history if that has a time.

        The owner lets nobody begin before it has fetched what it has in host memory. That, and a
        pull, overlap the wait in the queue and what the worker fetches. Chunks are sent while the
        next is computed, and only what the owner lacks: all but the last chunk's transfer is
        hidden, unless the link is slower than the computation, and then all but the first chunk's
        computation.

        The client has its first token before the last transfer ends. That transfer is charged all
        the same, since the reply cannot go on without it.
        """
        start_s = max(worker.start_s, self.owner.fetch_s)
        cached_len, moved_len = worker.cached_len, self.lacking_len
        if pull_s is not None:
            cached_len = max(cached_len, self.owner.cached_len)
            start_s = max(start_s, pull_s)
            moved_len += self.pull_len(worker)
        steps = self.at(worker, cached_len)
        sent_s = self.transfer_s(self.lacking_len, worker)
        if steps.full == 0:
            busy_s = steps.last_s + sent_s
        else:
            last_len = min(self.lacking_len, steps.last_len)
            computed_s = steps.total_s + self.transfer_s(last_len, worker)
            busy_s = max(computed_s, steps.full_s + sent_s)
        return Sent(start_s + busy_s, moved_len * self.kv_bytes_per_token, steps)

    def _prefill_s(self, new_len: int, cached_len: int) -> float:
        return self.costs.prefill(new_len, cached_len).seconds

    def _mixed_s(self, place: PlaceView, new_len: int, cached_len: int) -> float:
        return self.costs.mixed(place.rows, place.kv_tokens, new_len, cached_len).seconds

    def _chunk_len(self, place: PlaceView, new_len: int) -> int:
        """Return the chunk with which a worker's step keeps the tightest target of its rows.

        In between the smallest and the largest chunk a step's time is taken to be a straight line.
        """
        most = min(place.chunk_len, new_len)
        least = min(self._min_chunk_len, most)
        tightest = float(np.fmin.reduce(place.residents.tpot_s, initial=inf))
        if tightest == inf or least == most:
            return most
        before = self.turn.prompt_len - 1  # a chunk late in the prompt takes longest
        most_s = self._mixed_s(place, most, before)
        if most_s <= tightest:
            return most
        least_s = self._mixed_s(place, least, before)
        if most_s <= least_s:
            return most  # as where steps are padded
        if least_s >= tightest:
            return least
        return least + int((most - least) * (tightest - least_s) / (most_s - least_s))
