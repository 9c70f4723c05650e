"""Rows need a page and none is left: do they wait for another reply to end, or does one give way?

Who gives way loses its pages, has to compute them again, and is out until there is room for them.
Rows that only wait keep theirs, and go on as soon as a reply ends; but until then all that have run
short stand still. Waiting pays where a reply is likely to end soon, which a length head often
knows. Ours; what vLLM, SGLang and the three papers do is to stop a row at once.

Why this cannot livelock: rows wait only while another decodes on. Nobody is admitted meanwhile, and
replies are finite, so after finitely many steps either pages are free or all rows are short; then
one gives way, as policy/preempt argues.
"""

from dataclasses import dataclass

import numpy as np

from serving.forecast.survival import alive_on
from serving.policy.views import ShortageView


@dataclass(frozen=True, slots=True)
class Pause:
    """What waiting would cost and save, in steps of single rows."""

    lost_steps: float
    saved_steps: float

    @property
    def pays(self) -> bool:
        """Whether rows should wait."""
        return self.lost_steps < self.saved_steps


def weigh(shortage: ShortageView) -> Pause | None:
    """Say what waiting is worth; None if all rows are short, so that none would ever go on.

    Each row that is short loses a step for every step until the first reply ends. If that is before
    all rows are short, nothing is lost to a victim. A row has ended within k steps with the chance
    of its curve, as long as its pages last; replies are taken as independent, and one that ends to
    leave pages enough for all.
    """
    room = shortage.room
    runs = room > 0
    if not runs.any():
        return None
    rows, last = shortage.rows, int(room.max())
    grid = np.arange(last + 1, dtype=np.float64)
    # What has no page left does not end either.
    steps = np.minimum(grid[None, :], room[runs, None]).astype(np.int64)
    alive = alive_on(rows.alive[runs], rows.since[runs], grid)
    alive = np.where(grid < rows.left[runs, None], alive, 0.0)
    none_ended = np.take_along_axis(alive, steps, axis=1).prod(axis=0)
    short = (room[:, None] <= grid[:-1]).sum(axis=0)
    return Pause(
        lost_steps=float((none_ended[:-1] * short).sum()),
        saved_steps=float((1 - none_ended[-1]) * shortage.victim_steps),
    )
