"""What do a classifier's readings along a reply say together? The Bayesian filter of TRAIL.

Between two readings time passes: with each token, a reply in a bin of remaining length moves to the
next lower one with the chance that one token in the bin's width has. Then belief is proportional to
that times the new reading, as if readings were independent (arXiv 2410.01035; papers.md 5.1). Knows
no features.
"""

import numpy as np
from numpy.typing import NDArray

from predictor.head import BIN_TOKENS

Floats = NDArray[np.float64]

LEAST = 1e-30
"""What a bin keeps of belief: rounding to nothing would forbid it for the rest of the reply."""


def filtered(chances: Floats, reply: NDArray[np.int32], generated: NDArray[np.int32]) -> Floats:
    """Return beliefs over bins after each reading, [N, B] both, with those before it folded in.

    Readings of one `reply` follow one another by the tokens `generated` before them, in whatever
    order they stand here.
    """
    beliefs = np.empty_like(chances)
    order = np.lexsort((generated, reply))
    _, starts, counts = np.unique(reply[order], return_index=True, return_counts=True)
    prior = np.ones((1, chances.shape[1]))
    for nth in range(int(counts.max())):
        now = order[starts[counts > nth] + nth]
        if nth:
            before = order[starts[counts > nth] + nth - 1]
            prior = passed(beliefs[before], generated[now] - generated[before])
        joint = np.maximum(prior * chances[now], LEAST)
        beliefs[now] = joint / joint.sum(axis=1, keepdims=True)
    return beliefs


def passed(beliefs: Floats, tokens: NDArray[np.int32]) -> Floats:
    """Return what becomes of beliefs [N, B] while `tokens[n]` tokens come, up to a factor."""
    count = beliefs.shape[1]
    stays = np.eye(count) * (1 - 1 / BIN_TOKENS)
    token = stays + np.eye(count, k=-1) / BIN_TOKENS
    out = np.empty_like(beliefs)
    for number in np.unique(tokens):
        own = tokens == number
        out[own] = beliefs[own] @ np.linalg.matrix_power(token, int(number))
    return out
