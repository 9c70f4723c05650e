"""Which single move is best? Every allowed one counts, but few have to be worked out.

Branch and bound: rows are taken most promising first; a pair of row and destination is worked out
only if its bounds leave it a chance against the best so far. Only a source short of memory can
lower the excess, and only a worker that alone is worst can lower the worst step time: once such a
move is found, the bounds rule out the rows of all others at once.
"""

from typing import NamedTuple

import numpy as np

from serving.policy.rebalance_bounds import RowBounds, pair_bounds, row_bounds
from serving.policy.rebalance_effects import (
    Balance,
    Effects,
    Score,
    effects,
    keys,
    relief_of,
    score,
)
from serving.policy.rebalance_load import GRAIN, Bools, Floats, Ints, Loads

BOUNDS_AT_ONCE = 2**13
PAIRS_AT_ONCE = 2**8


class Choice(NamedTuple):
    """A move of row `row` to worker `to`, and the scores before it and with it alone.

    `key`: that score in grains, then the candidate's number; the smallest is the best.
    """

    row: int
    to: int
    now: Score
    then: Score
    key: tuple[float, float, float, int]


def best_move(loads: Loads, balance: Balance) -> Choice | None:
    """Return the allowed move with the best score; ties: workers' ids, shorter KV, row index."""
    short = rows_on(loads, balance.flees)
    relief = relief_of(loads, balance, short, loads.owner[short])
    most = relief.max(initial=0.0) - GRAIN  # the rest has no chance but if all of these fail
    for part in ((relief >= most) & (relief > GRAIN), (relief < most) & (relief > GRAIN)):
        best = _search(loads, balance, short[part], np.flatnonzero(balance.shelters))
        if best is not None:
            return best
    over = rows_on(loads, balance.sends)
    over = over[relief_of(loads, balance, over, loads.owner[over]) <= GRAIN]
    return _search(loads, balance, over, np.flatnonzero(balance.takes))


def rows_on(loads: Loads, workers: Bools) -> Ints:
    """Return the candidate rows on some of the workers."""
    return np.flatnonzero(loads.candidate & workers[loads.owner])


def best_of(now: Score, found: Effects) -> Choice | None:
    """Return the best allowed candidate of those worked out."""
    allowed = np.flatnonzero(found.allowed)
    if len(allowed) == 0:
        return None
    excess = now.excess - found.relief[allowed]
    counted = keys(now, excess, found.worst_s[allowed], found.variance[allowed])
    at = np.lexsort((found.number[allowed], *counted[::-1]))[0]
    i = allowed[at]
    then = Score(float(excess[at]), float(found.worst_s[i]), float(found.variance[i]))
    a, b, c = (float(count) for count in counted[:, at])
    return Choice(int(found.rows[i]), int(found.to[i]), now, then, (a, b, c, int(found.number[i])))


def _search(loads: Loads, balance: Balance, rows: Ints, to: Ints) -> Choice | None:
    """Search moves of rows that all relieve a source short of memory, or of which none does."""
    if len(rows) == 0 or len(to) == 0:
        return None
    bounds = row_bounds(loads, balance, rows, to)
    best: Choice | None = None
    at_once = max(1, BOUNDS_AT_ONCE // len(to))
    while len(bounds.rows) > 0:
        best = _search_part(loads, balance, bounds.part(slice(at_once)), to, best)
        bounds = bounds.part(slice(at_once, None))
        if best is not None:
            any_number = np.full(len(bounds.rows), -1)
            chance = _can_beat(best, bounds.relief, bounds.worst_s, bounds.drop, any_number)
            bounds = bounds.part(chance)
    return best


def _search_part(
    loads: Loads, balance: Balance, bounds: RowBounds, to: Ints, best: Choice | None
) -> Choice | None:
    """Work out pairs until none that is left can beat the best, more at a time as none is found."""
    now, found = score(loads, balance), pair_bounds(loads, balance, bounds, to)
    rows, to, relief = bounds.rows[found.row], found.to, bounds.relief[found.row]
    worst, drop = found.worst_s, found.drop
    # The order of work decides only how soon the best is known, so a rough one will do.
    hope = worst / (now.worst_s or 1) - 1e-6 * drop / (now.variance or 1) - 1e3 * relief
    left, at_once = np.arange(len(rows)), PAIRS_AT_ONCE
    while True:
        if best is not None:
            numbers = loads.number(rows[left], to[left])
            left = left[_can_beat(best, relief[left], worst[left], drop[left], numbers)]
        if len(left) == 0:
            return best
        if len(left) > at_once:
            left = left[np.argpartition(hope[left], at_once)]
        first, left = left[:at_once], left[at_once:]
        at_once *= 2
        choice = best_of(now, effects(loads, balance, rows[first], to[first]))
        if choice is not None and (best is None or choice.key < best.key):
            best = choice


def _can_beat(best: Choice, relief: Floats, worst_s: Floats, drop: Floats, number: Ints) -> Bools:
    """Return which candidates with these bounds [C] may come before the best, up to rounding."""
    now, then = best.now, best.then
    may = number < best.key[-1]
    for gain, known, scale in (
        (drop, now.variance - then.variance, now.variance),
        (-worst_s, -then.worst_s, now.worst_s),
        (relief, now.excess - then.excess, 1.0),
    ):
        may = (gain > known + 2 * GRAIN * scale) | ((gain >= known - 2 * GRAIN * scale) & may)
    return may
