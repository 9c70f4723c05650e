"""What would a move do to the worst step time, the spread and the memory, and is it allowed?

Exact, for many candidates at once, against a balance in which some workers may have had their move
already. Shapes: `C` candidates, otherwise those of `rebalance_load`.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from serving.policy.rebalance_load import GRAIN, Bools, Floats, Ints, Loads


class Score(NamedTuple):
    """The objective, in falling order of importance; less is better.

    `excess`: the sum over workers of the share of capacity by which the peak need is above the
    limit (0 unless memory runs out; that it comes first is ours: a preempted row costs more than
    a slow step). `worst_s`: the worst step time over workers and horizon. `variance`: that of step
    times over workers, averaged over the horizon by weight, in square seconds.
    """

    excess: float
    worst_s: float
    variance: float


@dataclass(frozen=True, slots=True)
class Balance:
    """Step times [D, G] and excess [D] with the moves chosen so far; who may still take part [D].

    `sends`, `takes`: over-loaded sources and under-loaded destinations. `flees`, `shelters`:
    sources short of memory and destinations that are not.
    """

    step_s: Floats
    excess: Floats
    sends: Bools
    takes: Bools
    flees: Bools
    shelters: Bools


@dataclass(frozen=True, slots=True)
class Effects:
    """What each candidate [C] would do, alone: row `rows[c]` goes to worker `to[c]`.

    `relief`: by how much the excess falls. `pair_worst_s`: the worst step time of the two workers
    afterwards. `squares`, `shift` [C, G]: how the sums over workers of the squared and of the plain
    step times change, the former about `centre(loads)`. `number`: the order among equals.
    """

    rows: Ints
    source: Ints
    to: Ints
    relief: Floats
    pair_worst_s: Floats
    worst_s: Floats
    variance: Floats
    squares: Floats
    shift: Floats
    allowed: Bools
    number: Ints

    def part(self, which: Ints) -> "Effects":
        """Return some of the candidates."""
        return Effects(*(getattr(self, field.name)[which] for field in fields(self)))


def start(loads: Loads, may_send: Bools, may_receive: Bools) -> Balance:
    """Return the balance before any move."""
    everyone = np.arange(len(loads.load_s))
    excess = loads.excess(loads.held, loads.held_noise, everyone)
    return Balance(
        step_s=loads.step_s,
        excess=excess,
        sends=loads.over & may_send,
        takes=loads.under & may_receive,
        flees=(excess > 0) & may_send,
        shelters=(excess == 0) & may_receive,
    )


def score(loads: Loads, balance: Balance) -> Score:
    """Return the objective of a balance."""
    return Score(
        excess=float(balance.excess.sum()),
        worst_s=float(balance.step_s.max()),
        variance=float(
            ((balance.step_s - balance.step_s.mean(axis=0)) ** 2).mean(axis=0) @ loads.weights
        ),
    )


def centre(loads: Loads) -> Floats:
    """Return the point [G] about which squares are taken, for the sake of precision."""
    return loads.step_s.mean(axis=0)


def effects(loads: Loads, balance: Balance, rows: Ints, to: Ints) -> Effects:
    """Work out candidates, each alone on top of `balance`: [C], [C].

    Allowed is a move of a candidate row to another worker that fits below the destination's limit,
    raises no worst step time, and either relieves a source that is short of memory, or goes from an
    over-loaded to an under-loaded worker, gains enough, repays what it evicts there, and does not
    overshoot: the difference of their loads narrows and keeps its sign (0 counts as kept, so that a
    pair may end level).
    """
    source, now = loads.owner[rows], score(loads, balance)
    lost, gained = loads.added_s(rows, source), loads.added_s(rows, to)
    before_s, before_d = balance.step_s[source], balance.step_s[to]
    pair_worst = np.maximum((before_s - lost).max(axis=1), (before_d + gained).max(axis=1))
    worst = np.maximum(pair_worst, worst_of_others(balance.step_s, source, to))
    mid = centre(loads)
    squares = lost * (lost - 2 * (before_s - mid)) + gained * (gained + 2 * (before_d - mid))
    shift = gained - lost
    variance = variance_with(loads, balance, squares, shift)
    relief = relief_of(loads, balance, rows, source)
    moved, noise = loads.tokens[rows], loads.noise[rows]
    fits = loads.excess(loads.held[to] + moved, loads.held_noise[to] + noise, to) == 0
    load_s = balance.step_s @ loads.weights
    gap = load_s[source] - load_s[to]
    gap_after = gap - (lost + gained) @ loads.weights
    narrows = (gap_after >= -GRAIN * np.abs(gap)) & (gap_after < gap)
    enough = gains_enough(loads, now, now.worst_s - worst, now.variance - variance)
    repays = loads.spare_s[rows] >= loads.config.payback * loads.evicted_s(rows, to)
    by_load = balance.sends[source] & balance.takes[to] & narrows & enough & repays
    by_memory = balance.flees[source] & balance.shelters[to] & (relief > GRAIN)
    safe = loads.candidate[rows] & (source != to) & fits & (worst <= now.worst_s * (1 + GRAIN / 2))
    return Effects(
        rows=rows,
        source=source,
        to=to,
        relief=relief,
        pair_worst_s=pair_worst,
        worst_s=worst,
        variance=variance,
        squares=squares,
        shift=shift,
        allowed=safe & (by_load | by_memory),
        number=loads.number(rows, to),
    )


def gains_enough(loads: Loads, now: Score, lower_s: Floats, drop: Floats) -> Bools:
    """Return where the worst step time or the variance falls by its minimum, element by element.

    Of the variance two of n workers carry 2 / n on average: `min_gain` is a share of that, lest no
    single move among many workers be worth it.
    """
    share = max(loads.config.min_gain, GRAIN)
    pair = now.variance * 2 / len(loads.load_s)
    return (lower_s > share * now.worst_s) | (drop > share * pair + GRAIN * now.variance)


def variance_with(loads: Loads, balance: Balance, squares: Floats, shift: Floats) -> Floats:
    """Return the variance once the sums over workers have changed by `squares`, `shift` [C, G]."""
    off = balance.step_s - centre(loads)
    count = len(off)
    mean = (off.sum(axis=0) + shift) / count
    return (((off**2).sum(axis=0) + squares) / count - mean**2) @ loads.weights


def keys(now: Score, excess: Floats, worst_s: Floats, variance: Floats) -> Floats:
    """Count scores in grains of what there is now, the less the better: [C] each -> [3, C].

    Scores that differ by rounding only are equal in grains.
    """
    grain = [GRAIN, (now.worst_s or 1) * GRAIN, (now.variance or 1) * GRAIN]
    return np.rint(np.stack((excess, worst_s, variance)) / np.array(grain)[:, None])


def worst_of_others(step_s: Floats, a: Ints, b: Ints) -> Floats:
    """Return the worst step time of all workers but two: one of the three worst has it."""
    peaks = step_s.max(axis=1)
    worst_first = np.argsort(-peaks)[:3]
    found = np.full(len(a), -np.inf)
    for worker in worst_first[::-1]:
        found = np.where((a == worker) | (b == worker), found, peaks[worker])
    return found


def relief_of(loads: Loads, balance: Balance, rows: Ints, source: Ints) -> Floats:
    """Return by how much the excess falls at the source; only one that has some can lose any."""
    relief = np.zeros(len(rows))
    short = np.flatnonzero(balance.excess[source] > 0)
    if len(short):
        rows, source = rows[short], source[short]
        held = loads.held[source] - loads.tokens[rows]
        noise = np.maximum(loads.held_noise[source] - loads.noise[rows], 0)
        relief[short] = balance.excess[source] - loads.excess(held, noise, source)
    return relief
