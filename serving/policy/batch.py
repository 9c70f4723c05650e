"""Which prefill chunks ride in the next step, beside the rows that decode?

Decode rows always ride. Beside them goes the largest amount of prefill with which the step still
ends before the most urgent row's next token is late. A worker that falls behind gives up chunk size
first: rows are never held back, and prefill is never starved, because `min_tokens` always ride, and
with them whatever makes the step no longer, as where it is padded (costs/padded).
Knows nothing of queues: the order of the waiting tasks is the caller's (policy/order).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf

from serving.costs.costs import Costs
from serving.policy.views import ChunkView, DecodingView


@dataclass(frozen=True, slots=True)
class ChunkLimits:
    """How much prefill one step takes: tokens and tasks at most, tokens at least.

    `min_tokens` is also the grain of the search: a step beside decode rows takes a multiple of it,
    or all that there is.
    """

    max_tokens: int
    max_rows: int
    min_tokens: int

    def __post_init__(self) -> None:
        """Raise ValueError unless a step can take something, and the least is not the most."""
        if self.max_rows < 1 or not 1 <= self.min_tokens <= self.max_tokens:
            raise ValueError(
                f"a step takes from {self.min_tokens} to {self.max_tokens} prefill tokens of "
                f"{self.max_rows} tasks; these must be at least 1, and the least no more than the "
                "most"
            )


def batch(
    waiting: Sequence[ChunkView], decoding: DecodingView, *, costs: Costs, limits: ChunkLimits
) -> list[int]:
    """Give tokens to tasks in their order until the step is full; returns tokens per task.

    The result may be shorter than `waiting`: tasks beyond it get nothing this time; only the last
    chunk may be cut. Asks `costs` once where everything fits, else about
    `log2(max_tokens / min_tokens)` times more, and for the least.
    """
    candidates = waiting[: limits.max_rows]
    most = room_for(waiting, limits)
    if decoding.rows == 0 or decoding.slack_s == inf or most <= limits.min_tokens:
        return _share(candidates, most)
    whole_s = _step_s(candidates, most, decoding, costs)
    if whole_s <= decoding.slack_s:
        return _share(candidates, most)
    longest_s = max(decoding.slack_s, _step_s(candidates, limits.min_tokens, decoding, costs))
    if whole_s <= longest_s:
        return _share(candidates, most)
    # So many grains make a step that is short enough, and one that is too long.
    fits, breaks = 1, ceil(most / limits.min_tokens)
    while breaks - fits > 1:
        middle = (fits + breaks) // 2
        if _step_s(candidates, middle * limits.min_tokens, decoding, costs) <= longest_s:
            fits = middle
        else:
            breaks = middle
    return _share(candidates, fits * limits.min_tokens)


def room_for(waiting: Sequence[ChunkView], limits: ChunkLimits) -> int:
    """Return how many prefill tokens one step could take, whatever the rows beside them need."""
    return min(limits.max_tokens, sum(task.remaining for task in waiting[: limits.max_rows]))


def _share(waiting: Sequence[ChunkView], tokens: int) -> list[int]:
    """Give `tokens` out in order."""
    chunks: list[int] = []
    for task in waiting:
        if tokens <= 0:
            break
        chunks.append(min(task.remaining, tokens))
        tokens -= chunks[-1]
    return chunks


def _step_s(
    waiting: Sequence[ChunkView], tokens: int, decoding: DecodingView, costs: Costs
) -> float:
    """Predict a step with `tokens` of prefill.

    Several chunks are priced as one on top of their mean history, weighted by tokens: what they
    attend to in the cache is then the same; among each other they attend to less than is charged.
    """
    chunks = _share(waiting, tokens)
    past = sum(chunk * task.kv_len for chunk, task in zip(chunks, waiting, strict=False))
    return costs.mixed(decoding.rows, decoding.kv_tokens, tokens, ceil(past / tokens)).seconds
