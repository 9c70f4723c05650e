"""How do pages come back from host memory? Beside the steps of the others, a payload at a time.

A task that was admitted with pages there waits for them in stage FETCHING. Its worker is its own
peer in that: a payload is announced as those of other workers are, and heard of once it is here, so
that no row waits for a copy. Few are under way at once, because each takes memory of the device
beside the pool: tasks fetch one behind the other, as the way to host memory would have it anyway.
What is not asked for yet stays the host store's, should a task end before.
"""

from serving.core.plan import DropTransfer, FetchPages, ReceivePages
from serving.core.worker_state import WorkerState
from serving.core.worker_task import Stage, WorkerTask
from serving.messages import PagesReady, ToWorker

UNDER_WAY = 2
"""Payloads of a worker: one is copied while the one before it is written into the pool (ours)."""


class Fetches:
    """The tasks of one worker that wait for pages from host memory."""

    def __init__(self, state: WorkerState) -> None:
        """Change the tasks of `state`."""
        self._state = state
        self._tasks: list[WorkerTask] = []  # in the order of their admission; some are gone

    def begin(self, entry: WorkerTask, now: float) -> bool:
        """Ask for what a task's admission found in host memory; False if it found nothing."""
        if not entry.on_host:
            return False
        entry.stage = Stage.FETCHING
        self._state.awaited.begin(entry, self._state.worker, now)
        self._tasks.append(entry)
        self.ask()
        return True

    def ask(self) -> None:
        """Ask for the next payloads, if few enough are under way."""
        self._tasks = [entry for entry in self._tasks if entry.stage is Stage.FETCHING]
        for entry in self._tasks:
            while entry.on_host:
                if sum(map(self._under_way, self._tasks)) >= UNDER_WAY:
                    return
                self._ask_for(entry)

    def receive(self, ready: PagesReady, now: float) -> WorkerTask | None:
        """Take announced pages; returns their task if they were the last and it can go on."""
        self._state.awaited.arrived(ready, now)
        entry = self._state.find(ready.task, Stage.FETCHING)
        if entry is None:
            self._state.out.append(DropTransfer(ready.transfer))
            self.ask()
            return None
        entry.taken.add(ready.transfer)
        pages = tuple(entry.pages[ready.first_page : ready.first_page + ready.num_pages])
        self._state.out.append(ReceivePages(ready.transfer, ready.task, pages, None))
        entry.kv_len = ready.stop
        self._state.holdings.name_full_pages(entry)
        self.ask()
        if entry.on_host or entry.kv_len < entry.asked_len:
            return None
        self._state.awaited.end(entry)
        return entry

    def give_up(self, entry: WorkerTask) -> None:
        """What has not come by now is computed."""
        self._state.awaited.end(entry)
        self._state.holdings.leave_on_host(entry)

    def _under_way(self, entry: WorkerTask) -> int:
        payload_len = self._state.limits.payload_pages * self._state.limits.page_size
        return -(-(entry.asked_len - entry.kv_len) // payload_len)

    def _ask_for(self, entry: WorkerTask) -> None:
        limits, state = self._state.limits, self._state
        slots = state.holdings.fetch(entry, limits.payload_pages)
        transfer, first_page = state.next_transfer(), entry.asked_len // limits.page_size
        entry.asked_len += len(slots) * limits.page_size
        ready = PagesReady(
            entry.task.id, transfer, first_page, len(slots), entry.asked_len, None, None, entry.move
        )
        state.out += [FetchPages(transfer, entry.task.id, slots), ToWorker(state.worker, ready)]
