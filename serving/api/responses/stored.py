"""Which conversations does the server keep, so that a next turn need only name the last response?

1. A response is `add`ed once it has ended well. What it adds to its conversation is a `Stretch`
   behind that of the response before, so that a long conversation is kept once.
2. `find` and being continued make it young again: whatever was not used for longest leaves first,
   where there are too many, or too many bytes, and after its time.
3. A stretch stays for as long as its response, or any behind it, is there.

A state machine that is told the time. Knows nothing of HTTP.
"""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from serving.api.replies import Tenant, text_size
from serving.api.responses.items import CallItem, Item, MessageItem, ResultItem
from serving.request import SessionId

ITEM_BYTES = 150
"""What an item takes beside its characters (tracemalloc)."""

RESPONSE_BYTES = 420
"""What a response takes beside its object and its items (tracemalloc)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """How many responses are kept, in how much memory, for how long (seconds) after their use."""

    max_responses: int
    max_bytes: int
    ttl_s: float


@dataclass(slots=True, eq=False)
class Stretch:
    """The items that one response adds to those `before`: what was asked, and what it says.

    `size` is theirs alone, in bytes; `holders` counts what needs them: their response, while it is
    kept, and the stretches behind them that are needed.
    """

    items: tuple[Item, ...]
    before: "Stretch | None"
    size: int
    holders: int = 0


@dataclass(slots=True, eq=False)
class Stored:
    """A response as it was answered, its conversation, and the session that has its KV, if named.

    `last_used` is a time in seconds.
    """

    owner: Tenant
    body: bytes
    stretch: Stretch
    session: SessionId | None
    last_used: float

    @property
    def size(self) -> int:
        """What it takes beside its stretch, in bytes."""
        return RESPONSE_BYTES + len(self.body)


def stretch(items: tuple[Item, ...], before: Stretch | None) -> Stretch:
    """Return what a response adds to a conversation."""
    return Stretch(items, before, sum(map(_size, items)))


def conversation(last: Stretch | None) -> tuple[Item, ...]:
    """Return all items up to the end of a stretch, in their order."""
    return tuple(item for one in reversed([*_back(last)]) for item in one.items)


def size_of(last: Stretch | None) -> int:
    """Return what a conversation up to the end of a stretch takes, in bytes."""
    return sum(one.size for one in _back(last))


class StoredResponses:
    """The only writer of the table of responses, which keeps within its bounds at any time."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._by_id: OrderedDict[str, Stored] = OrderedDict()  # least recently used first
        self._bytes = 0

    def __len__(self) -> int:
        """Count the responses."""
        return len(self._by_id)

    @property
    def bytes(self) -> int:
        """What all of them take in memory, about."""
        return self._bytes

    def add(self, id: str, stored: Stored) -> None:
        """Keep a response, used last at the time that it says.

        One that cannot be kept within the bounds is not, and makes no other leave.
        """
        self.expire(stored.last_used)
        if stored.size + size_of(stored.stretch) > self._bounds.max_bytes:
            return
        self._by_id[id] = stored
        self._bytes += stored.size
        self._hold(stored.stretch)
        while len(self) > self._bounds.max_responses or self._bytes > self._bounds.max_bytes:
            self._drop(next(iter(self._by_id)))

    def find(self, id: str, owner: Tenant, now: float) -> Stored | None:
        """Return a response of the owner's and use it; None: there is none."""
        self.expire(now)
        stored = self._by_id.get(id)
        if stored is None or stored.owner != owner:
            return None
        stored.last_used = now
        self._by_id.move_to_end(id)
        return stored

    def remove(self, id: str, owner: Tenant, now: float) -> bool:
        """Forget a response of the owner's; False: there is none. Those behind it stay whole."""
        if self.find(id, owner, now) is None:
            return False
        self._drop(id)
        return True

    def expire(self, now: float) -> None:
        """Forget the responses whose time is over."""
        while self._by_id:
            id, oldest = next(iter(self._by_id.items()))
            if now - oldest.last_used <= self._bounds.ttl_s:
                return
            self._drop(id)

    def _drop(self, id: str) -> None:
        stored = self._by_id.pop(id)
        self._bytes -= stored.size
        for one in _back(stored.stretch):
            one.holders -= 1
            if one.holders:
                return
            self._bytes -= one.size

    def _hold(self, last: Stretch) -> None:
        """Its conversation may have been let go of since the turn began: then it is taken back."""
        for one in _back(last):
            one.holders += 1
            if one.holders > 1:
                return
            self._bytes += one.size


def _back(last: Stretch | None) -> Iterator[Stretch]:
    """Go from a stretch to the beginning of its conversation."""
    while last is not None:
        yield last
        last = last.before


def _size(item: Item) -> int:
    match item:
        case MessageItem(_, text):
            return ITEM_BYTES + text_size(text)
        case CallItem(call_id, name, arguments):
            return ITEM_BYTES + sum(map(text_size, (call_id, name, arguments)))
        case ResultItem(call_id, output):
            return ITEM_BYTES + text_size(call_id) + text_size(output)
