"""How long do steps of any size take, by what those of padding took while a worker warmed up?

A step takes as long as the program that runs it, so a few timed ones speak for all sizes that are
padded to them. The KV that rows attend to is as good as none in them: what it adds is left to the
latency model. Pure: times are given.
"""

from collections.abc import Iterator, Mapping, Sequence

from serving.costs.correction import LEAST
from serving.costs.costs import Costs
from serving.engine.buckets import Bucket, Buckets
from serving.messages import StepTime


def warm_times(
    costs: Costs, buckets: Buckets, padding_s: Mapping[Bucket, Sequence[float]]
) -> list[StepTime]:
    """List steps of sizes in doublings with what `costs` predicts, and what their program took.

    Each size comes as often as a correction wants to see it, its times (`padding_s`, seconds, one
    or more a bucket) by turns. All sizes come once before any comes again, so that the newest speak
    for all.
    """
    sizes = list(_sizes(buckets))
    predicted = {size: _predicted(costs, *size) for size in sizes}
    found: list[StepTime] = []
    for turn in range(LEAST):
        for rows, new_len in sizes:
            took = padding_s[buckets.fit(rows=rows, tokens=new_len, chunks=min(new_len, 1))]
            seconds = took[turn % len(took)]
            found.append(StepTime(rows, new_len, 0, predicted[rows, new_len], seconds))
    return found


def _sizes(buckets: Buckets) -> Iterator[tuple[int, int]]:
    """Yield rows and new tokens of the steps that there are programs for, in doublings."""
    for new_len in (0, *_doublings(max(bucket.tokens for bucket in buckets.steps))):
        for rows in (0, *_doublings(max(bucket.rows for bucket in buckets.steps))):
            if not rows and not new_len:
                continue
            if buckets.holds(rows=rows, tokens=new_len, chunks=min(new_len, 1)):
                yield rows, new_len


def _doublings(most: int) -> list[int]:
    """List 1, 2, 4, ... and `most`."""
    return sorted({*(1 << i for i in range(most.bit_length())), most} - {0})


def _predicted(costs: Costs, rows: int, new_len: int) -> float:
    if not new_len:
        return costs.decode(rows, rows).seconds
    if not rows:
        return costs.prefill(new_len, 0).seconds
    return costs.mixed(rows, rows, new_len, 0).seconds
