"""Who prefills, by how much of the prompt the owner lacks? The thresholds of shipped routers.

Dynamo's conditional disaggregation: `isl_bounding`, its `decode_busy_threshold`, and, if it is
given, `prefill_load`. llm-d's decider is the case of a ratio of 1.
"""

from collections.abc import Sequence

from serving.policy.options import Options, Pulling
from serving.policy.pressure import page_share
from serving.policy.route import Local, Remote, RouteContext, RouteReason
from serving.policy.views import OwnerView, PrefillView, TurnView


def threshold(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Keep turns with few uncached tokens, in number and in share, on an owner that is not busy."""
    config = context.config
    options = Options(turn, owner, prefills, context)
    if not prefills:
        return options.stay(RouteReason.NO_PREFILL_WORKER)
    if page_share(owner, turn.prompt_len) > config.threshold_busy:
        return options.leave(RouteReason.OWNER_BUSY, Pulling.CHEAPEST)
    uncached = options.times.uncached_len
    if uncached < config.threshold_len and uncached < config.threshold_ratio * turn.prompt_len:
        return options.stay(RouteReason.FEW_UNCACHED)
    remotes = options.remotes(Pulling.CHEAPEST)
    away = options.leave_for(remotes, RouteReason.MANY_UNCACHED)
    if config.threshold_prefill_busy is not None:
        chosen = next(worker for worker in prefills if worker.worker == away.worker)
        if chosen.queued_len > config.threshold_prefill_busy * chosen.chunk_len:
            return options.stay(RouteReason.PREFILL_BUSY, remotes)
    return away
