"""Kept responses keep within their bounds, whatever comes, and conversations stay whole."""

from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from serving.api.replies import Tenant
from serving.api.responses.items import CallItem, Item, MessageItem, ResultItem
from serving.api.responses.stored import (
    ITEM_BYTES,
    RESPONSE_BYTES,
    Bounds,
    Stored,
    StoredResponses,
    Stretch,
    conversation,
    size_of,
    stretch,
)
from serving.request import SessionId

ANN, BOB = Tenant("ann"), Tenant("bob")
ROOMY = Bounds(max_responses=100, max_bytes=10**6, ttl_s=10.0)
BODY = b"0123456789"
ITEM = MessageItem("user", "12345")
ONE = RESPONSE_BYTES + len(BODY) + ITEM_BYTES + 5


def kept(before: Stretch | None = None, now: float = 0.0, *, owner: Tenant = ANN) -> Stored:
    return Stored(owner, BODY, stretch((ITEM,), before), SessionId("s"), now)


def test_what_is_kept_is_found_by_its_owner_alone():
    table = StoredResponses(ROOMY)
    table.add("a", first := kept())
    assert table.find("a", ANN, 1.0) is first
    assert table.find("a", BOB, 1.0) is None
    assert table.find("b", ANN, 1.0) is None
    assert not table.remove("a", BOB, 1.0)
    assert table.remove("a", ANN, 1.0)
    assert not table.remove("a", ANN, 1.0)
    assert (len(table), table.bytes) == (0, 0)


def test_one_expires_after_its_last_use():
    table = StoredResponses(ROOMY)
    table.add("a", kept())
    table.add("b", kept())
    assert table.find("a", ANN, 10.0)
    assert table.find("b", ANN, 10.5) is None
    assert table.find("a", ANN, 20.0)
    assert table.find("a", ANN, 30.5) is None
    assert table.bytes == 0


def test_memory_of_what_has_expired_is_free_as_soon_as_another_comes():
    table = StoredResponses(ROOMY)
    table.add("a", kept())
    table.add("b", kept(now=10.5))
    assert (len(table), table.bytes) == (1, ONE)


def test_one_that_others_look_for_is_not_used():
    table = StoredResponses(ROOMY)
    table.add("a", kept())
    assert table.find("a", BOB, 9.0) is None
    assert table.find("a", ANN, 11.0) is None


def test_the_least_recently_used_leaves_where_there_are_too_many():
    table = StoredResponses(Bounds(max_responses=2, max_bytes=10**6, ttl_s=10.0))
    table.add("a", kept())
    table.add("b", kept())
    assert table.find("a", ANN, 1.0)
    table.add("c", kept(now=2.0))
    assert [table.find(id, ANN, 3.0) is not None for id in "abc"] == [True, False, True]


def test_none_is_kept_where_none_may_be():
    table = StoredResponses(Bounds(max_responses=0, max_bytes=10**6, ttl_s=10.0))
    table.add("a", kept())
    assert (len(table), table.bytes) == (0, 0)


def test_the_least_recently_used_leaves_where_memory_ends():
    table = StoredResponses(Bounds(max_responses=9, max_bytes=2 * ONE, ttl_s=10.0))
    for id in "abc":
        table.add(id, kept())
    assert [table.find(id, ANN, 1.0) is not None for id in "abc"] == [False, True, True]
    assert table.bytes == 2 * ONE


def test_one_that_is_too_large_makes_no_other_leave():
    table = StoredResponses(Bounds(max_responses=9, max_bytes=2 * ONE, ttl_s=10.0))
    table.add("a", kept())
    table.add("b", Stored(ANN, bytes(2 * ONE), stretch((ITEM,), None), None, 0.0))
    assert table.find("a", ANN, 1.0)
    assert table.find("b", ANN, 1.0) is None


def test_a_conversation_is_kept_once_and_outlives_its_first_responses():
    table = StoredResponses(ROOMY)
    table.add("a", first := kept())
    table.add("b", second := kept(first.stretch))
    assert table.bytes == 2 * ONE
    assert table.remove("a", ANN, 0.0)
    assert table.bytes == 2 * ONE - RESPONSE_BYTES - len(BODY)
    assert conversation(second.stretch) == (ITEM, ITEM)
    assert table.remove("b", ANN, 0.0)
    assert table.bytes == 0


def test_a_conversation_that_was_let_go_of_during_a_turn_is_counted_again():
    table = StoredResponses(ROOMY)
    table.add("a", first := kept())
    assert table.remove("a", ANN, 0.0)
    table.add("b", kept(first.stretch))
    assert table.bytes == ONE + ITEM_BYTES + 5
    assert table.remove("b", ANN, 0.0)
    assert table.bytes == 0


def test_what_items_take():
    items: tuple[Item, ...] = (
        MessageItem("user", "abc"),
        CallItem("id", "f", "{}"),
        ResultItem("id", "é"),
    )
    assert stretch(items, None).size == 3 * ITEM_BYTES + 3 + 5 + 2 + 8
    assert size_of(None) == 0


@dataclass
class Known:
    """What the model knows of a response that may be kept."""

    owner: Tenant
    items: tuple[Item, ...]
    stretch: Stretch
    used: float


@dataclass
class Model:
    """The table as one would write it who has all the memory there is."""

    responses: dict[str, Known] = field(default_factory=dict)

    def expire(self, now: float, ttl_s: float) -> None:
        self.responses = {i: r for i, r in self.responses.items() if now - r.used <= ttl_s}

    @property
    def bytes(self) -> int:
        """Every stretch that a response needs, once."""
        needed: set[Stretch] = set()
        for one in self.responses.values():
            last: Stretch | None = one.stretch
            while last is not None:
                needed.add(last)
                last = last.before
        return sum(one.size for one in needed) + len(self.responses) * (RESPONSE_BYTES + 10)

    def oldest(self) -> str:
        return min(self.responses, key=lambda id: self.responses[id].used)


class Table(RuleBasedStateMachine):
    """Anything may happen in any order; the table answers as the model does."""

    bounds = Bounds(max_responses=5, max_bytes=6 * ONE, ttl_s=20.0)

    def __init__(self) -> None:
        super().__init__()
        self.table = StoredResponses(self.bounds)
        self.model = Model()
        self.now = 0.0
        self.ids = 0
        self.underway: list[tuple[Stretch | None, tuple[Item, ...], Tenant]] = []

    def passes(self) -> None:
        """No two things happen at once: who was used last is clear."""
        self.now += 1e-3
        self.model.expire(self.now, self.bounds.ttl_s)

    @rule(owner=st.sampled_from([ANN, BOB]))
    def begin(self, owner: Tenant) -> None:
        self.underway.append((None, (), owner))

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), owner=st.sampled_from([ANN, BOB]))
    def go_on(self, data: st.DataObject, owner: Tenant) -> None:
        id = f"r{data.draw(st.integers(0, self.ids))}"
        self.passes()
        found = self.table.find(id, owner, self.now)
        known = self.model.responses.get(id)
        assert (found is not None) == (known is not None and known.owner == owner)
        if found is not None and known is not None:
            known.used = self.now
            assert conversation(found.stretch) == known.items
            self.underway.append((found.stretch, known.items, owner))

    @precondition(lambda self: self.underway)
    @rule(data=st.data(), says=st.lists(st.text("ab", max_size=3), min_size=1, max_size=3))
    def end(self, data: st.DataObject, says: list[str]) -> None:
        at = data.draw(st.integers(0, len(self.underway) - 1))
        before, items, owner = self.underway.pop(at)
        self.passes()
        added = tuple(MessageItem("user", text) for text in says)
        last = stretch(added, before)
        self.ids += 1
        id = f"r{self.ids}"
        self.table.add(id, Stored(owner, BODY, last, None, self.now))
        if RESPONSE_BYTES + 10 + size_of(last) > self.bounds.max_bytes:
            return
        self.model.responses[id] = Known(owner, (*items, *added), last, self.now)
        while (
            len(self.model.responses) > self.bounds.max_responses
            or self.model.bytes > self.bounds.max_bytes
        ):
            del self.model.responses[self.model.oldest()]

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), owner=st.sampled_from([ANN, BOB]))
    def remove(self, data: st.DataObject, owner: Tenant) -> None:
        id = f"r{data.draw(st.integers(0, self.ids))}"
        self.passes()
        known = self.model.responses.get(id)
        there = known is not None and known.owner == owner
        assert self.table.remove(id, owner, self.now) == there
        if there:
            del self.model.responses[id]

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.passes()
        self.table.expire(self.now)

    @invariant()
    def agrees(self) -> None:
        assert len(self.table) == len(self.model.responses) <= self.bounds.max_responses
        assert self.table.bytes == self.model.bytes <= self.bounds.max_bytes


TestTable = Table.TestCase
TestTable.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
