"""Which decoding rows should move to another worker? The policies, by name.

They look at all decode workers' load over a horizon and lower first the worst predicted step time,
then the variance over workers, if a move repays its transfer and the histories of idle sessions
that the row displaces. Before both comes memory: a worker about to run out sends a row away
whatever the loads are. Knows nothing of how a move is carried out.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from serving.messages import WorkerId
from serving.policy.rebalance_config import Move, RebalanceConfig
from serving.policy.rebalance_effects import start
from serving.policy.rebalance_load import GRAIN, predict
from serving.policy.rebalance_search import Choice
from serving.policy.rebalance_sets import best_set
from serving.policy.views import RebalanceView

RebalancePolicy: TypeAlias = Callable[[RebalanceView, RebalanceConfig], tuple[Move, ...]]


def none(view: RebalanceView, config: RebalanceConfig) -> tuple[Move, ...]:
    """Leave every row where it is."""
    del view, config
    return ()


def current(view: RebalanceView, config: RebalanceConfig) -> tuple[Move, ...]:
    """Balance the present load, which is taken to last: reads nothing beyond `grid[0]`."""
    return predicted(present(view), config)


def predicted(view: RebalanceView, config: RebalanceConfig) -> tuple[Move, ...]:
    """Balance the load predicted over the horizon, STAR-style; the objective is ours.

    The chosen moves share no worker, and each keeps below the destination's watermark, repays its
    transfer, and leaves the worst predicted step time as it is or lower. A single move is the best
    of all; see `rebalance_sets` for several. Deterministic: equal moves are chosen by the workers'
    ids, then the shorter KV, then the row's index.
    """
    if len(view.workers) < 2 or len(view.owner) == 0:
        return ()
    loads = predict(view, config)
    chosen = best_set(loads, start(loads, view.may_send, view.may_receive))
    return tuple(_move(view, choice) for choice in chosen)


def present(view: RebalanceView) -> RebalanceView:
    """Collapse the grid to its first point."""
    return replace(view, grid=view.grid[:1], alive=view.alive[:, :1])


def overloaded(view: RebalanceView, config: RebalanceConfig) -> frozenset[WorkerId]:
    """Name the over-loaded workers: the next view's `was_over`, of the view the policy judged.

    That is `present(view)` for `current`.
    """
    if len(view.workers) == 0:
        return frozenset()
    over = predict(view, config).over
    return frozenset(view.workers[i] for i in np.flatnonzero(over))


def _move(view: RebalanceView, choice: Choice) -> Move:
    now, then = choice.now, choice.then
    gain, reason = now.worst_s - then.worst_s, "worst_step"
    if now.excess - then.excess > GRAIN:
        gain, reason = max(gain, 0.0), "memory"
    elif gain <= GRAIN * now.worst_s:
        gain, reason = now.variance**0.5 - then.variance**0.5, "spread"
    source, to = view.workers[int(view.owner[choice.row])], view.workers[choice.to]
    return Move(choice.row, source, to, gain, reason)


REBALANCE_POLICIES: Mapping[str, RebalancePolicy] = {
    "none": none,
    "current": current,
    "predicted": predicted,
}
