"""Who prefills, by the slack that the last seconds left? AMPD's three cases (AMPD 3.3).

AMPD-style: the cases are the paper's, their formulas the reconstruction in our reference, but that
a history is read behind the whole queue, as our workers do it, and not behind the task before it
alone: that favours AMPD. Targets that are missing leave only the third case, which needs none
(ours).
"""

from collections.abc import Sequence
from typing import NamedTuple

from serving.policy.options import Options, Pulling, shortlist
from serving.policy.route import Local, Remote, RouteContext, RouteReason
from serving.policy.views import OwnerView, PrefillView, TurnView


class Least(NamedTuple):
    """The prefill worker whose prefill would end first, and when."""

    seconds: float
    worker: PrefillView


def ampd(
    turn: TurnView, owner: OwnerView, prefills: Sequence[PrefillView], context: RouteContext
) -> Local | Remote:
    """Go to a prefill worker with slack in TTFT, else stay if the owner's ITL has slack.

    Where neither has slack, the smaller estimated time decides. A worker that did nothing in the
    window has slack.
    """
    config = context.config
    options = Options(turn, owner, prefills, context)
    if not prefills:
        return options.stay(RouteReason.NO_PREFILL_WORKER)
    if turn.ttft_s is not None:
        limit = config.ampd_alpha * turn.ttft_s
        slack = [w for w in prefills if w.ttft_s is None or w.ttft_s <= limit]
        if slack:
            found = options.on(_least(options, slack).worker, Pulling.ALWAYS)
            return options.leave_for(found, RouteReason.PREFILL_SLACK)
    if turn.tpot_s is not None and (
        owner.itl_s is None or owner.itl_s <= config.ampd_beta * turn.tpot_s
    ):
        return options.stay(RouteReason.OWNER_SLACK)
    least = _least(options, prefills)
    # The rows that decode beside it are not counted: whether AMPD charges them is not published.
    steps = options.times.alone(owner.cached_len, owner.chunk_len)
    found = options.on(least.worker, Pulling.ALWAYS)
    if owner.queued_s + steps.total_s <= least.seconds:
        return options.stay(RouteReason.LESS_TIME_LOCAL, found)
    return options.leave_for(found, RouteReason.LESS_TIME_REMOTE, [options.local()])


def _least(options: Options, workers: Sequence[PrefillView]) -> Least:
    """Return the least queue, history read (hidden by the queue), prefill and return of new KV."""
    times = options.times
    found: list[Least] = []
    for worker in shortlist(workers):
        pull_s = times.transfer_s(times.pull_len(worker), worker)
        cached_len = max(worker.cached_len, times.owner.cached_len)
        prefill_s = times.alone(cached_len, worker.chunk_len).total_s
        returned_s = times.transfer_s(times.lacking_len, worker)
        seconds = max(worker.queued_s, pull_s) + prefill_s + returned_s
        found.append(Least(seconds, worker))
    return min(found, key=lambda least: least.seconds)
