"""What will each decode worker's steps cost, and how many tokens will it hold, over the horizon?

Turns a `RebalanceView` into arrays that every move is judged by. Knows nothing of moves.
Shapes: `R` rows, `D` decode workers, `G` points of the grid.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from serving.policy.rebalance_config import RebalanceConfig
from serving.policy.views import RebalanceView

Floats: TypeAlias = NDArray[np.float64]
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]

GRAIN = 1e-9
"""Differences below this share of a quantity are rounding and decide nothing."""


@dataclass(frozen=True, slots=True)
class Loads:
    """The predicted load. All expectations are over the rows' survival curves.

    `alive`, `tokens`, `noise` [R, G]: the chance that a row decodes, the mean and the variance of
    the tokens that it attends to. `step_s` [D, G]: the predicted step time. `held`, `held_noise`
    [D, G]: mean and variance of the tokens in memory, pinned ones included; `limit` [D]: what may
    be held. `load_s` [D]: the step time's mean over the horizon by `weights` [G]. `over`, `under`
    [D]: classes. `candidate` [R]: may move and repays it, `spare_s` [R]: what a move may cost it
    beyond the transfer. `blank`, `evict_s` [D]: the view's. `number_of_row` [R] and
    `number_of_worker` [D] put rows (shorter first) and workers (by id) into an order for ties.
    """

    config: RebalanceConfig
    owner: Ints
    alive: Floats
    tokens: Floats
    noise: Floats
    weights: Floats
    per_row_s: Floats
    per_token_s: Floats
    step_s: Floats
    held: Floats
    held_noise: Floats
    capacity: Floats
    limit: Floats
    load_s: Floats
    over: Bools
    under: Bools
    candidate: Bools
    spare_s: Floats
    kv_len: Floats
    blank: Floats
    evict_s: Floats
    number_of_row: Ints
    number_of_worker: Ints

    def added_s(self, rows: Ints, workers: Ints) -> Floats:
        """Return what each row adds to a step of the worker beside it: [C], [C] -> [C, G]."""
        by_row = self.per_row_s[workers, None] * self.alive[rows]
        return by_row + self.per_token_s[workers, None] * self.tokens[rows]

    def evicted_s(self, rows: Ints, to: Ints) -> Floats:
        """Return what it costs to evict what each row takes the place of where it goes: [C]."""
        return np.maximum(self.kv_len[rows] - self.blank[to], 0) * self.evict_s[to]

    def number(self, rows: Ints, to: Ints) -> Ints:
        """Number candidates [C] in the order in which equals are preferred.

        By the source's id, the destination's, the row's length, its index.
        """
        workers = self.number_of_worker
        pair = workers[self.owner[rows]] * len(workers) + workers[to]
        return pair * len(self.owner) + self.number_of_row[rows]

    def excess(self, held: Floats, noise: Floats, workers: Ints) -> Floats:
        """Return by which share of its capacity a worker's peak need is above its limit: [C]."""
        peak = (held + self.config.z * np.sqrt(noise)).max(axis=1)
        limit, capacity = self.limit[workers], self.capacity[workers]
        return np.where(peak > limit * (1 + GRAIN), (peak - limit) / capacity, 0.0)


def predict(view: RebalanceView, config: RebalanceConfig) -> Loads:
    """Predict every worker's load: step time = base + per row * sum S + per token * sum (n + k) S.

    Reconstruction of STAR, in our terms: N_i(k) sums (kv_len + k) * alive over a worker's rows.
    Pinned tokens take memory and no step time. The sum of the variances takes rows as independent.
    """
    grid = view.grid[view.grid <= config.horizon_steps]
    alive = view.alive[:, : len(grid)]
    ahead = view.kv_len[:, None] + grid[None, :]
    tokens = ahead * alive
    noise = tokens * (ahead - tokens)
    base, per_row, per_token = (
        np.array([getattr(model, name) for model in view.step_models], np.float64)
        for name in ("base_s", "per_row_s", "per_token_s")
    )
    workers = len(view.workers)
    rows_of, tokens_of, noise_of = (
        _sum_by_worker(values, view.owner, workers) for values in (alive, tokens, noise)
    )
    step_s = base[:, None] + per_row[:, None] * rows_of + per_token[:, None] * tokens_of
    cells = steps_per_point(grid, config.horizon_steps)
    weights = cells * config.decay ** (grid / config.horizon_steps)
    weights /= weights.sum()
    load_s = step_s @ weights
    over = _over(view, load_s, config) & _at_stake(view, step_s, config)
    move_s = view.link.latency_s + view.kv_len * view.kv_bytes_per_token / view.link.bytes_per_s
    remaining_s = (alive * step_s[view.owner]) @ cells
    return Loads(
        config=config,
        owner=view.owner,
        alive=alive,
        tokens=tokens,
        noise=noise,
        weights=weights,
        per_row_s=per_row,
        per_token_s=per_token,
        step_s=step_s,
        held=tokens_of + view.pinned[:, None],
        held_noise=noise_of,
        capacity=view.capacity,
        limit=(1 - config.watermark) * view.capacity,
        load_s=load_s,
        over=over,
        under=_under(load_s, over, config),
        candidate=view.movable & (remaining_s >= config.payback * move_s) & (remaining_s > 0),
        spare_s=remaining_s - config.payback * move_s,
        kv_len=view.kv_len,
        blank=view.blank,
        evict_s=view.evict_s,
        number_of_row=_ranks(np.lexsort((view.kv_len,))),
        number_of_worker=_ranks(np.array(np.argsort(np.array(view.workers, dtype=str)))),
    )


def steps_per_point(grid: Floats, horizon: float) -> Floats:
    """Return how many steps up to the horizon are nearest to each point: [G], sum `horizon`.

    A grid of one point stands for all of them: what is there now is taken to last.
    """
    middles = (grid[1:] + grid[:-1]) / 2
    return np.diff(np.concatenate(([0.0], middles, [horizon])))


def _sum_by_worker(values: Floats, owner: Ints, workers: int) -> Floats:
    points = values.shape[1]
    cell: Ints = (owner[:, None] * points + np.arange(points, dtype=np.int64)).reshape(-1)
    sums: Floats = np.bincount(cell, values.reshape(-1), workers * points).astype(np.float64)
    return sums.reshape(workers, points)


def _over(view: RebalanceView, load_s: Floats, config: RebalanceConfig) -> Bools:
    was_over = np.array([worker in view.was_over for worker in view.workers], np.bool_)
    threshold = np.where(was_over, 1 + config.th_out, 1 + config.th_in)
    return load_s > threshold * load_s.mean() * (1 + GRAIN)


def _at_stake(view: RebalanceView, step_s: Floats, config: RebalanceConfig) -> Bools:
    """Return where a step comes near what the rows may take for a token; if none minds, always."""
    return ~(step_s.max(axis=1) <= config.stake * view.target_s * (1 + GRAIN))


def _under(load_s: Floats, over: Bools, config: RebalanceConfig) -> Bools:
    """Among many workers one hot one hardly lifts the mean: then all up to the mean may help."""
    mean = load_s.mean()
    under = load_s < (1 - config.th_under) * mean
    return under if under.any() or not over.any() else load_s <= mean


def _ranks(order: Ints) -> Ints:
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order))
    return ranks
