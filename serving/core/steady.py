"""What did several steps in a row sample, in which the same rows merely went on?

For drivers that know beforehand when steps end (`Batcher.go_on`): one record of many steps, which
the coordinator takes at once where nothing hangs on a single one.
"""

from collections.abc import Sequence
from typing import NamedTuple

from serving.messages import SampledToken, TaskId, Tokens, WorkerId


class SteadySteps(NamedTuple):
    """Tokens of R rows in N steps without readings, which ended at `ends` [N], in seconds.

    Row i is of `tasks[i]` [R], had `replied[i]` [R] reply tokens before, and sampled `tokens[i]`
    [R, N]; nobody asked for log-probabilities.
    """

    worker: WorkerId
    tasks: Sequence[TaskId]
    replied: Sequence[int]
    tokens: Sequence[Sequence[int]]
    ends: Sequence[float]

    def each(self) -> list[Tokens]:
        """Return the same, step by step: [N]."""
        return [
            Tokens(
                self.worker,
                self.tasks,
                [
                    SampledToken(replied + step, tokens[step], None)
                    for replied, tokens in zip(self.replied, self.tokens, strict=True)
                ],
            )
            for step in range(len(self.ends))
        ]
