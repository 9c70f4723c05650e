"""How do pages reach a worker's tasks, and leave them for a peer that asks?

The history is lent, what arrives is taken in, and a task whose KV is whole decodes on. Knows
nothing of steps; what a prefill sends as it goes is core/stepper's.
"""

from serving.core.handoff import lend
from serving.core.plan import DropTransfer, ReceivePages
from serving.core.worker_state import WorkerState
from serving.core.worker_task import Stage, WorkerTask
from serving.messages import (
    Ack,
    Adopted,
    MoveGoesOn,
    PagesReady,
    PullRequested,
    TaskId,
    ToWorker,
    TransferId,
)


class Transfers:
    """The pages that come to one worker, and those that others pull from it."""

    def __init__(self, state: WorkerState) -> None:
        """Change the tasks of `state`."""
        self._state = state

    def lend(self, pull: PullRequested) -> None:
        """A prefill worker asks for the history of a task that waits here for its KV."""
        entry = self._state.find(pull.task, Stage.GRANTED)
        if entry is not None:
            self._state.out += lend(entry, pull, self._state.next_transfer, self._state.limits)

    def receive(self, ready: PagesReady, now: float) -> None:
        """Take announced pages; with the last of them the task goes on, or is over."""
        self._state.awaited.arrived(ready, now)
        entry = self._state.find(ready.task, Stage.GRANTED, Stage.PULLING)
        ack = Ack(self._state.worker, ready.task, ready.transfer)
        taken = ToWorker(ready.transfer.sender, ack)
        if entry is None or entry.move != ready.move:
            self._state.out += [DropTransfer(ready.transfer), taken]
            return
        entry.taken.add(ready.transfer)
        if entry.unsure_from is None:
            entry.unsure_from = entry.kv_len
        stop = ready.first_page + ready.num_pages
        if not self._state.holdings.extend(entry, stop):
            self._state.out += [DropTransfer(ready.transfer), taken]
            self._state.give_up(entry.task.id, "no_room")
            return
        self._state.offload()
        pages = tuple(entry.pages[ready.first_page : stop])
        decodes = ready.reply is not None and ready.finish is None
        slot = entry.slot if decodes else None
        self._state.out += [ReceivePages(ready.transfer, ready.task, pages, slot), taken]
        if ready.reply is not None:
            entry.tokens[entry.prompt_len :] = ready.reply
            entry.forecast = ready.forecast or entry.forecast
            entry.stated = list(ready.stated)
        # A row that moves fills pages with tokens that are told only at its stop.
        entry.kv_len = max(entry.kv_len, min(ready.stop, len(entry.tokens)))
        # A hand-off or a move is announced as whole once all of its steps have proved sound. The
        # history that is lent has proved so.
        if entry.stage is Stage.PULLING or ready.reply is not None:
            entry.unsure_from = None
            self._state.holdings.name_full_pages(entry)
        if entry.stage is Stage.PULLING:
            if entry.kv_len >= entry.held_len:
                self._state.prefill(entry)
        elif ready.reply is not None:
            self._adopt(entry, now, over=ready.finish is not None)

    def failed(self, task: TaskId, transfer: TransferId) -> None:
        """A transfer broke: a row that leaves stays, any other task begins anew elsewhere."""
        entry = self._state.holdings.tasks.get(task)
        if entry is None or transfer in entry.taken:  # announced twice: the second time in vain
            return
        stays = self._state.departures.abort(task, "transfer_failed")
        if stays:
            self._state.out += stays
            return
        self._state.give_up(task, "transfer_failed")

    def acknowledge(self, ack: Ack, now: float) -> None:
        """A peer has taken a transfer; once it has taken all, the task is done here."""
        for told in self._state.awaited.acknowledged(ack, now):
            if told.move is not None:
                self._state.out.append(MoveGoesOn(self._state.worker, told.task.id, told.move))
        entry = self._state.holdings.tasks.get(ack.task)
        if entry is None:
            return
        entry.unacked.discard(ack.transfer)
        if entry.stage is Stage.SENDING and not entry.unacked:
            self._state.retire(entry)
            if entry.move is not None or not entry.waits:
                self._state.holdings.idle.moved(entry.task.session)

    def _adopt(self, entry: WorkerTask, now: float, *, over: bool) -> None:
        """The KV is whole: decode on, or keep the pages of a reply that is over already."""
        if over:
            self._state.retire(entry)
            return
        reply = tuple(entry.tokens[entry.prompt_len :])
        adopted = Adopted(self._state.worker, entry.task.id, reply, entry.move)
        self._state.out.append(adopted)
        self._state.load_slot(entry)
        self._state.decode(entry, now, token=entry.tokens[-1])
