"""At which token counts is the remaining length of a reply known? Fixed and log-spaced.

Needs no JAX: whoever only reads curves imports this.
"""

MAX_TOKENS = 2**18
EDGES_PER_DOUBLING = 3


def _log_spaced(most: int, per_doubling: int) -> tuple[int, ...]:
    edges = {0, most}
    power = 0
    while (edge := round(2 ** (power / per_doubling))) < most:
        edges.add(edge)
        power += 1
    return tuple(sorted(edges))


EDGES = _log_spaced(MAX_TOKENS, EDGES_PER_DOUBLING)
"""Token counts at which curves are known, ascending from 0."""


def intervals_up_to(horizon: int) -> int:
    """Count the intervals between `EDGES` that lie, or begin, below `horizon` tokens.

    Raises ValueError for a horizon below 1 or beyond the last edge.
    """
    if not 1 <= horizon <= MAX_TOKENS:
        raise ValueError(f"a horizon lies between 1 and {MAX_TOKENS} tokens, not at {horizon}")
    return sum(edge < horizon for edge in EDGES)
