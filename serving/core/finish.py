"""When is a reply over? One rule for workers and the coordinator; knows nothing of either."""

from serving.messages import DEAD_END, NOT_FINITE, STOPPED, Completed, Dropped, Failed, Outcome
from serving.request import FinishReason, SamplingParams


def finish_after(sampling: SamplingParams, token: int, reply_len: int) -> FinishReason | None:
    """Tell whether a reply of `reply_len` tokens, `token` being its last, is over."""
    if token in sampling.stop_ids:
        return FinishReason.STOP
    if reply_len >= sampling.max_tokens:
        return FinishReason.LENGTH
    return None


def failure_after(reason: str, failures: int, most: int) -> Failed | None:
    """Tell whether a turn fails, after so many failed transfers and lost workers."""
    if reason == NOT_FINITE:
        return Failed(NOT_FINITE, "The model computed NaN or an infinity for this turn.")
    if reason == DEAD_END:
        message = (
            "The grammar, with what else the request allows, leaves no token to go on with, "
            "or is too complex to be followed further."
        )
        return Failed(DEAD_END, message)
    if failures >= most:
        message = f"The turn was given up after {failures} failures ({reason})."
        return Failed("engine_dead", message)
    return None


def ended_by_itself(outcome: Outcome) -> bool:
    """Tell whether a reply ended where it wanted to, and was not cut off."""
    match outcome:
        case Completed(reason):
            return reason is FinishReason.STOP
        case Dropped(reason):
            return reason == STOPPED
        case _:
            return False
