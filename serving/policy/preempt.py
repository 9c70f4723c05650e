"""Who gives up its pages when a row needs one and none is left?"""

from collections.abc import Sequence

from serving.policy.views import HolderView


def preempt(holders: Sequence[HolderView]) -> int:
    """Choose the index of the task to stop: lowest priority, then youngest, then the last one.

    The oldest task of the best priority is never chosen while another holds pages, so it runs to
    its end and the system makes progress. Raises ValueError if nobody holds pages.
    """
    return max(range(len(holders)), key=lambda i: (holders[i].priority, holders[i].arrived, i))
