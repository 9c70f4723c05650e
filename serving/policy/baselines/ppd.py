"""Who prefills, by what was measured for turns like this one? PPD's rule (PPD 2.2, 2.3).

The order of the tests is that of its code. New tokens are those that the owner lacks, not those
that the client added; the reply's length is forecast, where PPD's code takes the client's limit;
the rate is windowed, where PPD's code divides by the time since start.
"""

from collections.abc import Sequence

from serving.policy.interference import delays, tpot_added
from serving.policy.options import Options, Price, Pulling
from serving.policy.ppd_table import Cell, PpdTable
from serving.policy.route import Local, Remote, RouteContext, RouteReason
from serving.policy.views import OwnerView, PrefillView, TurnView


def ppd(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Score the turn's cell of the table; without a table, a cell of predicted times (ours).

    A remote prefill never pulls: in PPD no KV flows from owner to prefill worker. A cell that was
    not measured is local.
    """
    config = context.config
    options = Options(turn, owner, prefills, context)
    if not prefills:
        return options.stay(RouteReason.NO_PREFILL_WORKER)
    if turn.number == 0:
        return options.leave(RouteReason.FIRST_TURN, Pulling.NEVER)
    if options.times.uncached_len < config.ppd_bypass_len:
        return options.stay(RouteReason.BYPASS)
    if context.table is not None:
        cell = _measured(options, context.table)
        if cell is None:
            return options.stay(RouteReason.UNKNOWN_CELL)
        if cell.score(config.w_ttft, config.w_tpot) > 0:
            return options.stay(RouteReason.SCORE_LOCAL)
        return options.leave(RouteReason.SCORE_REMOTE, Pulling.NEVER)
    remotes = options.remotes(Pulling.NEVER)
    if _predicted(options, remotes).score(config.w_ttft, config.w_tpot) > 0:
        return options.stay(RouteReason.SCORE_LOCAL, remotes)
    return options.leave_for(remotes, RouteReason.SCORE_REMOTE, [options.local()])


def _measured(options: Options, table: PpdTable) -> Cell | None:
    turn, times = options.turn, options.times
    return table.nearest(
        context_len=times.owner.cached_len,
        new_len=times.uncached_len,
        reply_len=turn.remaining.expected(turn.max_new_len),
        rate=turn.arrival_rate,
    )


def _predicted(options: Options, remotes: Sequence[Price]) -> Cell:
    """Return what the costs predict, in the place of a measurement.

    TPOT is the mean over the owner's rows: the turn's own is the same either way once it decodes.
    """
    owner, times = options.times.owner, options.times
    steps = times.local()
    remote_s = min(price.ttft_s for price in remotes)
    decode_s = times.decode_s(owner) if owner.rows else 0.0
    added = tpot_added(owner.residents, delays(owner, steps, decode_s))
    added_s = float(added.mean()) if added.size else 0.0
    return Cell(remote_s, owner.queued_s + steps.total_s, decode_s, decode_s + added_s)
