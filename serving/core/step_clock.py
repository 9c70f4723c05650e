"""How long do a worker's steps take, and how long were they to take?

Steps of one worker run one after another, so a step has taken from the end of the one before it, or
from its launch if the device was idle. Corrects the worker's latency model as it goes, and reports
the times in batches, with what was believed of the last of them. Reads no clock: times are told.
"""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from serving.costs.correction import Corrected, Correction, step_bucket
from serving.costs.costs import Costs, Estimate
from serving.messages import StepsTimed, StepTime, WorkerId

REPORT_STEPS = 16
"""Steps whose times are reported together."""


class _Launched(NamedTuple):
    """A step that runs or is queued."""

    rows: int
    new_len: int
    held_back: int
    at: float
    predicted: Estimate


class StepClock:
    """The only writer of one worker's step times."""

    def __init__(self, worker: WorkerId, costs: Costs) -> None:
        """`costs` predicts, and is corrected by what is observed."""
        self._worker = worker
        self._costs = costs
        self._correction = Correction()
        self.corrected = Corrected(costs, self._correction)
        self._launched: deque[_Launched] = deque()
        self._ended_at = 0.0
        self._times: list[StepTime] = []

    def correct(self, timed: Sequence[StepTime]) -> None:
        """Take times of steps that were not launched here, and are not reported."""
        self._correction.observe_all(timed)

    def launched(
        self,
        now: float,
        rows: int,
        kv_tokens: int,
        new_len: int,
        held_back: int,
        cached_len: int,
    ) -> None:
        """A step was dispatched; `cached_len` is the history of its chunks (their mean).

        By position, because it is told of every step: `rows` that decode and attend to `kv_tokens`
        tokens, `new_len` prompt tokens, and how many more had room but were held back.
        """
        if not new_len:
            estimate = self._costs.decode(rows, kv_tokens)
        elif rows:
            estimate = self._costs.mixed(rows, kv_tokens, new_len, cached_len)
        else:
            estimate = self._costs.prefill(new_len, cached_len)
        self._launched.append(_Launched(rows, new_len, held_back, now, estimate))

    def ended(self, now: float) -> StepsTimed | None:
        """The oldest step has ended; returns a report now and then."""
        step = self._launched.popleft()
        rows, new_len, held_back, at, predicted = step
        ended_at = self._ended_at
        observed_s = now - (at if at > ended_at else ended_at)
        self._ended_at = now
        time = StepTime(rows, new_len, held_back, predicted.seconds, observed_s)
        self._times.append(time)
        report = self._report(predicted) if len(self._times) == REPORT_STEPS else None
        self._correction.observe(step_bucket(rows, new_len), predicted.seconds, observed_s)
        return report

    def go_on(
        self, ends: Sequence[float], rows: int, kv_tokens: int
    ) -> list[tuple[int, StepsTimed]]:
        """Do what `ended` and then `launched` would do at each of these times.

        All steps are of the same `rows`, without chunks; the first that is launched attends to
        `kv_tokens`. Returns the reports, each with the index of the time at which it is due.
        """
        queued, count = list(self._launched), len(ends)
        ahead_s = self._costs.decode_ahead(rows, kv_tokens, count)
        error = queued[0].predicted.error  # of a model's decode steps it is one
        predicted_s = [step.predicted.seconds for step in queued] + ahead_s
        held_back = [step.held_back for step in queued] + [0] * count
        # What is launched on the way begins when the step before it ends.
        began = [self._ended_at, *ends[:-1]]
        for i, step in enumerate(queued[:count]):
            began[i] = max(began[i], step.at)
        timed = zip(held_back, predicted_s, ends, began, strict=False)
        seen = [StepTime(rows, 0, held, s, end - start) for held, s, end, start in timed]
        reports: list[tuple[int, StepsTimed]] = []
        taken = 0
        while len(self._times) + count - taken >= REPORT_STEPS:
            last = taken + REPORT_STEPS - 1 - len(self._times)
            self._times += seen[taken : last + 1]
            # A report tells what was believed before the last step of it had been seen.
            self._correction.observe_all(seen[taken:last])
            reports.append((last, self._report(Estimate(predicted_s[last], error))))
            self._correction.observe_all(seen[last : last + 1])
            taken = last + 1
        self._times += seen[taken:]
        self._correction.observe_all(seen[taken:])
        last_ones = range(max(0, count - len(queued)), count)
        more = [_Launched(rows, 0, 0, ends[i], Estimate(ahead_s[i], error)) for i in last_ones]
        self._launched = deque([*queued[count:], *more])
        self._ended_at = ends[-1]
        return reports

    def _report(self, predicted: Estimate) -> StepsTimed:
        """Say what the last steps took, and was believed of the last of them before it ended."""
        # Of one step a report only: what corrects is sorted anew after each step.
        last = self._times[-1]
        believed = self._correction.correct(step_bucket(last.rows, last.new_len), predicted)
        times, self._times = tuple(self._times), []
        return StepsTimed(self._worker, times, believed.seconds, believed.error)

    @property
    def unreported(self) -> int:
        """Steps that have ended since the last report."""
        return len(self._times)

    def in_flight_s(self, now: float) -> float:
        """Predict how long the steps launched will still take."""
        if not self._launched:
            return 0.0
        total = sum(
            step.predicted.seconds * self._correction.factor(step_bucket(step.rows, step.new_len))
            for step in self._launched
        )
        began = max(self._launched[0].at, self._ended_at)
        return max(0.0, total - (now - began))
