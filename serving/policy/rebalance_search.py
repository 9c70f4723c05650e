"""Which single move is best? Every allowed one counts, but few have to be worked out.

Branch and bound: rows are taken most promising first; a pair of row and destination is worked out
only if its bounds leave it a chance against the best so far. Only a source short of memory can
lower the excess, and only a worker that alone is worst can lower the worst step time: once such a
move is found, the bounds rule out the rows of all others at once.
"""

from typing import NamedTuple

import numpy as np

from serving.policy.rebalance_bounds import RowBounds, pair_bounds, row_bounds
from serving.policy.rebalance_effects import Balance, Effects, Score, effects, keys, score
from serving.policy.rebalance_load import GRAIN, Bools, Floats, Ints, Loads

BOUNDS_AT_ONCE = 2**18
PAIRS_AT_ONCE = 2**11


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
    short = row_bounds(loads, balance, rows_on(loads, balance.flees))
    short = short.part(slice(np.count_nonzero(short.relief > GRAIN)))
    relieving = _search(loads, balance, short, balance.shelters)
    if relieving is not None:
        return relieving
    over = row_bounds(loads, balance, rows_on(loads, balance.sends))
    return _search(loads, balance, over, balance.takes)


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


def _search(loads: Loads, balance: Balance, bounds: RowBounds, workers: Bools) -> Choice | None:
    to = np.flatnonzero(workers)
    if len(bounds.rows) == 0 or len(to) == 0:
        return None
    best: Choice | None = None
    at_once = max(1, BOUNDS_AT_ONCE // len(to))
    for at in range(0, len(bounds.rows), at_once):
        some = bounds.part(slice(at, at + at_once))
        if best is not None and not _rows_can_beat(best, some)[0]:
            break
        best = _search_part(loads, balance, some, to, best)
    return best


def _search_part(
    loads: Loads, balance: Balance, bounds: RowBounds, to: Ints, best: Choice | None
) -> Choice | None:
    """Work out pairs, PAIRS_AT_ONCE at a time, until none that is left can beat the best."""
    now, found = score(loads, balance), pair_bounds(loads, balance, bounds, to)
    row, dest = np.nonzero(found.viable)
    worst, drop = found.worst_s[row, dest], found.drop[row, dest]
    # The order of work decides only how soon the best is known, so a rough one will do.
    hope = np.rint(worst / ((now.worst_s or 1) * GRAIN)) - drop / (now.variance or 1)
    relief, rows, to = bounds.relief[row], bounds.rows[row], to[dest]
    left = np.arange(len(rows))
    while True:
        if best is not None:
            numbers = loads.number(rows[left], to[left])
            left = left[_can_beat(best, relief[left], worst[left], drop[left], numbers)]
        if len(left) == 0:
            return best
        if len(left) > PAIRS_AT_ONCE:
            left = left[np.argpartition(hope[left], PAIRS_AT_ONCE)]
        first, left = left[:PAIRS_AT_ONCE], left[PAIRS_AT_ONCE:]
        choice = best_of(now, effects(loads, balance, rows[first], to[first]))
        if choice is not None and (best is None or choice.key < best.key):
            best = choice


def _rows_can_beat(best: Choice, bounds: RowBounds) -> Bools:
    any_drop, any_number = np.full(len(bounds.rows), np.inf), np.full(len(bounds.rows), -1)
    return _can_beat(best, bounds.relief, bounds.worst_s, any_drop, any_number)


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
