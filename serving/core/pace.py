"""How strictly does a worker keep its rows' pace? As strictly as loses the fewest targets.

Whoever is kept out so that steps stay short may miss its first token, and whoever is let in may
cost the rows their time per token (policy/admit). What a step of rows alone takes says too little
of the latter: prompts ride beside them, rows grow, and others end. So what is lost decides: a
reply that was too slow tightens the pace a little, a first token that will be late for having
waited loosens it by as much. In the long run as many are lost on one side as on the other, which is
near the least where a few rows more make all of them late (stochastic approximation, Robbins and
Monro 1951; ours). Replies take their time to tell: a larger step overshoots (LOG.md).
"""

RATE = 0.001
"""Share by which a lost target changes the pace (ours)."""
LEAST, MOST = 0.8, 1.25
"""Bounds of `Pace.share` (ours): what is lost for other reasons must not close or open a worker."""


class Pace:
    """The only writer of one worker's pace.

    `share`: how much of what rows may take for a token a step of rows alone may take.
    """

    def __init__(self) -> None:
        """Start with all of it."""
        self.share = 1.0

    def tighten(self) -> None:
        """A reply took longer for a token than it may."""
        self.share = max(LEAST, self.share * (1 - RATE))

    def loosen(self) -> None:
        """A turn that was kept out will have its first token too late."""
        self.share = min(MOST, self.share / (1 - RATE))
