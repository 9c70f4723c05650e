"""How strictly does a worker keep its rows' pace? As strictly as loses the fewest targets.

Whoever is kept out so that steps stay short may miss its first token, and whoever is let in may
cost the rows their time per token (policy/admit). What a step of rows alone takes says too little
of the latter: prompts ride beside them, rows grow, and others end. So what is lost decides: a
reply that was too slow tightens the pace a little, a first token that will be late for having
waited loosens it by as much. In the long run as many are lost on one side as on the other, which is
near the least where a few rows more make all of them late (stochastic approximation, Robbins and
Monro 1951; ours). Replies take their time to tell: a larger step overshoots (LOG.md).
"""

from collections.abc import Iterable

from serving.core.worker_task import WorkerTask
from serving.costs.costs import Costs
from serving.policy.views import PaceView

RATE = 0.001
"""Share by which a lost target changes the pace (ours)."""
LEAST, MOST = 0.8, 1.25
"""Bounds of `Pace.share` (ours): what is lost for other reasons must not close or open a worker."""


class Pace:
    """The only writer of one worker's pace.

    `share`: how much of what rows may take for a token a step of rows alone may take.
    """

    def __init__(self, costs: Costs, *, keeps: bool) -> None:
        """Start with all of it. `costs` price a step; unless it `keeps` pace nobody is kept out."""
        self._costs = costs
        self._keeps = keeps
        self.share = 1.0

    @property
    def least_s(self) -> float:
        """Predict the step of a short row alone: a tighter target nobody could meet."""
        return self._costs.decode(1, 1).seconds

    def view(self, holders: Iterable[WorkerTask], coming: WorkerTask) -> PaceView | None:
        """Predict the step of all rows and one more; a reply under way was let in before."""
        if not self._keeps or not coming.decodes_here or coming.task.replied:
            return None
        rows = [*(task for task in holders if task.decodes_here), coming]
        targets = [row.task.slo.tpot_s for row in rows]
        if not any(targets):
            return None
        kv_tokens = sum(len(row.tokens) for row in rows)
        step_s = self._costs.decode(len(rows), kv_tokens).seconds
        return PaceView(step_s, self.least_s, self.share, targets)

    def judge(self, task: WorkerTask, now: float) -> None:
        """A reply has ended: the pace follows if it was too slow, though it need not be.

        What the row did elsewhere does not count, nor does a target that nobody could meet.
        """
        since, had = task.since
        tpot_s, came = task.task.slo.tpot_s, task.replied - had
        if tpot_s is not None and now - since > tpot_s * came and tpot_s >= self.least_s:
            self.tighten()

    def tighten(self) -> None:
        """A reply took longer for a token than it may."""
        self.share = max(LEAST, self.share * (1 - RATE))

    def loosen(self) -> None:
        """A turn that was kept out will have its first token too late."""
        self.share = min(MOST, self.share / (1 - RATE))
