"""What does one chunk of a prompt run and score?

Knows nothing of pages being held or freed: it reads a task and changes nothing.
"""

import numpy as np
from numpy.typing import NDArray

from serving.core.plan import Chunk
from serving.core.worker_task import WorkerTask
from serving.request import TokenLogprobs


def plan_chunk(entry: WorkerTask, share: int, pages: NDArray[np.int32]) -> Chunk:
    """Plan the next `share` tokens of a task that holds a slot; `pages` is its page table."""
    assert entry.slot is not None
    start, stop = entry.kv_len, entry.kv_len + share
    targets = None
    if entry.scores_prompt:
        successors = entry.tokens[start + 1 : stop + 1]
        targets = np.zeros(share, np.int32)
        targets[: len(successors)] = successors
    return Chunk(
        slot=entry.slot,
        start=start,
        tokens=np.array(entry.tokens[start:stop], np.int32),
        sample=stop == len(entry.tokens),
        reply_index=entry.replied,
        pages=pages,
        targets=targets,
    )


def prompt_scores(entry: WorkerTask) -> tuple[TokenLogprobs | None, ...] | None:
    """Return the log-probability of each prompt token, if they were asked for; the first has none.

    The last target scored is no part of the prompt: what followed it was sampled.
    """
    return (None, *entry.prompt_logprobs[:-1]) if entry.scores_prompt else None
