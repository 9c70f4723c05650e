"""What does a prefill beside them cost the rows that decode on a worker?

A chunk in a step lengthens it for every row of the step. A row feels it in as many steps as it
still stays; later tokens come as before, so the loss is spread over all that it has yet to decode.
Knows nothing of other options, weights or the new turn: its own TPOT once it decodes is the same
wherever it was prefilled.
"""

import numpy as np
from numpy.typing import NDArray

from serving.policy.prefill_times import Steps
from serving.policy.views import OwnerView


def tpot_added(owner: OwnerView, steps: Steps, decode_s: float) -> NDArray[np.float64]:
    """Return the seconds per token that a prefill in `steps` adds to each row's TPOT: [R]. Ours.

    `decode_s` is the step without a chunk. Rows that are expected to end while the work queued
    before this prefill runs feel less of it, or nothing. A row is taken to stay for its mean
    remaining length, one token a step.
    """
    return _delay_s(owner, steps, decode_s) / np.maximum(owner.residents.expected_len, 1.0)


def harm(owner: OwnerView, steps: Steps, decode_s: float) -> float:
    """Sum the rise of TPOT over all rows, each relative to its target. Ours.

    A row without a target is measured by the step that it has without the prefill. The sum and not
    the mean: a turn that comes 10 % of its target earlier and ten rows that lose 1 % of theirs
    weigh the same.
    """
    targets = owner.residents.tpot_s
    if targets.size == 0:
        return 0.0
    base = np.where(targets > 0, targets, decode_s)
    return float((tpot_added(owner, steps, decode_s) / base).sum())


def broken(owner: OwnerView, steps: Steps, decode_s: float) -> int:
    """Count the rows that would end within their TPOT target, and would not after this prefill.

    A reply's TPOT is a mean over all its gaps: those that its client has seen, and those to come,
    of `decode_s` each. Ours.
    """
    rows = owner.residents
    to_come = np.maximum(rows.expected_len, 1.0)
    allowed_s = rows.tpot_s * (rows.gaps + to_come)  # nan without a target: never broken
    expected_s = rows.gaps_s + decode_s * to_come
    late_s = expected_s + _delay_s(owner, steps, decode_s)
    return int(np.count_nonzero((expected_s <= allowed_s) & (late_s > allowed_s)))


def _delay_s(owner: OwnerView, steps: Steps, decode_s: float) -> NDArray[np.float64]:
    """Return by how many seconds each row's reply ends later: [R]."""
    expected = owner.residents.expected_len
    stays = np.maximum(expected - -(-owner.queued_len // owner.chunk_len), 0.0)
    in_full = np.minimum(stays, steps.full)
    in_last = np.minimum(stays - in_full, 1.0)
    delay_s = in_full * max(0.0, steps.full_s - decode_s)
    delay_s += in_last * max(0.0, steps.last_s - decode_s)
    return delay_s
