"""When is a reply over? One rule for workers and the coordinator; knows nothing of either."""

from serving.request import FinishReason, SamplingParams


def finish_after(sampling: SamplingParams, token: int, reply_len: int) -> FinishReason | None:
    """Tell whether a reply of `reply_len` tokens, `token` being its last, is over."""
    if token in sampling.stop_ids:
        return FinishReason.STOP
    if reply_len >= sampling.max_tokens:
        return FinishReason.LENGTH
    return None
