"""Which decode worker becomes the owner of a new session?

The worker whose steps are predicted to be the shortest over the horizon; or one that holds the
start of the prompt already, if its steps are not longer by more than that is worth. Where workers
prefill for each other, some stay clear of rows while the others have time to spare. Knows nothing
of who prefills.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from serving.messages import WorkerId
from serving.policy.views import HomesView
from serving.request import SessionId

Ints: TypeAlias = NDArray[np.int64]

CLEAR_FROM = 2 / 3
"""Share of a token's time that a step without rows takes, from which on workers are kept clear. A
step gives what is left to prompts, so that beside rows they run at a third of their pace then.
Ours: at a half, what the others compute less costs more than that (LOG.md).
"""
CLEAR_UNTIL = 0.95
"""Share of a token's time that the steps of the others may take for that (ours)."""
CLEAR_MEMORY = 0.7
"""Share of the others' memory that may be expected to fill for that (ours)."""


@dataclass(frozen=True, slots=True)
class Placement:
    """The owner, and why; `clear` are the workers that were kept clear of rows.

    `by_rows`: what the rows attend to now was looked at.
    """

    worker: WorkerId
    reason: str
    clear: tuple[WorkerId, ...] = ()
    by_rows: bool = False


PlacePolicy = Callable[[SessionId, HomesView], Placement | None]
"""Takes the session and the workers that decode; None if there is nobody to place it with."""


def place(session: SessionId, homes: HomesView) -> Placement | None:
    """Choose an owner among the workers that do not drain; None if there is none.

    Every worker would get the same rows and tokens more, so the least mean step time over the
    horizon is also the least with them (the step's time is a plane, whose mean over the horizon is
    its value at the mean load). A cached token is worth one attended token of every step: computing
    it elsewhere costs as much as attending to it for the length of a long reply (ours, an order of
    magnitude that errs towards balance). Workers that the expected tokens would fill come last.

    Workers that are kept clear (`clear_of_rows`) come into question for nobody.

    Reasons: `prefix` if the cached tokens decided it, `least_load` if not. Ties: a smaller share of
    its capacity in use, fewer turns, fewer sessions (else a quiet server would give every
    conversation to one worker, and all of them would return there), the smaller id.
    """
    clear = clear_of_rows(homes)
    ready = np.flatnonzero(~homes.draining)
    if clear:
        ready = ready[[homes.workers[i] not in clear for i in ready.tolist()]]
    if not ready.size:
        return None
    best = _first(ready, homes, homes.cached_len)
    # One that holds nothing of the prompt is the least loaded too: what the others hold only makes
    # them better.
    decided = homes.cached_len[best] > 0 and best != _first(ready, homes, 0 * homes.cached_len)
    reason = "prefix" if decided else "least_load"
    return Placement(homes.workers[best], reason, clear, by_rows=may_keep_clear(homes))


def clear_of_rows(homes: HomesView) -> tuple[WorkerId, ...]:
    """Name the workers that stay without rows, so that long prompts run at full pace there. Ours.

    As many as the others can do without, at most a quarter and one of few; those with the fewest
    turns. Only where steps leave prompts little time beside rows.
    """
    if not may_keep_clear(homes):
        return ()
    workers, model = homes.workers, homes.step_models[int(homes.model[0])]
    capacity = int(homes.capacity[0])
    rows = 1.0 + float(homes.expected_rows.sum())
    filled = int(homes.load.sum())
    for count in range(max(1, len(workers) // 4), 0, -1):
        others = len(workers) - count
        per_step_s = model.per_row_s * rows + model.per_token_s * homes.kv_tokens
        share = _share(model.base_s + per_step_s / others, homes.tpot_s)
        if share <= CLEAR_UNTIL and filled <= CLEAR_MEMORY * others * capacity:
            owned = (homes.sessions.get(worker, 0) for worker in workers)
            fewest = sorted(zip(homes.turns.tolist(), owned, workers, strict=True))
            return tuple(worker for _, _, worker in fewest[:count])
    return ()


def may_keep_clear(homes: HomesView) -> bool:
    """Say whether any of these may stay without rows, if what the others attend to allows it."""
    if len(homes.workers) < 2 or not homes.peer.all() or homes.draining.any():
        return False
    return _share(homes.step_models[int(homes.model[0])].base_s, homes.tpot_s) >= CLEAR_FROM


def _share(step_s: float, tpot_s: float | None) -> float:
    """Return the share of a token's time that a step takes; none of a time without a limit."""
    return 0.0 if tpot_s is None else step_s / tpot_s


def place_by_hash(session: SessionId, homes: HomesView) -> Placement | None:
    """Choose an owner by the session's name alone, blind to load, as PPD's router does.

    Any of the workers that do not drain is as likely as any other. Reason: `hash`.
    """
    ready = sorted(homes.workers[i] for i in np.flatnonzero(~homes.draining).tolist())
    if not ready:
        return None
    digest = blake2b(session.encode(), digest_size=8).digest()
    return Placement(ready[int.from_bytes(digest, "big") % len(ready)], "hash")


PLACE_POLICIES: dict[str, PlacePolicy] = {"load": place, "hash": place_by_hash}
"""Every policy, by name."""


def _first(ready: NDArray[np.intp], homes: HomesView, cached_len: Ints) -> int:
    """Return which of the ready ones comes first, if workers hold `cached_len` [D] of the prompt.

    The first thing in which they differ decides.
    """
    models = [(model.base_s, model.per_row_s, model.per_token_s) for model in homes.step_models]
    base_s, per_row_s, per_token_s = np.array(models)[homes.model].T
    attended = homes.expected_tokens - cached_len
    step_s = base_s + per_row_s * homes.expected_rows + per_token_s * attended
    full = homes.expected_tokens >= homes.capacity
    for key in (full, step_s, homes.load / homes.capacity, homes.turns):
        of = key[ready]
        ready = ready[of == of.min()]
    sessions, workers = homes.sessions, homes.workers
    return min(ready.tolist(), key=lambda i: (sessions.get(workers[i], 0), workers[i]))
