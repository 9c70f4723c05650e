"""Which set of moves is best? At most one move a worker, so moves of a set do not meet.

Guaranteed: a single move is the best of all. With few candidates, so is the set, among the sets
of moves of which each is allowed alone. With many, the best move is chosen again and again, given
those before it. A set never raises the worst step time, nor the excess.
"""

from itertools import combinations
from math import comb

import numpy as np

from serving.policy.rebalance_effects import (
    Balance,
    Effects,
    effects,
    keys,
    score,
    variance_with,
)
from serving.policy.rebalance_load import Floats, Ints, Loads
from serving.policy.rebalance_search import Choice, best_move, best_of, rows_on


def best_set(loads: Loads, balance: Balance) -> list[Choice]:
    """Return the moves to make now, at most `max_moves`; each worker takes part in one at most."""
    most = min(loads.config.max_moves, len(loads.load_s) // 2)
    if most > 1:
        found = _all_allowed(loads, balance)
        if found is not None and _sets(len(found.rows), most) <= loads.config.exact_sets:
            return _best_of_all_sets(loads, balance, found, most)
    return _move_by_move(loads, balance, most)


def after(loads: Loads, balance: Balance, choice: Choice) -> Balance:
    """Return the balance with a move made and its two workers out of the game."""
    one, to = np.array([choice.row]), np.array([choice.to])
    source = loads.owner[one]
    step_s, excess = balance.step_s.copy(), balance.excess.copy()
    step_s[source] -= loads.added_s(one, source)
    step_s[to] += loads.added_s(one, to)
    excess[source] -= choice.now.excess - choice.then.excess
    free = np.ones(len(excess), np.bool_)
    free[source] = free[to] = False
    return Balance(
        step_s=step_s,
        excess=excess,
        sends=balance.sends & free,
        takes=balance.takes & free,
        flees=balance.flees & free,
        shelters=balance.shelters & free,
    )


def _move_by_move(loads: Loads, balance: Balance, most: int) -> list[Choice]:
    chosen: list[Choice] = []
    while len(chosen) < most and (choice := best_move(loads, balance)) is not None:
        chosen.append(choice)
        balance = after(loads, balance, choice)
    return chosen


def _sets(candidates: int, most: int) -> int:
    return sum(comb(candidates, size) for size in range(1, most + 1))


def _all_allowed(loads: Loads, balance: Balance) -> Effects | None:
    """Work out all candidates and keep the allowed ones by number; None if they are too many."""
    rows = rows_on(loads, balance.sends | balance.flees)
    to = np.flatnonzero(balance.takes | balance.shelters)
    if len(rows) * len(to) > loads.config.exact_sets:
        return None
    found = effects(loads, balance, np.repeat(rows, len(to)), np.tile(to, len(rows)))
    allowed = np.flatnonzero(found.allowed)
    return found.part(allowed[np.argsort(found.number[allowed])])


def _best_of_all_sets(loads: Loads, balance: Balance, found: Effects, most: int) -> list[Choice]:
    """Compare all sets; ties go to the fewer moves, then to those that come first by number."""
    best: tuple[tuple[float, ...], Ints] | None = None
    now = score(loads, balance)
    for size in range(1, most + 1):
        sets = _apart(found, size)
        if len(sets) == 0:
            break
        counted = _keys_of_sets(loads, balance, found, sets)
        first = int(np.lexsort(counted[::-1])[0])
        key = tuple(float(count) for count in counted[:, first])
        if best is None or key < best[0]:
            best = key, sets[first]
    if best is None:
        return []
    singles = (best_of(now, found.part(np.array([i]))) for i in best[1])
    return [choice for choice in singles if choice is not None]


def _apart(found: Effects, size: int) -> Ints:
    """Return all sets [N, size] of candidates that share no worker, in order."""
    sets = np.array(list(combinations(range(len(found.rows)), size)), np.int64)
    sets = sets.reshape(-1, size)
    workers = np.sort(np.hstack((found.source[sets], found.to[sets])), axis=1)
    return sets[(np.diff(workers, axis=1) > 0).all(axis=1)]


def _keys_of_sets(loads: Loads, balance: Balance, found: Effects, sets: Ints) -> Floats:
    """Score sets [N, size] in grains, exactly: -> [3, N]."""
    now = score(loads, balance)
    peaks = np.tile(balance.step_s.max(axis=1), (len(sets), 1))
    np.put_along_axis(peaks, np.hstack((found.source[sets], found.to[sets])), -np.inf, axis=1)
    worst = np.maximum(peaks.max(axis=1), found.pair_worst_s[sets].max(axis=1))
    squares, shift = found.squares[sets].sum(axis=1), found.shift[sets].sum(axis=1)
    excess = now.excess - found.relief[sets].sum(axis=1)
    return keys(now, excess, worst, variance_with(loads, balance, squares, shift))
