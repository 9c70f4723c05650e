"""Who prefills? The option that is best for the turn and for the rows beside it: foretoken's rule.

Every option is scored by the turn's own TTFT and by the TPOT that the prefill costs the rows that
decode beside it, each relative to its target. Ours: PPD's weighted sum (PPD 2.2), with predicted
times in place of a table, and with the others' loss in place of the turn's own.

A worker that decodes rows of its own prefills for another one only where that saves a target: until
the hand-off the prompt holds memory on both, which no prediction of times shows (LOG.md). A turn
that stays for that alone says so (`PEERS_BUSY`).
"""

from collections.abc import Sequence

from serving.policy.options import Options, Pulling, first, sent_to
from serving.policy.pressure import page_share
from serving.policy.route import (
    LOCAL,
    Local,
    Option,
    Remote,
    RouteConfig,
    RouteContext,
    RouteReason,
)
from serving.policy.views import OwnerView, PrefillView, TurnView


def foretoken(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Choose the least score; ties: fewer bytes moved, the shorter queue, the smaller id.

    A prefill worker beside whose own rows the prompt would run must miss fewer targets than that.
    """
    options = Options(turn, owner, prefills, context)
    if not prefills:
        return options.stay(RouteReason.NO_PREFILL_WORKER)
    ranked = options.ranked([options.local(), *options.remotes(Pulling.CHEAPEST)])
    busy = {view.worker for view in prefills if view.rows}
    calm = [option for option in ranked if option.choice not in busy]
    if ranked[0] is not calm[0] and ranked[0].missed < calm[0].missed:
        return sent_to(ranked, RouteReason.SAVES_TARGET)
    best = calm[0]
    ranked = first(best, ranked)
    if best.choice != LOCAL:
        return sent_to(ranked, _why_remote(ranked))
    remote = calm[1] if len(calm) > 1 and _is_early(calm[1], best, turn) else None
    if remote is not None and _under_pressure(turn, owner, context.config):
        return sent_to(first(remote, ranked), RouteReason.OWNER_PAGES)
    faster = [option for option in ranked if option.ttft_s < best.ttft_s]
    kept_off = any(option.choice in busy for option in faster)
    reason = RouteReason.PEERS_BUSY if kept_off else RouteReason.LOCAL_FASTEST
    return Local(reason, tuple(ranked))


def _under_pressure(turn: TurnView, owner: OwnerView, config: RouteConfig) -> bool:
    """Would this turn fill the owner's pages beyond the watermark?

    It will decode there anyway, and needs the pages then. But a local prefill takes them from now
    on, and what is prefilled on a full worker is the first to be lost to preemption.
    """
    reply_len = min(turn.max_new_len, turn.remaining.quantile(config.reserve_quantile))
    return page_share(owner, turn.prompt_len + reply_len) > config.page_watermark


def _is_early(remote: Option, local: Option, turn: TurnView) -> bool:
    """Would the turn lose no target by going remotely?

    Pages are no reason to be late: where every prefill worker is far behind, the owner's pages are
    needed soon in any case. (Without this, 77 of 400 turns of a saturated trace went to the longer
    queue, and 6.7 points of attainment with them; LOG.md.)
    """
    if turn.ttft_s is None:
        return True
    left_s = turn.ttft_s - turn.waited_s
    # One that is late in any case waits for no longer than it might have from the start.
    return remote.ttft_s <= max(left_s if left_s > 0 else turn.ttft_s, local.ttft_s)


def _why_remote(ranked: Sequence[Option]) -> RouteReason:
    local = next(option for option in ranked if option.choice == LOCAL)
    if local.ttft_s <= ranked[0].ttft_s:
        return RouteReason.RESIDENTS_HARMED
    return RouteReason.REMOTE_FASTEST
