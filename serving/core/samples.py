"""What did a step sample for whom? Results of steps as events, and as tokens of their tasks.

Knows nothing of pages or slots: whoever calls retires what has ended.
"""

from collections.abc import Sequence

from serving.core.chunks import prompt_scores
from serving.core.finish import finish_after
from serving.core.plan import StepResult
from serving.core.steady import SteadySteps
from serving.core.worker_task import Stage, WorkerTask
from serving.forecast.forecast import Forecast
from serving.messages import Finished, PrefillDone, SampledToken, TaskId, Tokens, WorkerId
from serving.request import FinishReason, TokenLogprobs


def take_decoded(
    worker: WorkerId,
    decoding: list[WorkerTask],
    result: StepResult,
    forecasts: Sequence[tuple[TaskId, Forecast]],
) -> tuple[Tokens | None, list[tuple[WorkerTask, Finished]]]:
    """Append each row's token to its task; returns the tokens to emit, and who ended with them.

    Rows that have left since the step was launched are skipped. `forecasts` go with the tokens.
    """
    tasks: list[TaskId] = []
    samples: list[SampledToken] = []
    ended: list[tuple[WorkerTask, Finished]] = []
    logprobs = result.decode_logprobs
    # The one loop of the batcher that runs per token: fewest look-ups, no properties.
    for i, (entry, token) in enumerate(zip(decoding, result.decode_ids, strict=True)):
        if entry.stage is not Stage.DECODE:
            continue
        task, tokens = entry.task, entry.tokens
        sampling = task.turn.sampling
        kv_len = entry.kv_len = len(tokens)
        replied = kv_len - entry.prompt_len
        scored = None
        if logprobs is not None and sampling.logprobs is not None:
            scored = logprobs[i]
        tasks.append(task.id)
        samples.append(SampledToken(replied, token, scored))
        tokens.append(token)
        if replied + 1 >= sampling.max_tokens or token in sampling.stop_ids:
            reason = finish_after(sampling, token, replied + 1)
            if reason is not None:
                ended.append((entry, Finished(worker, task.id, reason, replied + 1)))
    return (Tokens(worker, tasks, samples, forecasts) if tasks else None), ended


def take_steady(
    worker: WorkerId,
    decoding: list[WorkerTask],
    ids: Sequence[Sequence[int]],
    ends: Sequence[float],
) -> SteadySteps:
    """Append each row's tokens of several steps, `ids` [N, R], to its task; they end at `ends` [N].

    Raises ValueError if a row has left or would end with one of them.
    """
    before: list[int] = []
    columns = list(zip(*ids, strict=True))
    for entry, sampled in zip(decoding, columns, strict=True):
        sampling, tokens = entry.task.turn.sampling, entry.tokens
        replied = len(tokens) - entry.prompt_len
        ends_here = replied + len(sampled) >= sampling.max_tokens
        ends_here = ends_here or not set(sampled).isdisjoint(sampling.stop_ids)
        if ends_here or entry.stage is not Stage.DECODE:
            raise ValueError("a row has ended, so its worker does not merely go on")
        before.append(replied)
        tokens += sampled
        entry.kv_len = len(tokens) - 1
    return SteadySteps(worker, [entry.task.id for entry in decoding], before, columns, ends)


def take_first(
    worker: WorkerId, entry: WorkerTask, token: int, logprobs: TokenLogprobs | None, now: float
) -> tuple[PrefillDone, FinishReason | None]:
    """Append the token that ends a prefill; returns what to tell, and whether the reply is over."""
    sampling = entry.task.turn.sampling
    wanted = logprobs if sampling.logprobs is not None else None
    first = SampledToken(entry.replied, token, wanted)
    entry.tokens.append(token)
    reason = finish_after(sampling, token, entry.replied)
    scores = prompt_scores(entry)
    prefill_s = now - entry.started_at
    forecast = entry.forecast
    done = PrefillDone(
        worker, entry.task.id, first, entry.computed, scores, reason, prefill_s, forecast
    )
    return done, reason
