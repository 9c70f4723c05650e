"""What does a prefill beside them cost the rows that decode on a worker?

A chunk in a step lengthens it for every row of the step. A row feels it in as many steps as it
still stays; later tokens come as before, so the loss is spread over all that it has yet to decode.
Knows nothing of other options, weights or the new turn: its own TPOT once it decodes is the same
wherever it was prefilled.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.policy.prefill_times import Steps
from serving.policy.views import PlaceView, ResidentsView

Floats = NDArray[np.float64]


def delays(place: PlaceView, steps: Steps, decode_s: float) -> Floats:
    """Return by how many seconds a prefill in `steps` lets each row's reply end later: [R]. Ours.

    `decode_s` is the step without a chunk. Rows that are expected to end while the work queued
    before this prefill runs feel less of it, or nothing. A row is taken to stay for its mean
    remaining length, one token a step.
    """
    queued = -(-place.queued_len // place.chunk_len)
    last_s = max(0.0, steps.last_s - decode_s)
    # By how many steps of this prefill a row stays for; one call of NumPy costs more than the rows.
    stays, felt_s = (0.0, 1.0), (0.0, last_s)
    if steps.full:
        all_full_s = steps.full * max(0.0, steps.full_s - decode_s)
        stays = (0.0, steps.full, steps.full + 1.0)
        felt_s = (0.0, all_full_s, all_full_s + last_s)
    return np.interp(place.residents.expected_len - queued, stays, felt_s)


def tpot_added(rows: ResidentsView, delay_s: Floats) -> Floats:
    """Return the seconds per token that such delays add to each row's TPOT: [R]."""
    return delay_s / np.maximum(rows.expected_len, 1.0)


class Toll(NamedTuple):
    """What delays cost the rows: the relative rise of TPOT over all, and targets that they lose."""

    harm: float
    broken: int


NO_TOLL = Toll(0.0, 0)
"""Where nobody decodes."""


def toll(rows: ResidentsView, delay_s: Floats, decode_s: float) -> Toll:
    """Sum what such delays do to each row's TPOT, relative to its target, and count losses. Ours.

    A row without a target is measured by `decode_s`, the step that it has without the prefill. The
    sum and not the mean: a turn that comes 10 % of its target earlier and ten rows that lose 1 % of
    theirs weigh the same.

    Lost is the target of a row that would end within it, and would not after its delay. A reply's
    TPOT is a mean over all its gaps: those that its client has seen, and those to come, of
    `decode_s` each.
    """
    to_come = np.maximum(rows.expected_len, 1.0)
    base = np.where(rows.tpot_s > 0, rows.tpot_s, decode_s)
    base *= to_come
    harm = float(np.add.reduce(delay_s / base))
    to_spare_s = rows.tpot_s * (rows.gaps + to_come)  # nan without a target: never lost
    to_spare_s -= rows.gaps_s
    to_come *= decode_s
    to_spare_s -= to_come
    return Toll(harm, int(np.count_nonzero((to_spare_s >= 0) & (to_spare_s < delay_s))))
