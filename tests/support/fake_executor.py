"""What does a device do with a batcher's commands? Pages of plain numbers instead of arrays.

Commands take effect at once and in order, as a device's queue makes it appear; only the results of
steps are kept back by the driver. Whatever would be silent corruption on a device is an
AssertionError here: reading a page that was freed, writing one that somebody else reads, a row
through page 0, a slot that was never loaded, a payload that is not there, a length head that has
not seen every token of a row, a row with a grammar that samples before its last token is known.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from serving.core.plan import (
    Chunk,
    Command,
    DropTransfer,
    FetchPages,
    LoadSlot,
    OffloadPages,
    ReceivePages,
    SendPages,
    StepPlan,
    StepResult,
)
from serving.messages import TaskId, TransferId, WorkerId
from serving.request import SamplingParams, TokenLogprobs
from tests.support.fake_model import constrained, kv_of, sample, score

POISON = None
NO_NUMBER = -1  # stands for NaN: whoever reads it says something else than the oracle
Page = list[int | None]
Trace = tuple[TaskId, int]
"""Whom the length head remembers in a slot, and the last reply token of it that it has seen."""


@dataclass
class Slot:
    """What a device remembers of one row."""

    sampling: SamplingParams
    seen: list[int]
    reply: list[int]  # what the host knows of it: its grammar's place
    last: int | None = None

    def constrain(self, token: int, place: int) -> int:
        """What the row samples in place of `token`, if there is a grammar."""
        if self.sampling.grammar is None:
            return token
        assert len(self.reply) == place, "a row samples before its last token was read"
        return constrained(token, self.sampling.grammar, self.reply)


@dataclass
class Connector:
    """Payloads between workers: put by the sender, taken or dropped once."""

    payloads: dict[TransferId, tuple[WorkerId, list[Page], Trace | None]] = field(
        default_factory=dict
    )
    failed: set[TransferId] = field(default_factory=set)

    def put(
        self, transfer: TransferId, to: WorkerId, pages: list[Page], trace: Trace | None
    ) -> None:
        assert transfer not in self.payloads, "a transfer number was used twice"
        self.failed.discard(transfer)
        self.payloads[transfer] = (to, pages, trace)

    def take(self, transfer: TransferId, by: WorkerId) -> tuple[list[Page], Trace | None]:
        to, pages, trace = self.payloads.pop(transfer)
        assert to == by, "a payload was taken by the wrong worker"
        return pages, trace

    def drop(self, transfer: TransferId) -> None:
        if transfer not in self.failed:
            del self.payloads[transfer]

    def forget(self, worker: WorkerId, announced: set[TransferId]) -> None:
        """A worker is lost: nothing comes to it, and only what it announced comes from it."""
        for transfer, (to, _, _) in list(self.payloads.items()):
            if to == worker or (transfer.sender == worker and transfer not in announced):
                del self.payloads[transfer]
                self.failed.add(transfer)


class FakeExecutor:
    """The device of one worker."""

    def __init__(
        self,
        worker: WorkerId,
        connector: Connector,
        *,
        pages: int,
        page_size: int,
        slots: int,
        holders: Callable[[int], int],
        head: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        """`head`: the reading of a row that is about to sample its reply token of that number."""
        self.worker = worker
        self.head = head
        self.connector = connector
        self.page_size = page_size
        self.kv: list[Page] = [[POISON] * page_size for _ in range(pages)]
        self.slots: list[Slot | None] = [None] * slots
        self.traces: list[Trace | None] = [None] * slots
        self.holders = holders
        self.host: dict[int, Page] = {}
        self.not_finite: frozenset[int] = frozenset()  # tokens for which the model has no numbers
        self.tokens_run = 0
        self.largest_step = 0

    def execute(self, command: Command) -> None:
        match command:
            case LoadSlot(slot, sampling, prompt, reply, _):
                self.slots[slot] = Slot(sampling, [*prompt, *reply], list(reply))
            case SendPages():
                self._send(command)
            case ReceivePages():
                self._receive(command)
            case DropTransfer(transfer):
                self.connector.drop(transfer)
            case OffloadPages(pages, host_slots):
                for page, slot in zip(pages, host_slots, strict=True):
                    assert POISON not in self.kv[page], "a page is offloaded after it was freed"
                    self.host[slot] = list(self.kv[page])
            case FetchPages(transfer, _, host_slots):
                # What is fetched is here no more, and the slot perhaps somebody else's by now.
                copies = [self.host.pop(slot) for slot in host_slots]
                self.connector.put(transfer, self.worker, copies, None)

    def _send(self, send: SendPages) -> None:
        assert send.pages, "an empty transfer"
        assert 0 not in send.pages
        trace = None if send.slot is None else self.traces[send.slot]
        copies = [list(self.kv[page]) for page in send.pages]
        self.connector.put(send.transfer, send.to, copies, trace)

    def _receive(self, receive: ReceivePages) -> None:
        payload, trace = self.connector.take(receive.transfer, self.worker)
        for page, content in zip(receive.pages, payload, strict=True):
            assert page != 0
            assert self.holders(page) <= 1, "a transfer writes a shared page"
            self.kv[page] = list(content)
        if receive.slot is not None:
            self.traces[receive.slot] = trace

    def poison(self, pages: list[int]) -> None:
        """Overwrite pages that hold nothing worth keeping."""
        for page in pages:
            self.kv[page] = [POISON] * self.page_size

    def launch(self, plan: StepPlan) -> StepResult:
        """Run a step. Rows see the pages as they were before it, and their own writes."""
        assert plan.num_new_tokens > 0, "an empty step"
        self.tokens_run += plan.num_new_tokens
        self.largest_step = max(self.largest_step, plan.num_new_tokens)
        writes: dict[tuple[int, int], int] = {}
        fed, decode_ids, decode_scores = self._decode_rows(plan, writes)
        chunk_ids: list[int] = []
        chunk_scores: list[TokenLogprobs] = []
        prompt_scores: dict[int, tuple[TokenLogprobs, ...]] = {}
        for i, chunk in enumerate(plan.chunks):
            history = self._run(chunk.pages, chunk.start, chunk.tokens.tolist(), writes)
            token = self._sample(chunk, history)
            if chunk.sample:
                self.traces[chunk.slot] = (plan.chunk_tasks[i], chunk.reply_index)
            chunk_ids.append(token)
            chunk_scores.append(score(history, token))
            if chunk.targets is not None:
                prompt_scores[i] = tuple(
                    score(history[: chunk.start + j + 1], target)
                    for j, target in enumerate(chunk.targets.tolist())
                )
        for (page, offset), value in writes.items():
            assert self.holders(page) == 1, "a step writes a page that is shared or free"
            self.kv[page][offset] = value
        self.kv[0] = [-1] * self.page_size  # padding writes land here
        samples = any(chunk.sample for chunk in plan.chunks)
        broken_chunks = [not self.not_finite.isdisjoint(c.tokens.tolist()) for c in plan.chunks]
        return StepResult(
            decode_ids,
            chunk_ids,
            decode_scores if plan.logprobs else None,
            chunk_scores if plan.logprobs else None,
            prompt_scores,
            self._readings(plan.decode.reply_index.tolist()) if plan.reads else None,
            self._readings([chunk.reply_index for chunk in plan.chunks]) if samples else None,
            broken_rows=tuple(i for i, token in enumerate(fed) if token in self.not_finite),
            broken_chunks=tuple(i for i, broken in enumerate(broken_chunks) if broken),
        )

    def _readings(self, places: list[int]) -> np.ndarray | None:
        if self.head is None or not places:
            return None
        return np.stack([self.head(place) for place in places]).astype(np.float32)

    def _decode_rows(
        self, plan: StepPlan, writes: dict[tuple[int, int], int]
    ) -> tuple[list[int], list[int], list[TokenLogprobs]]:
        """Return what the rows were fed, what they sampled, and its scores."""
        rows = plan.decode
        feeds: list[int] = []
        ids: list[int] = []
        scores: list[TokenLogprobs] = []
        assert len(set(rows.slot.tolist())) == len(rows.slot), "a slot decodes twice in a step"
        assert len(rows.slot) == len(plan.decode_tasks)
        for i, index in enumerate(rows.slot.tolist()):
            slot = self.slots[index]
            assert slot is not None
            fed = int(rows.token[i]) if rows.from_host[i] else slot.last
            assert fed is not None, "a row is fed by a slot that has sampled nothing"
            history = self._run(rows.pages[i], int(rows.position[i]), [fed], writes)
            task, place = plan.decode_tasks[i], int(rows.reply_index[i])
            assert self.traces[index] == (task, place - 1), "the length head has missed a token"
            self.traces[index] = (task, place)
            if slot.sampling.grammar is not None and len(slot.reply) == place - 1:
                assert rows.from_host[i], "the host does not know what a constrained row sampled"
                slot.reply.append(fed)
            token = sample(history, slot.seen, slot.sampling.seed, place)
            token = slot.constrain(token, place)
            slot.last = token
            slot.seen.append(token)
            feeds.append(fed)
            ids.append(token)
            scores.append(score(history, token))
        return feeds, ids, scores

    def _sample(self, chunk: Chunk, history: list[int]) -> int:
        slot = self.slots[chunk.slot]
        assert slot is not None
        if not chunk.sample:
            return -1
        token = sample(history, slot.seen, slot.sampling.seed, chunk.reply_index)
        token = slot.constrain(token, chunk.reply_index)
        slot.last = token
        slot.seen.append(token)
        return token

    def _run(
        self, table: np.ndarray, start: int, tokens: list[int], writes: dict[tuple[int, int], int]
    ) -> list[int]:
        """Run `tokens` from position `start` on; returns the KV up to the last of them."""
        used = table[: -(-(start + len(tokens)) // self.page_size)].tolist()
        assert len(used) * self.page_size >= start + len(tokens), "a row outgrows its page table"
        assert 0 not in used, "page 0 in the table of a live row"
        assert len(set(used)) == len(used), "a page twice in one table"
        history: list[int] = []
        for position in range(start):
            value = self.kv[used[position // self.page_size]][position % self.page_size]
            assert value is not POISON, "a row reads a page that was freed or never written"
            history.append(value)
        for position, token in enumerate(tokens, start):
            value = NO_NUMBER if token in self.not_finite else kv_of(history, token, position)
            place = (used[position // self.page_size], position % self.page_size)
            assert place not in writes, "two rows write one place in a step"
            writes[place] = value
            history.append(value)
        return history
