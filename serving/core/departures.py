"""How does a row leave for another worker while it decodes? The source's side of a live move.

    asked      the destination has been told to make room; its grant has not come
    copying    full pages go out, a few a step, while the row decodes on
    stopped    one full page is left, or none: the row is in no further step; they are copied behind
               the steps already launched, and announced once the tokens of those are known;
               the destination is told at once when that will be, and anew after each step
    gone       announced: an outgoing task like any other, freed when the destination confirms

Until it is announced a move can be given up at any time without loss: the row decodes on. The stop
lasts for the steps in flight, whatever the length of the row (Llumnix, arXiv 2406.03243: staged
copies, a constant stop). Knows no coordinator and no reason to move.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.core.awaited import Awaited
from serving.core.handoff import announce, send, send_last
from serving.core.holdings import Holdings
from serving.core.plan import DropTransfer, Output
from serving.core.worker_task import Stage, WorkerTask
from serving.messages import (
    LastStep,
    MoveAbort,
    MoveFailed,
    MoveOut,
    TaskId,
    ToWorker,
    TransferId,
    WorkerId,
)
from serving.policy.admit import pages_for


@dataclass(slots=True, eq=False)
class Departure:
    """A row on its way to `to`. `stop_len` is its final KV length, once it has been stopped."""

    entry: WorkerTask
    to: WorkerId
    granted: bool
    stop_len: int | None


class Departures:
    """The only writer of one worker's outgoing moves."""

    def __init__(
        self,
        worker: WorkerId,
        holdings: Holdings,
        awaited: Awaited,
        next_transfer: Callable[[], TransferId],
    ) -> None:
        """Start with no row leaving; `next_transfer` numbers the copies.

        Who has to do with `awaited` gives up, by `abort`, the moves whose destinations are silent.
        """
        self._worker = worker
        self._awaited = awaited
        self._holdings = holdings
        self._limits = holdings.limits
        self._next_transfer = next_transfer
        self._leaving: dict[TaskId, Departure] = {}

    def __len__(self) -> int:
        """Count the rows that leave."""
        return len(self._leaving)

    def __contains__(self, task: TaskId) -> bool:
        """Tell whether a task's row leaves."""
        return task in self._leaving

    def ask(self, entry: WorkerTask, asked: MoveOut, held_len: int | None, now: float) -> None:
        """A row that decodes is to leave; `held_len` if the destination has granted it already."""
        entry.move = asked.move
        departure = Departure(entry, asked.to, granted=False, stop_len=None)
        self._leaving[asked.task] = departure
        self._awaited.begin(entry, asked.to, now)
        if held_len is not None:
            self.grant(asked.task, asked.move, held_len, now)

    def grant(self, task: TaskId, move: int | None, held_len: int, now: float) -> bool:
        """The destination has room, and the KV of `held_len` tokens; False if nothing leaves."""
        departure = self._leaving.get(task)
        if departure is None or departure.granted or departure.entry.move != move:
            return False
        departure.granted = True
        self._awaited.begin(departure.entry, departure.to, now)
        departure.entry.held_len = held_len
        departure.entry.sent_pages = held_len // self._limits.page_size
        return True

    def advance(self, in_flight_s: float, now: float) -> list[Output]:
        """Copy what comes next of every row that leaves. To be called once a step is planned.

        `in_flight_s` is how long the steps launched, that one among them, will take.
        """
        out: list[Output] = []
        for departure in list(self._leaving.values()):
            if departure.granted and departure.stop_len is None:
                out += self._copy(departure, in_flight_s, now)
        return out

    def settle(self, entry: WorkerTask, in_flight_s: float, now: float) -> list[Output]:
        """Tokens of a row have come: announce its last pages if these were the last ones.

        If more are to come of a row that has been stopped, the destination is told anew when: a
        step is held back there for half of one, and the first forecast was for two.
        """
        departure = self._leaving.get(entry.task.id)
        if departure is None or departure.stop_len is None:
            return []
        settled = self._settle(entry, now, computed=True)
        return settled or [self._last_step(departure, in_flight_s)]

    def abort(self, task: TaskId, reason: str) -> list[Output]:
        """Give a move up: the row decodes on. Empty if the row is not leaving, or gone already."""
        departure = self._leaving.pop(task, None)
        if departure is None:
            return []
        entry = departure.entry
        self._awaited.end(entry)
        if departure.stop_len is not None and entry.slot is not None:
            self._holdings.rows.resume(entry.slot)
        assert entry.move is not None
        return [*_drop(entry), MoveFailed(self._worker, task, entry.move, reason)]

    def stay(self, asked: MoveAbort) -> list[Output]:
        """Give this move up, if it is under way; the row decodes here in any case."""
        departure = self._leaving.get(asked.task)
        if departure is not None and departure.entry.move == asked.move:
            return self.abort(asked.task, asked.reason)
        return [MoveFailed(self._worker, asked.task, asked.move, asked.reason)]

    def forget(self, task: TaskId) -> None:
        """A row ended, was cancelled or lost its pages."""
        self._leaving.pop(task, None)

    def part_from(self, worker: WorkerId) -> list[Output]:
        """A worker is lost: nothing moves there."""
        lost = [task for task, departure in self._leaving.items() if departure.to == worker]
        return [output for task in lost for output in self.abort(task, "worker_lost")]

    def _last_step(self, departure: Departure, in_flight_s: float) -> ToWorker:
        entry = departure.entry
        assert entry.move is not None
        return ToWorker(departure.to, LastStep(entry.task.id, entry.move, in_flight_s))

    def _settle(self, entry: WorkerTask, now: float, *, computed: bool) -> list[Output]:
        departure = self._leaving.get(entry.task.id)
        if departure is None or departure.stop_len is None:
            return []
        if departure.stop_len != len(entry.tokens) - 1:
            return []
        del self._leaving[entry.task.id]
        entry.kv_len = departure.stop_len
        entry.owner = departure.to
        entry.stage = Stage.SENDING
        self._awaited.begin(entry, departure.to, now)
        self._holdings.close_slot(entry)
        return [announce(entry, departure.to, None, computed=computed)]

    def _copy(self, departure: Departure, in_flight_s: float, now: float) -> list[Output]:
        entry, page_size = departure.entry, self._limits.page_size
        assert entry.slot is not None
        # The stop has the last page to send, also of a row that waits for one at a page's edge.
        last = pages_for(self._holdings.rows.position(entry.slot), page_size) - 1
        full = min(entry.kv_len // page_size, last)
        stop = min(full, entry.sent_pages + self._limits.move_pages)
        pages = tuple(entry.pages[entry.sent_pages : stop])
        out: list[Output] = []
        if pages:
            out += send(entry, departure.to, self._next_transfer(), pages, page_size=page_size)
        # A large copy keeps the destination busy: the row stops with a small one.
        if entry.sent_pages >= full and len(pages) <= 1:
            out += self._stop(departure, in_flight_s, now)
        return out

    def _stop(self, departure: Departure, in_flight_s: float, now: float) -> list[Output]:
        entry, rows = departure.entry, self._holdings.rows
        assert entry.slot is not None
        if not rows.goes_on(entry.slot):
            return self.abort(entry.task.id, "ending")  # its last token is planned already
        stop_len = rows.position(entry.slot)
        last = pages_for(stop_len, self._limits.page_size)
        pages = tuple(entry.pages[entry.sent_pages : last])
        if not pages:
            return []  # the destination holds all of it: until the row has another token, it waits
        rows.deactivate(entry.slot)
        departure.stop_len = stop_len
        out = send_last(entry, departure.to, self._next_transfer(), pages)
        # A row that waits for a page is in no step; its copy is behind one all the same.
        announced = self._settle(entry, now, computed=False)
        if announced:
            return [*out, *announced]
        return [*out, self._last_step(departure, in_flight_s)]


def _drop(entry: WorkerTask) -> list[Output]:
    """Forget what was sent of a row; a copy that nobody was told of is dropped."""
    entry.unacked.clear()
    unannounced, entry.unannounced = entry.unannounced, None
    return [] if unannounced is None else [DropTransfer(unannounced.transfer)]
