"""What is a move of a decoding row, and when is one worth it? Values only."""

from dataclasses import dataclass

from serving.messages import WorkerId


@dataclass(frozen=True, slots=True)
class Move:
    """Row `row` of the view goes from `source` to `to`.

    `gain_s` is what the move alone gains, in seconds of a decode step. `reason` says of what:
    `worst_step` (of the worst predicted step time), `spread` (of the workers' standard deviation,
    as no single move lowers the worst) or `memory` (of the worst step time, 0 if it stays: the
    source is about to run out of pages).
    """

    row: int
    source: WorkerId
    to: WorkerId
    gain_s: float
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RebalanceConfig:
    """How far to look, whom to relieve, and what a move must bring.

    The start values are those of our reconstruction of STAR-style rescheduling (papers.md 4.5); the
    paper's own are not known to us. `exact_sets`, and thresholds on step time instead of tokens,
    are ours. Of the reconstruction's hysteresis three things are left out: a worker is over-loaded
    at once and not only the second time, rows may go back between two workers (each row rests after
    a move), and a row that rests stays also where memory runs out.

    `horizon_steps`: points of the view's grid beyond it are ignored. A step at the horizon weighs
    `decay` times one now. A worker is over-loaded above `1 + th_in` times the mean load, and stays
    so above `1 + th_out`, but not while its worst step takes at most `stake` of the tightest target
    of its rows (ours: such a row gains nothing by a move, and what it evicts is lost; LOG.md);
    under-loaded below `1 - th_under`. `payback`: a row's expected remaining
    time is at least so many times what its move takes. `min_gain`: the share of the worst step
    time, or of what two workers carry of the variance, that a move must take away. `watermark`: the
    share of a worker's capacity that stays free at its peak need, `z` standard deviations above the
    mean. `max_moves` of one call; up to `exact_sets` sets of moves are compared outright, beyond it
    the best move is chosen again and again.
    """

    horizon_steps: float = 2048.0
    decay: float = 0.5
    th_in: float = 0.15
    th_out: float = 0.05
    th_under: float = 0.05
    stake: float = 0.5
    payback: float = 3.0
    min_gain: float = 0.01
    watermark: float = 0.05
    z: float = 1.3
    max_moves: int = 1
    exact_sets: int = 4096

    def __post_init__(self) -> None:
        """Raise ValueError for thresholds out of order and shares that are none."""
        if not 0 <= self.th_out <= self.th_in or not 0 <= self.th_under < 1:
            raise ValueError("thresholds must satisfy 0 <= th_out <= th_in and 0 <= th_under < 1")
        if not 0 <= self.watermark < 1 or not 0 <= self.min_gain < 1 or not 0 <= self.decay <= 1:
            raise ValueError("watermark, min_gain and decay are shares")
        if self.horizon_steps <= 0 or min(self.payback, self.z) < 0:
            raise ValueError("the horizon is positive, payback and z are not negative")
        if self.stake < 0:
            raise ValueError("stake is not negative")
        if min(self.max_moves, self.exact_sets) < 0:
            raise ValueError("max_moves and exact_sets are not negative")
