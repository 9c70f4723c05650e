"""Who prefills, if the answer never depends on load? Four rules to compare with.

They read no prediction to choose between local and remote; those that go remote choose the worker
where the prefill would end first, and price it as every policy does.
"""

from collections.abc import Sequence
from dataclasses import replace

from serving.policy.options import Options, Pulling, sent_to
from serving.policy.route import Local, Remote, RouteContext, RouteReason
from serving.policy.views import OwnerView, PrefillView, TurnView


def replicas(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Let the owner prefill every turn: colocated workers with session affinity."""
    return Options(turn, owner, prefills, context).stay(RouteReason.COLOCATED)


def local(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Append on the owner wherever it holds any of a later turn's history (PPD's x = 1)."""
    options = Options(turn, owner, prefills, context)
    if not prefills:
        return options.stay(RouteReason.NO_PREFILL_WORKER)
    if turn.number == 0:
        return options.leave(RouteReason.FIRST_TURN, Pulling.CHEAPEST)
    if owner.cached_len == 0:
        return options.leave(RouteReason.HISTORY_LOST, Pulling.CHEAPEST)
    return options.stay(RouteReason.HISTORY_HELD)


def pd_delta(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Prefill every turn remotely; history is pulled, and only what the owner lacks is sent.

    The strong form of a disaggregated server, which PPD was not compared with (PPD 2.7). The worker
    is the one with the least predicted time of queue, transfer and prefill, as in Mooncake.
    """
    options = Options(turn, owner, prefills, context)
    if not prefills:
        return options.stay(RouteReason.NO_PREFILL_WORKER)
    return options.leave(RouteReason.ALWAYS_REMOTE, Pulling.ALWAYS)


def pd_full(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Prefill all of every turn remotely and send all of it: PPD's baseline, x = 0.

    The worker with the shortest queue: where nothing is reused there is nothing to be sticky to.
    """
    if not prefills:
        return Options(turn, owner, prefills, context).stay(RouteReason.NO_PREFILL_WORKER)
    shortest = min(prefills, key=lambda w: (w.queued_s, w.turns, w.worker))
    worker = shortest._replace(cached_len=0)
    options = Options(turn, replace(owner, cached_len=0), [worker], context)
    ranked = options.ranked(options.on(worker, Pulling.NEVER))
    return sent_to(ranked, RouteReason.ALWAYS_REMOTE, reuse=False)
