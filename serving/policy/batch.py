"""Which prefill chunks ride in the next step, beside the rows that decode?"""

from collections.abc import Sequence

from serving.policy.views import ChunkView


def batch(waiting: Sequence[ChunkView], *, max_tokens: int, max_rows: int) -> list[int]:
    """Give tokens to tasks in their order until the step is full; returns tokens per task.

    Decode rows always ride, so only the prefill part is decided. The result may be shorter than
    `waiting`: tasks beyond it get nothing this time.
    """
    chunks: list[int] = []
    for task in waiting[:max_rows]:
        tokens = min(task.remaining, max_tokens - sum(chunks))
        if tokens <= 0:
            break
        chunks.append(tokens)
    return chunks
