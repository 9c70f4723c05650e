"""Host slots against a model that is a list, what has been there longest first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.host_store import HostStore


def name(letter: str) -> bytes:
    return letter.encode()


def names(letters: str) -> list[bytes]:
    return [name(letter) for letter in letters]


def filled(letters: str, capacity: int = 3) -> HostStore:
    """Make a store that was offered pages in this order."""
    store = HostStore(capacity=capacity)
    for letter in letters:
        assert store.offer(name(letter), None) is not None
    return store


def held(store: HostStore, letters: str) -> str:
    return "".join(letter for letter in letters if store.find([name(letter)]))


def test_pages_get_slots_of_their_own():
    store = HostStore(capacity=3)
    assert sorted(store.offer(n, None) or 0 for n in names("abc")) == [0, 1, 2]
    assert len(store) == 3


def test_a_page_that_is_here_is_not_copied_again_and_stays():
    store = filled("abc")
    assert store.offer(name("a"), None) is None
    store.offer(name("d"), None)
    assert held(store, "abcd") == "acd"


def test_what_has_been_here_longest_gives_its_slot_away():
    store = filled("abc")
    assert store.offer(name("d"), None) == 0
    assert held(store, "abcd") == "bcd"


def test_a_run_ends_at_the_first_gap():
    store = filled("bce", capacity=9)
    assert [store.find(names(asked)) for asked in ("bcde", "abc", "e", "")] == [2, 0, 1, 0]


def test_a_prompt_longer_than_the_store_keeps_its_head():
    store = filled("edcba")
    assert held(store, "abcde") == "abc"


def test_what_is_taken_leaves_and_its_slots_are_free_once_its_fetch_is_dispatched():
    store = filled("abc")
    assert store.take(names("ab")) == [0, 1]
    assert held(store, "abc") == "c"
    assert store.offer(name("d"), None) == 2, "c gives way, although two slots are about to be free"
    store.dispatched([0, 1])
    assert {store.offer(n, None) for n in names("ef")} == {0, 1}
    assert held(store, "abcdef") == "def"


def test_what_is_not_fetched_after_all_is_here_again_once():
    store = filled("abc", capacity=4)
    a, b = store.take(names("ab"))
    assert store.offer(name("b"), "another") == 3
    store.put_back(name("b"), b, "one")
    store.put_back(name("a"), a, "one")
    assert held(store, "abc") == "abc"
    assert set(store.groups) == {"another", "one"}
    assert store.offer(name("d"), None) == b
    store.check()


def test_all_that_is_cleared_is_gone_and_its_slots_are_free():
    store = filled("abc")
    store.clear()
    assert (len(store), set(store.groups)) == (0, set())
    assert {store.offer(n, None) for n in names("def")} == {0, 1, 2}


def test_it_knows_whose_pages_are_here():
    store = HostStore(capacity=2)
    for letter, group in (("a", "one"), ("b", "one"), ("a", "two"), ("c", None)):
        store.offer(name(letter), group)
    assert set(store.groups) == {"two"}, "b gave way, and a was left by another one last"


def test_without_room_nothing_is_taken():
    store = HostStore(capacity=0)
    assert store.offer(name("a"), None) is None
    assert store.find([name("a")]) == 0
    store.check()


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="fewer than 0"):
        HostStore(capacity=-1)


def test_check_sees_a_slot_that_was_given_twice():
    store = filled("ab", capacity=2)
    store._free.append(0)
    with pytest.raises(AssertionError, match="slot"):
        store.check()


LETTERS = st.sampled_from("abcdef")


class Model:
    """What a list would do: letters with slot and group, what has been here longest first."""

    def __init__(self, capacity: int) -> None:
        self.store = HostStore(capacity=capacity)
        self.capacity = capacity
        self.kept: dict[str, tuple[int, str | None]] = {}
        self.taken: dict[str, int] = {}

    def offer(self, letter: str, group: str | None) -> None:
        if letter in self.taken:
            return  # a task is about to have it: nobody can leave it
        slot = self.store.offer(name(letter), group)
        assert (slot is None) == (letter in self.kept or len(self.taken) == self.capacity)
        assert slot not in self.taken.values()
        if letter in self.kept:
            self.kept[letter] = self.kept.pop(letter)[0], group
        elif slot is not None:
            if len(self.kept) + len(self.taken) == self.capacity:
                del self.kept[next(iter(self.kept))]
            self.kept[letter] = slot, group

    def take(self, letters: str, _: None) -> None:
        run = letters[: self.store.find(names(letters))]
        assert set(run) <= self.kept.keys()
        assert not set(letters[len(run) : len(run) + 1]) & self.kept.keys()
        slots = [self.kept.pop(letter)[0] for letter in run]
        assert self.store.take(names(run)) == slots
        self.taken |= dict(zip(run, slots, strict=True))

    def dispatched(self, *_: None) -> None:
        self.store.dispatched(self.taken.values())
        self.taken.clear()

    def put_back(self, *_: None) -> None:
        for letter, slot in self.taken.items():
            self.store.put_back(name(letter), slot, "back")
            self.kept[letter] = slot, "back"
        self.taken.clear()

    def clear(self, *_: None) -> None:
        self.store.clear()
        self.kept.clear()


@given(
    st.integers(0, 4),
    st.lists(
        st.one_of(
            st.tuples(st.just("offer"), LETTERS, st.sampled_from([None, "one", "two"])),
            st.tuples(st.just("take"), st.permutations("abcdef").map("".join), st.none()),
            st.tuples(st.sampled_from(["dispatched", "put_back", "clear"]), st.none(), st.none()),
        ),
        max_size=30,
    ),
)
def test_it_holds_what_a_list_holds(capacity, acts):
    model, known = Model(capacity), set[bytes]()
    for act, what, group in acts:
        getattr(model, act)(what, group)
        model.store.check()
        kept = model.kept
        assert held(model.store, "abcdef") == "".join(sorted(kept))
        assert len({slot for slot, _ in kept.values()}) == len(kept), "two pages share a slot"
        assert set(model.store.groups) == {group for _, group in kept.values()} - {None}
        added, removed = model.store.changes.take()
        known = (known | set(added)) - set(removed)
        assert known == {name(letter) for letter in kept}
