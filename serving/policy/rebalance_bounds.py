"""What can a move bring at best? Bounds for many rows times many destinations, quickly.

The change of the variance is exact: it is bilinear in what the row adds and what the destination
carries, hence one matrix product (as in the reconstruction of STAR's gain, for step times instead
of tokens). The worst step time and the need for memory are looked at where the destination's own
peak lies, so that what they rule out is ruled out, and what they let pass has yet to be worked out.
"""

from dataclasses import dataclass, fields

import numpy as np

from serving.policy.rebalance_effects import (
    Balance,
    Score,
    centre,
    gains_enough,
    relief_of,
    score,
    worst_of_others,
)
from serving.policy.rebalance_load import GRAIN, Bools, Floats, Ints, Loads


@dataclass(frozen=True, slots=True)
class RowBounds:
    """Rows [C], most promising first: what each brings whatever its destination is.

    `relief`: exact. `worst_s`: the worst step time is at least that afterwards. `drop`: the
    variance falls by at most that.
    """

    rows: Ints
    relief: Floats
    worst_s: Floats
    drop: Floats

    def part(self, which: slice | Bools | Ints) -> "RowBounds":
        """Return some of the rows."""
        return RowBounds(*(getattr(self, field.name)[which] for field in fields(self)))


@dataclass(frozen=True, slots=True)
class PairBounds:
    """Pairs [P] of row `row[p]`, as an index of the rows bounded, and worker `to[p]`.

    `worst_s` is a lower bound, `drop` exact: by how much the variance falls.
    """

    row: Ints
    to: Ints
    worst_s: Floats
    drop: Floats


def row_bounds(loads: Loads, balance: Balance, rows: Ints, to: Ints) -> RowBounds:
    """Bound rows [C] over all destinations `to` [E >= 1]: most relief first, then the lowest worst.

    Rows that fit nowhere or cannot gain enough are left out. Both, and the bound of `drop`, give
    the row a destination that at every point is the emptiest of all.
    """
    source = loads.owner[rows]
    relief = relief_of(loads, balance, rows, source)
    lost = loads.added_s(rows, source)
    worst = np.maximum(
        (balance.step_s[source] - lost).max(axis=1), worst_of_others(balance.step_s, source, source)
    )
    alive, tokens, off = loads.alive[rows], loads.tokens[rows], _off(loads, balance)
    least = loads.per_row_s[to].min() * alive + loads.per_token_s[to].min() * tokens
    most = loads.per_row_s[to].max() * alive + loads.per_token_s[to].max() * tokens
    emptiest, count = off[to].min(axis=0), len(off)
    at_dest = 2 * np.minimum(least * emptiest, most * emptiest)
    at_dest += (1 - 1 / count) * least**2 + 2 / count * least * lost
    drop = -(at_dest @ loads.weights + _at_source(loads, off, lost, source)) / count
    room = (loads.limit[to, None] * (1 + GRAIN) - _need(loads, to)).max(axis=0)
    useful = (relief > GRAIN) | _may_gain(loads, worst, drop, score(loads, balance))
    bounds = RowBounds(rows, relief, worst, drop).part(useful & (tokens <= room).all(axis=1))
    return bounds.part(np.lexsort((-bounds.drop, bounds.worst_s, -np.rint(bounds.relief / GRAIN))))


def pair_bounds(loads: Loads, balance: Balance, bounds: RowBounds, to: Ints) -> PairBounds:
    """Bound every row's moves to destinations `to` [E], leaving out what is not allowed for sure.

    Rows that relieve a source short of memory must not be mixed with others.
    """
    rows, now = bounds.rows, score(loads, balance)
    viable = _may_fit(loads, rows, to) & (loads.owner[rows, None] != to)
    if not viable.any():
        none = np.zeros(0, np.int64)
        return PairBounds(none, none, np.zeros(0), np.zeros(0))
    alive, tokens = loads.alive[rows], loads.tokens[rows]
    peak = balance.step_s[to].argmax(axis=1)
    at_dest = balance.step_s[to, peak] + loads.per_row_s[to] * alive[:, peak]
    at_dest += loads.per_token_s[to] * tokens[:, peak]
    worst = np.maximum(bounds.worst_s[:, None], at_dest)
    drop = _drop(loads, balance, rows, to)
    viable &= worst <= now.worst_s * (1 + GRAIN)
    if (bounds.relief <= GRAIN).all():
        viable &= _may_narrow(loads, balance, rows, to) & _may_gain(loads, worst, drop, now)
    row, dest = np.nonzero(viable)
    return PairBounds(row, to[dest], worst[viable], drop[viable])


def _drop(loads: Loads, balance: Balance, rows: Ints, to: Ints) -> Floats:
    """Return by how much each pair lowers the variance: [C, E].

    With n workers, c and b what the row adds at source and destination, t the step times about
    their mean: n dV = 2 b t_d + (1 - 1/n) b^2 + 2 b c / n - 2 c t_s + (1 - 1/n) c^2, weighted over
    the horizon; b = per_row * alive + per_token * tokens makes it a product of features.
    """
    weights, count, source = loads.weights, len(loads.load_s), loads.owner[rows]
    share = 1 - 1 / count
    off = _off(loads, balance)
    alive, tokens, lost = loads.alive[rows], loads.tokens[rows], loads.added_s(rows, source)
    per_row, per_token = loads.per_row_s[to, None], loads.per_token_s[to, None]
    of_rows = np.hstack(
        (
            alive * weights,
            tokens * weights,
            np.stack(
                [
                    (a * b) @ weights
                    for a, b in (
                        (alive, alive),
                        (alive, tokens),
                        (tokens, tokens),
                        (alive, lost),
                        (tokens, lost),
                    )
                ],
                axis=1,
            ),
        )
    )
    of_dests = np.hstack(
        (
            2 * per_row * off[to],
            2 * per_token * off[to],
            share * per_row**2,
            share * 2 * per_row * per_token,
            share * per_token**2,
            2 / count * per_row,
            2 / count * per_token,
        )
    )
    at_source = _at_source(loads, off, lost, source)
    return -(of_rows @ of_dests.T + at_source[:, None]) / count


def _off(loads: Loads, balance: Balance) -> Floats:
    """Return the step times about their mean over workers: [D, G]."""
    off = balance.step_s - centre(loads)
    return off - off.mean(axis=0)


def _at_source(loads: Loads, off: Floats, lost: Floats, source: Ints) -> Floats:
    """Return the terms of n dV that hang on the source alone: [C]."""
    share = 1 - 1 / len(off)
    return (lost * (share * lost - 2 * off[source])) @ loads.weights


def _need(loads: Loads, to: Ints) -> Floats:
    """Return the tokens that must fit before anything is added: [E, G]."""
    return loads.held[to] + loads.config.z * np.sqrt(loads.held_noise[to])


def _may_fit(loads: Loads, rows: Ints, to: Ints) -> Bools:
    """Look at the destination's own peak need only: [C, E]."""
    peak = _need(loads, to).argmax(axis=1)
    held = loads.held[to, peak] + loads.tokens[rows][:, peak]
    noise = loads.held_noise[to, peak] + loads.noise[rows][:, peak]
    return held + loads.config.z * np.sqrt(noise) <= loads.limit[to] * (1 + GRAIN)


def _may_narrow(loads: Loads, balance: Balance, rows: Ints, to: Ints) -> Bools:
    """Return where the difference of the pair's loads keeps its sign, up to rounding: [C, E]."""
    load_s, source = balance.step_s @ loads.weights, loads.owner[rows]
    left = load_s[source] - loads.added_s(rows, source) @ loads.weights
    alive, tokens = loads.alive[rows] @ loads.weights, loads.tokens[rows] @ loads.weights
    gained = np.outer(alive, loads.per_row_s[to]) + np.outer(tokens, loads.per_token_s[to])
    return left[:, None] - load_s[to] - gained >= -GRAIN * load_s[source][:, None]


def _may_gain(loads: Loads, worst: Floats, drop: Floats, now: Score) -> Bools:
    slack = GRAIN / 2
    lower, more = now.worst_s * (1 + slack) - worst, drop + slack * now.variance
    return gains_enough(loads, now, lower, more)
