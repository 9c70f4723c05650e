"""How busy may workers be, so that turns still get their first token in time? Queueing theory.

Prompts come as a Poisson process to a queue that `workers` serve. With offered load `a = rate E[S]`
and utilisation `rho = a / workers`, a prompt waits with Erlang's probability C(workers, a), and
then longer than t with probability exp(-t / w), w = E[S^2] / (2 E[S] workers (1 - rho)): exact for
one worker's mean wait (Pollaczek-Khinchine) and for exponential service; in between the usual
approximation (Allen-Cunneen). Schedulers that look at deadlines do better than this queue in order
of arrival.
"""

import numpy as np
import numpy.typing as npt

Seconds = npt.NDArray[np.float64]

SEARCH_STEPS = 30
FULLEST = 0.98
"""Utilisation beyond which no plan goes: traces burst more than a Poisson process (ours)."""


def erlang_c(workers: int, load: float) -> float:
    """Return the probability of waiting in M/M/n with an offered load below `workers`.

    By the recursion of Erlang's B, which does not overflow.
    """
    blocked = 1.0
    for n in range(1, workers + 1):
        blocked = load * blocked / (n + load * blocked)
    rho = load / workers
    return blocked / (1 - rho + rho * blocked)


def in_time(service: Seconds, workers: int, utilisation: float, target_s: float) -> float:
    """Return the share of prompts that are served, their wait included, within `target_s`.

    `service`: seconds that each of a sample of prompts takes. `utilisation` lies in [0, 1).
    """
    slack = target_s - service
    possible = slack >= 0
    if utilisation == 0:
        return float(possible.mean())
    mean, square = service.mean(), np.square(service).mean()
    scale = square / (2 * mean * workers * (1 - utilisation))
    waits = erlang_c(workers, utilisation * workers)
    late = waits * np.exp(-np.where(possible, slack, 0.0) / scale)
    return float((possible * (1 - late)).mean())


def fullest(service: Seconds, workers: int, target_s: float, share: float) -> float:
    """Return the highest utilisation at which `share` is in time, at most `FULLEST`; 0 if none."""
    low, high = 0.0, FULLEST
    if in_time(service, workers, high, target_s) >= share:
        return high
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        if in_time(service, workers, middle, target_s) >= share:
            low = middle
        else:
            high = middle
    return low
