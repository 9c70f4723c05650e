"""Where does each row of a worker stand? Slots, page tables and positions, as arrays.

A slot is a row's place on the device from admission to its end. Rows that decode are *active*;
`advance` makes the decode part of a step for all of them at once, because this is the one place in
the control plane that runs per token. Knows nothing of tasks or of who may have pages.

What a *constrained* row may sample depends on the token before, which the host must have read: it
rides in no step while one that samples for it is unread, and is fed by the host.
"""

from math import inf

import numpy as np
from numpy.typing import NDArray

from serving.core.plan import DecodeRows

POSITION, REPLY_INDEX, _TOKEN, FROM_HOST, _LEFT, ROOM = range(6)
MOVE_ON = np.array([[1], [1], [0], [0], [-1], [0]], np.int32)
"""What a step adds to the state of its rows."""


class Rows:
    """The only writer of one worker's slots."""

    def __init__(self, *, slots: int, max_pages: int, page_size: int) -> None:
        """Make `slots` slots of at most `max_pages` pages each."""
        self._page_size = page_size
        self._free = list(range(slots - 1, -1, -1))
        self._table = np.zeros((slots, max_pages), np.int32)
        # One array, so that a step takes all of it for its rows at once. By slot: what a row's
        # step reads, the tokens that it may still sample, and those that its pages have room for.
        self._state = np.zeros((6, slots), np.int32)
        self._position, self._reply_index, self._token = self._state[:3]
        self._from_host, self._left, self._room = self._state[3:]
        self._wants_logprobs = np.zeros(slots, np.bool_)
        self._num_wanting = 0  # active rows among them
        self._due_from = np.zeros(slots, np.float64)
        self._tpot = np.full(slots, np.nan, np.float64)
        self._targets = 0
        self._active: dict[int, None] = {}
        self._paused: dict[int, None] = {}
        self._constrained: set[int] = set()
        self._unread: set[int] = set()  # constrained ones for which a step planned samples
        self._awaiting: dict[int, None] = {}  # those of them that would be active
        self._active_array: NDArray[np.int32] | None = None
        # From step to step the same rows go on: what is known of all of them together is carried
        # along, until another row joins, one ends, or one needs a page more.
        self._running: _Running | None = None

    @property
    def num_free(self) -> int:
        """Slots that `open` could hand out."""
        return len(self._free)

    def open(self, *, wants_logprobs: bool, constrained: bool) -> int:
        """Take a slot. Raises IndexError if none is free."""
        slot = self._free.pop()
        self._room[slot] = 0
        self._wants_logprobs[slot] = wants_logprobs
        if constrained:
            self._constrained.add(slot)
        return slot

    def close(self, slot: int) -> None:
        """Give a slot back; a row in it stops decoding."""
        self.deactivate(slot)
        self._constrained.discard(slot)
        self._unread.discard(slot)
        self._table[slot] = 0
        self._targets -= not np.isnan(self._tpot[slot])
        self._tpot[slot] = np.nan
        self._free.append(slot)

    def add_pages(self, slot: int, pages: list[int]) -> None:
        """Append pages to a row's table."""
        self._settle()
        start = int(self._room[slot]) // self._page_size
        self._table[slot, start : start + len(pages)] = pages
        self._room[slot] = (start + len(pages)) * self._page_size

    def pages(self, slot: int) -> NDArray[np.int32]:
        """Copy a row's page table, padded with 0."""
        return self._table[slot].copy()

    def activate(
        self, slot: int, *, position: int, reply_index: int, left: int, token: int | None
    ) -> None:
        """Let a row decode: its next fed token stands at `position`; it samples `left` more.

        `token` is the fed token if the host knows it, else the slot sampled it last.
        """
        self._settle()
        self._position[slot] = position
        self._reply_index[slot] = reply_index
        self._left[slot] = left
        self._from_host[slot] = token is not None
        self._token[slot] = token or 0
        if token is None and slot in self._constrained:
            self._unread.add(slot)
        self._set_active(slot)

    def read(self, slot: int, token: int) -> None:
        """Take the token that a row sampled last. A row that is not constrained does without."""
        if slot not in self._unread:
            return
        self._unread.discard(slot)
        self._from_host[slot] = True
        self._token[slot] = token
        if slot in self._awaiting:
            self._set_active(slot)

    def set_target(self, slot: int, *, now: float, tpot_s: float) -> None:
        """From now on a token of this row is due every `tpot_s` seconds."""
        self._settle()
        self._targets += bool(np.isnan(self._tpot[slot]))
        self._tpot[slot] = tpot_s
        self._due_from[slot] = now - tpot_s * (self._reply_index[slot] - 1)

    def slack_s(self, now: float) -> float:
        """Return the time until the most urgent row's next token is late; inf without targets."""
        if not self._targets or not self.num_decoding:
            return inf
        slots = self.active()
        due = self._due_from[slots] + self._tpot[slots] * self._gathered().state[REPLY_INDEX]
        soonest = float(np.fmin.reduce(due, initial=inf))
        if self._awaiting:  # what they sample next comes no sooner than this step ends
            slots = np.fromiter(self._awaiting, np.int32, len(self._awaiting))
            due = self._due_from[slots] + self._tpot[slots] * self._reply_index[slots]
            soonest = float(np.fmin.reduce(due, initial=soonest))
        return soonest - now

    @property
    def num_decoding(self) -> int:
        """Rows that decode: active ones, and those whose last token is yet to be read."""
        return len(self._active) + len(self._awaiting)

    @property
    def num_awaiting(self) -> int:
        """Rows whose last token is yet to be read before they can ride in another step."""
        return len(self._awaiting)

    @property
    def num_unread(self) -> int:
        """Constrained rows for which a step samples that has not been read."""
        return len(self._unread)

    def kv_tokens(self) -> int:
        """Count the tokens that the active rows attend to in the next step."""
        return self._gathered().kv_tokens

    @property
    def num_paused(self) -> int:
        """Rows that wait for a page."""
        return len(self._paused)

    def is_paused(self, slot: int) -> bool:
        """Tell whether a row waits for a page."""
        return slot in self._paused

    def pause(self, slot: int) -> None:
        """Take a row out of the steps to come until it has a page for its next token."""
        self.deactivate(slot)
        self._paused[slot] = None

    def deactivate(self, slot: int) -> None:
        """Take a row out of the steps to come."""
        self._paused.pop(slot, None)
        self._awaiting.pop(slot, None)
        if slot in self._active:
            self._settle()
            del self._active[slot]
            self._num_wanting -= bool(self._wants_logprobs[slot])
            self._active_array = None

    def resume(self, slot: int) -> None:
        """Let a row go on that was taken out while it had tokens to come."""
        self._set_active(slot)

    def goes_on(self, slot: int) -> bool:
        """Tell whether a row decodes on: in the next step, or once it has what it waits for."""
        return slot in self._active or slot in self._paused or slot in self._awaiting

    def room(self, slot: int) -> int:
        """Return how many tokens more a row's pages hold, beyond those of the steps planned."""
        self._settle()
        return max(0, int(self._room[slot] - self._position[slot]))

    def position(self, slot: int) -> int:
        """Return where a row's next fed token stands: the KV before it is computed or launched."""
        self._settle()
        return int(self._position[slot])

    def active(self) -> NDArray[np.int32]:
        """List the slots that decode, in the order of their activation."""
        if self._active_array is None:
            self._active_array = np.fromiter(self._active, np.int32, len(self._active))
        return self._active_array

    def short_of_pages(self) -> list[int]:
        """List the slots of rows that go on whose next token has no page yet."""
        running = self._gathered()
        if running.room > 0:
            return list(self._paused)
        short = running.state[POSITION] >= running.state[ROOM]
        return [*self._paused, *self.active()[short].tolist()]

    def wants_logprobs(self) -> bool:
        """Tell whether an active row wants log-probabilities."""
        return self._num_wanting > 0

    def advance(self) -> DecodeRows:
        """Make the decode part of a step, one token for every active row, and move them on.

        Rows that have planned all their tokens stop being active.
        """
        slots, running = self.active(), self._gathered()
        position, reply_index, token, _, left, _ = running.state
        rows = DecodeRows(
            slots,
            position,
            token,
            running.from_host,
            reply_index,
            running.pages,
            running.kv_tokens,
        )
        ends = running.left <= 1
        running.move_on(1)
        if ends:
            for slot in slots[left <= 1].tolist():
                self.deactivate(slot)
        if self._constrained:
            self._await(slots)
        return rows

    def _await(self, slots: NDArray[np.int32]) -> None:
        """Take the constrained ones of the rows of a step out until what they sample is read."""
        for slot in [slot for slot in slots.tolist() if slot in self._constrained]:
            goes_on = slot in self._active
            self.deactivate(slot)
            self._unread.add(slot)
            if goes_on:
                self._awaiting[slot] = None

    @property
    def steady_for(self) -> int:
        """How many steps more all active rows sample a token each, without another page.

        The first of them to end then has one token to come at least.
        """
        running = self._gathered()
        if self._num_wanting or not running.rows or running.starts:
            return 0
        if self._paused or self._awaiting:
            return 0
        return max(0, min(running.room, running.left - 1))

    def go_on(self, steps: int) -> None:
        """Move all active rows on by so many of the steps that `steady_for` counts."""
        self._gathered().move_on(steps)

    def _gathered(self) -> "_Running":
        """Return what is known of the active rows, in the order of `active`."""
        if self._running is None:
            slots = self.active()
            self._running = _Running(self._state[:, slots], self._table, slots, self._page_size)
        return self._running

    def _settle(self) -> None:
        """Put the active rows' state back into their slots: one of them changes by itself."""
        if self._running is not None:
            self._state[:, self.active()] = self._running.state
            self._running = None

    def _set_active(self, slot: int) -> None:
        self._paused.pop(slot, None)
        self._awaiting.pop(slot, None)
        if slot in self._unread:
            self._awaiting[slot] = None
        elif slot not in self._active:
            self._settle()
            self._active[slot] = None
            self._num_wanting += bool(self._wants_logprobs[slot])
            self._active_array = None


NEVER = 1 << 30
"""More steps than any row has."""


class _Running:
    """The active rows side by side, as long as the same ones go on.

    `state` [6, R] is theirs. Carried along as plain numbers, because a step of few rows takes
    longer to ask an array than to run through the rest of the control plane: `kv_tokens`, what
    they attend to in the next step; `room` and `left`, the steps until the first of them needs a
    page, and until the first has sampled all it may; `starts`: the host has yet to feed one.
    """

    __slots__ = ("from_host", "kv_tokens", "left", "pages", "room", "rows", "starts", "state")

    def __init__(
        self,
        state: NDArray[np.int32],
        table: NDArray[np.int32],
        slots: NDArray[np.int32],
        page_size: int,
    ) -> None:
        self.state = state
        self.rows = len(slots)
        self.kv_tokens = int(state[POSITION].sum()) + self.rows
        self.room = int((state[ROOM] - state[POSITION]).min(initial=NEVER))
        self.left = int(state[_LEFT].min(initial=NEVER))
        self.from_host = state[FROM_HOST].astype(np.bool_)
        self.starts = bool(self.from_host.any())
        # No wider than the longest: most of a table is empty.
        self.pages = table[slots, : int(state[ROOM].max(initial=0)) // page_size]

    def move_on(self, steps: int) -> None:
        """Take the rows so many steps further."""
        # A new array: the old one is the plan's.
        self.state = self.state + (MOVE_ON if steps == 1 else MOVE_ON * np.int32(steps))
        self.kv_tokens += self.rows * steps
        self.room -= steps
        self.left -= steps
        if self.starts:  # their first step is planned; from now on the slot feeds them
            self.starts = False
            self.state[FROM_HOST] = 0
            self.from_host = np.zeros(self.rows, np.bool_)
