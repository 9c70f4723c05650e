"""How do beliefs unfold along the records of replies? As on a server that reads every so often.

A server reads a head at a reply's first token and then at a stride. The early records beside these
(predictor/positions) are places at which one asks, and not links of the chain. Also: which
smoothing and which calibration suit held-out replies? Knows no heads.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from predictor.conformal import Floats, calibrate
from predictor.edges import EDGES
from predictor.positions import EARLY
from predictor.reading import PLAIN, Reader
from predictor.records import Records
from predictor.smoothing import UNSMOOTHED, Smoothing

EXPONENTS = tuple(
    Smoothing(reading, past)
    for reading in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
    for past in (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
)
"""What is tried; (1, 0) leaves readings alone."""
LEAST_CHANCE = 1e-6
"""Floor of a likelihood: one reply that a curve excluded must not decide alone."""


def follow(readings: Floats, records: Records, reader: Reader) -> Floats:
    """Return beliefs [N, E] at each record, from readings [N, E] at it and before it."""
    if reader.smoothing == UNSMOOTHED:
        return readings
    order = np.lexsort((records.generated, records.reply))
    generated, reply = records.generated[order].astype(np.int64), records.reply[order]
    link = (generated == 0) | ~np.isin(generated, EARLY)
    # For every record the last link before it, -1 if its reply has none.
    place = np.arange(len(order))
    last = np.maximum.accumulate(np.where(link, place, -1))
    before = np.concatenate([[-1], last[:-1]])
    before = np.where((before >= 0) & (reply[before] == reply), before, -1)
    depth = _depths(before)
    beliefs = readings[order].copy()
    for level in range(1, int(depth.max(initial=0)) + 1):
        at = np.flatnonzero(depth == level)
        past = before[at]
        came = generated[at] - generated[past]
        beliefs[at] = reader.believe(beliefs[at], beliefs[past], came)
    out = np.empty_like(beliefs)
    out[order] = beliefs
    return out


def stated(readings: Floats, records: Records, reader: Reader) -> Floats:
    """Return the curves [N, E] that a server would state at each record."""
    beliefs = follow(readings, records, reader)
    return reader.state(beliefs, records.generated.astype(np.int64), 0.0)


def fit_reader(
    readings: Floats, records: Records, *, smooths: bool = True, calibrates: bool = True
) -> Reader:
    """Choose exponents by the likelihood of held-out replies, then calibrate what comes of them."""
    reader = PLAIN
    if smooths:
        tried = [replace(PLAIN, smoothing=how) for how in EXPONENTS]
        losses = [log_loss(follow(readings, records, one), records) for one in tried]
        reader = tried[int(np.argmin(losses))]
    if not calibrates:
        return reader
    beliefs = follow(readings, records, reader)
    fitted = calibrate(
        beliefs, records.generated, records.remaining, records.censored, records.reply
    )
    return replace(reader, calibration=fitted)


def log_loss(alive: Floats, records: Records) -> float:
    """Return the mean negative log-likelihood of what came, by interval of `EDGES`, in nats."""
    edges = np.array(EDGES[: alive.shape[1]])
    right = np.clip(np.searchsorted(edges, records.remaining), 1, len(edges) - 1)
    rows = np.arange(len(alive))
    outlived = alive[rows, right - 1]
    chance = np.where(records.censored, outlived, outlived - alive[rows, right])
    return float(-np.log(np.maximum(chance, LEAST_CHANCE)).mean())


def _depths(before: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count the links before each record; `before` names an earlier one, or is -1."""
    depth = np.zeros(len(before), np.int64)
    for place, earlier in enumerate(before.tolist()):
        if earlier >= 0:
            depth[place] = depth[earlier] + 1
    return depth
