"""What travels between a prefill worker and a task's owner? The pages that the receiver lacks.

The history goes to the prefill worker (`lend`), each chunk's pages go to the owner while the next
chunk is computed (`send_filled`), and the last of them is announced together with the first token
(`announce`). What the length head remembers of the row goes with the last of them. Copies are
dispatched before the announcement, so no announced page is missing. Long histories go in several
payloads: a peer is silent for no longer than one of them takes (`awaited`). A row that moves while
it decodes (`departures`) sends its pages in the same way.
"""

from collections.abc import Callable

from serving.core.limits import BatcherLimits
from serving.core.plan import Output, SendPages
from serving.core.worker_task import Outgoing, WorkerTask
from serving.messages import (
    Granted,
    PagesReady,
    PullRequested,
    TaskId,
    ToWorker,
    TransferId,
    WorkerId,
)
from serving.policy.admit import pages_for
from serving.request import FinishReason


class EarlyGrants:
    """Grants that overtook their tasks: owner and coordinator are not ordered with each other.

    A grant whose task is gone already looks the same, so each is kept for a limited time. If its
    task comes after all, nobody would grant it again: hence the coordinator is told.
    """

    def __init__(self, keep_s: float) -> None:
        """Start empty; a grant is kept for `keep_s` seconds."""
        self._keep_s = keep_s
        self._grants: dict[tuple[TaskId, int | None], tuple[int, float]] = {}  # len and deadline

    def __len__(self) -> int:
        """Count the grants that are kept."""
        return len(self._grants)

    def keep(self, granted: Granted, now: float) -> None:
        """Remember what the owner holds of a task, or of a move, that has not come yet."""
        self._grants[granted.task, granted.move] = (granted.held_len, now + self._keep_s)

    def take(self, task: TaskId, move: int | None) -> int | None:
        """Return and forget the `held_len` granted to a task's move, or without one to the task.

        None if no such grant has come.
        """
        grant = self._grants.pop((task, move), None)
        return None if grant is None else grant[0]

    def expire(self, now: float) -> list[TaskId]:
        """Forget the grants that were kept for long enough; returns the tasks of hand-offs.

        Moves have deadlines of their own.
        """
        old = [key for key, (_, deadline) in self._grants.items() if deadline <= now]
        for key in old:
            del self._grants[key]
        return [task for task, move in old if move is None]


def lend(
    entry: WorkerTask,
    pull: PullRequested,
    next_transfer: Callable[[], TransferId],
    limits: BatcherLimits,
) -> list[Output]:
    """Send the history asked for. The pages stay held by the owner's granted task."""
    out: list[Output] = []
    first_page, page_size = pull.start // limits.page_size, limits.page_size
    pages = entry.pages[first_page : pages_for(pull.stop, page_size)]
    for some in _payloads(tuple(pages), limits.payload_pages):
        transfer, next_page = next_transfer(), first_page + len(some)
        stop = min(pull.stop, next_page * page_size)
        ready = PagesReady(pull.task, transfer, first_page, len(some), stop, None, None, None)
        out += [SendPages(transfer, pull.task, some, pull.to, None), ToWorker(pull.to, ready)]
        first_page = next_page
    return out


def pages_to_send(entry: WorkerTask, *, last: bool, page_size: int) -> tuple[int, ...]:
    """List the pages filled but not sent yet; with `last`, the part-filled one too."""
    stop = pages_for(entry.kv_len, page_size) if last else entry.kv_len // page_size
    return tuple(entry.pages[entry.sent_pages : stop])


def send_filled(
    entry: WorkerTask,
    owner: WorkerId,
    next_transfer: Callable[[], TransferId],
    limits: BatcherLimits,
    *,
    last: bool,
) -> list[Output]:
    """Copy what a launched chunk fills to the owner; the last copy waits for its announcement.

    Before the first chunk's pages go those that were here and the owner lacks.
    """
    out: list[Output] = []
    page_size = limits.page_size
    payloads = _payloads(pages_to_send(entry, last=last, page_size=page_size), limits.payload_pages)
    whole = payloads[:-1] if last else payloads
    for some in whole:
        out += send(entry, owner, next_transfer(), some, page_size=page_size)
    for some in payloads[len(whole) :]:
        out += send_last(entry, owner, next_transfer(), some)
    return out


def send(
    entry: WorkerTask,
    owner: WorkerId,
    transfer: TransferId,
    pages: tuple[int, ...],
    *,
    page_size: int,
) -> list[Output]:
    """Copy the full pages that come next, and announce them."""
    first_page = entry.sent_pages
    entry.sent_pages += len(pages)
    entry.unacked.add(transfer)
    stop = entry.sent_pages * page_size
    count, move = len(pages), entry.move
    ready = PagesReady(entry.task.id, transfer, first_page, count, stop, None, None, move)
    return [SendPages(transfer, entry.task.id, pages, owner, None), ToWorker(owner, ready)]


def send_last(
    entry: WorkerTask, owner: WorkerId, transfer: TransferId, pages: tuple[int, ...]
) -> list[Output]:
    """Copy the pages that are left, and what the length head remembers of the row.

    They are announced once the last token is known.
    """
    entry.unannounced = Outgoing(transfer, entry.sent_pages, len(pages))
    entry.sent_pages += len(pages)
    entry.unacked.add(transfer)
    return [SendPages(transfer, entry.task.id, pages, owner, entry.slot)]


def announce(
    entry: WorkerTask, owner: WorkerId, finish: FinishReason | None, *, computed: bool
) -> ToWorker:
    """Tell the owner that the hand-off is whole. Needs the copy that `send_filled` left open.

    `computed`: the steps launched before that copy are over.
    """
    last = entry.unannounced
    assert last is not None, "a hand-off was announced twice"
    entry.unannounced = None
    ready = PagesReady(
        task=entry.task.id,
        transfer=last.transfer,
        first_page=last.first_page,
        num_pages=last.num_pages,
        stop=entry.kv_len,
        reply=tuple(entry.tokens[entry.prompt_len :]),
        finish=finish,
        move=entry.move,
        forecast=entry.forecast,
        # What was stated where the prompt ran stays behind. No reply ends at a prefill worker, so
        # its tilt never learns: what its quantiles miss would bend the owner's without end.
        stated=() if entry.move is None else tuple(entry.stated),
        computed=computed,
    )
    return ToWorker(owner, ready)


def _payloads(pages: tuple[int, ...], most: int) -> list[tuple[int, ...]]:
    """Cut pages into payloads of at most `most`, in order."""
    return [pages[i : i + most] for i in range(0, len(pages), most)]
