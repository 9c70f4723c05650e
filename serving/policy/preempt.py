"""Who gives up its pages when a row needs one and none is left?

Why this cannot livelock. Call the *leader* the task first in (priority, arrival) among those that
hold pages. It is never chosen while another holds any; alone it has the pool to itself, which holds
the longest turn. So in every step the leader prefills on, decodes on or waits for a row that does
(policy/pause), whatever becomes of the others, and after finitely many steps it ends. A preempted
task that has replied waits before all that have not, by its first arrival, or by when it is due if
it has time to spare; one that has not is passed over a bounded number of times (core/queue_order),
and so is one with time to spare. Replies that go on are not counted there: unless new turns start,
they are finitely many, and as leaders they end. Then it is its turn, nobody overtakes it, and
leaders end until its pages are free; once in, only the tasks in front of it come before it as
leader, and the leader stands aside for nobody (policy/aside). Chunks of those that come back may
ride before the leader's, but not for ever: nobody stops or stands aside before its first token here
has been read, so each time costs one of finitely many tokens. So each task ends. (A steady stream
of a better priority may hold back a lesser one: that is what priority means.)
"""

from collections.abc import Sequence

from serving.policy.views import HolderView


def preempt(holders: Sequence[HolderView]) -> int:
    """Choose the index of the task to stop: the lowest priority class, then who suffices, then the
    cheapest loss.

    A row is short of one page, and every holder has that to give; but where those that stay outgrow
    what it leaves, another must follow it. So the cheapest goes of those that suffice, or, if none
    does, the cheapest of all. Ties: the youngest, then the last one. The first in (priority,
    arrival, place) is never chosen while another holds pages. Raises ValueError if nobody does.
    """
    able = [i for i, holder in enumerate(holders) if holder.pages]
    if not able:
        raise ValueError("nobody holds pages")
    leader = min(range(len(holders)), key=lambda i: (holders[i].priority, holders[i].arrived, i))
    victims = [i for i in able if i != leader] or able
    return max(
        victims,
        key=lambda i: _order(holders[i], i),
    )


def _order(holder: HolderView, place: int) -> tuple[int, bool, float, float, int]:
    """The last in this order goes."""
    return holder.priority, holder.suffices, -holder.loss_s, holder.arrived, place
