"""How good are predictions of remaining lengths? Errors, ranks and coverage, by group.

A capped reply's remaining tokens are those that came: whoever predicts knows the limit, so
predictions are cut at it before they are compared (papers.md 5.3). Early places of replies are
recorded more often than others; figures are means over records unless they say otherwise. Knows no
heads.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from predictor.positions import EARLY
from predictor.records import Records

Floats = NDArray[np.float64]
DECILES = 10
LEAST = 30
"""Records of a group whose figures are shown: fewer say nothing."""
DRAWS, SEED = 1000, 0
"""Of sessions, for intervals."""
CONFIDENCE = 0.95


def progress_deciles(records: Records) -> NDArray[np.int64]:
    """Return in which tenth of its reply each record lies, 0 to 9."""
    generated = records.generated.astype(np.int64)
    return np.minimum(generated * DECILES // (generated + records.remaining), DECILES - 1)


def position_deciles(records: Records) -> NDArray[np.int64]:
    """Return into which tenth of all places in replies, by tokens before it, each record falls."""
    edges = np.quantile(records.generated, np.arange(1, DECILES) / DECILES)
    return np.searchsorted(edges, records.generated, side="right")


def place_weights(records: Records, stride: int) -> Floats:
    """Return weights [N] with which every place of every reply counts alike.

    Early ones are always recorded, others once in `stride` tokens (predictor/positions).
    """
    return np.where(np.isin(records.generated, EARLY), 1 / stride, 1.0)


def mean_absolute_error(records: Records, predicted: Floats) -> float:
    """Return the mean distance, in tokens; predictions are cut at the limits."""
    return float(_errors(records, predicted).mean())


def resampled_errors(records: Records, predicted: Floats) -> Floats:
    """Return the mean absolute error for each of `DRAWS` draws of as many sessions, [DRAWS].

    Records of a session stand or fall together: a few long replies may make much of the error. The
    draws are the same for every predictor of the same records.
    """
    sessions, own = np.unique(records.session, return_inverse=True)
    count = len(sessions)
    times = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    errors = np.bincount(own, _errors(records, predicted))
    return (times @ errors) / (times @ np.bincount(own))


def interval(drawn: Floats) -> list[float]:
    """Return the bounds between which `CONFIDENCE` of the draws lie."""
    outside = (1 - CONFIDENCE) / 2
    return np.quantile(drawn, [outside, 1 - outside]).tolist()


def rank_correlation(records: Records, predicted: Floats) -> float:
    """Return Kendall's tau-b of predicted and true lengths; nan if one of them is constant."""
    found: Any = kendalltau(np.minimum(predicted, records.limit), records.remaining)
    return float(found.statistic)


def coverage(records: Records, stated: Floats) -> float:
    """Return how often the truth is at most the stated quantile, which is cut at the limits."""
    return float(_held(records, stated).mean())


def by_group(groups: NDArray[np.int64], names: Mapping[int, str]) -> dict[str, NDArray[np.bool_]]:
    """Return which records belong to each group that has enough of them."""
    masks = {name: groups == group for group, name in names.items()}
    return {name: mask for name, mask in masks.items() if mask.sum() >= LEAST}


def report(
    records: Records, middle: Floats, high: Floats | None, families: tuple[str, ...], stride: int
) -> dict[str, Any]:
    """Measure one predictor: `middle` its point prediction, `high` its stated 90 % quantile.

    `stride` is that of the records. `places` are figures with every place of a reply alike.
    """
    whole = ~records.censored
    tenths = {decile: str(decile) for decile in range(DECILES)}
    groups = {
        "family": by_group(records.family.astype(np.int64), dict(enumerate(families))),
        "progress": by_group(progress_deciles(records), tenths),
        "position": by_group(position_deciles(records), tenths),
    }

    def figures(mask: NDArray[np.bool_]) -> dict[str, Any]:
        some, said, natural = records[mask], middle[mask], mask & whole
        found: dict[str, Any] = {
            "records": int(mask.sum()),
            "mae": mean_absolute_error(some, said),
            "tau": rank_correlation(some, said),
        }
        if natural.any():
            found["mae_uncapped"] = mean_absolute_error(records[natural], middle[natural])
        if high is not None:
            found["covered_q90"] = coverage(some, high[mask])
        return found

    def with_interval(mask: NDArray[np.bool_]) -> dict[str, Any]:
        drawn = resampled_errors(records[mask], middle[mask])
        return {**figures(mask), "mae_interval": interval(drawn)}

    weights = place_weights(records, stride)
    places = {"mae": float(np.average(_errors(records, middle), weights=weights))}
    if high is not None:
        places["covered_q90"] = float(np.average(_held(records, high), weights=weights))
    return {
        "all": with_interval(np.ones(len(records), bool)),
        "uncapped": with_interval(whole),
        "places": places,
        **{
            kind: {name: figures(mask) for name, mask in masks.items()}
            for kind, masks in groups.items()
        },
    }


def _errors(records: Records, predicted: Floats) -> Floats:
    """Return each prediction's distance from the truth; predictions are cut at the limits."""
    return np.abs(np.minimum(predicted, records.limit) - records.remaining)


def _held(records: Records, stated: Floats) -> NDArray[np.bool_]:
    """Return whether each reply came to no more than was stated, which is cut at the limit."""
    return records.remaining <= np.minimum(stated, records.limit)
