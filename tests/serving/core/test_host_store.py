"""Host slots against a model that is a list in order of use."""

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
        assert store.offer(name(letter), ()) is not None
    return store


def held(store: HostStore, letters: str) -> str:
    return "".join(letter for letter in letters if store.find([name(letter)], 0))


def test_pages_get_slots_of_their_own():
    store = HostStore(capacity=3)
    assert sorted(store.offer(n, ()) or 0 for n in names("abc")) == [0, 1, 2]
    assert len(store) == 3


def test_a_page_that_is_here_is_not_copied_again():
    store = filled("ab")
    assert store.offer(name("a"), ()) is None
    assert len(store) == 2


def test_the_least_recently_used_page_gives_its_slot_away():
    store = filled("abc")
    (slot,) = store.find([name("a")], 0)
    store.find([name("b")], 0)
    store.find([name("c")], 0)
    assert store.offer(name("d"), ()) == slot
    assert held(store, "abcd") == "bcd"


def test_a_page_offered_again_stays():
    store = filled("abc")
    store.offer(name("a"), ())
    store.offer(name("d"), ())
    assert held(store, "abcd") == "acd"


def test_the_run_starts_where_asked_and_ends_at_the_first_gap():
    store = filled("bce", capacity=9)
    prompt = names("abcde")
    slots = [store.find([n], 0)[0] for n in names("bc")]
    assert store.find(prompt, 1) == slots
    assert store.find(prompt, 0) == []
    assert store.find(prompt, 5) == []


def test_a_run_that_is_used_is_given_up_from_its_tail():
    store = filled("abc")
    store.find(names("abc"), 0)
    store.offer(name("x"), ())
    assert held(store, "abcx") == "abx"


def test_a_prompt_longer_than_the_store_keeps_its_head():
    store = filled("edcba")
    assert held(store, "abcde") == "abc"


def test_a_dropped_page_is_gone_and_its_slot_is_free():
    store = filled("abc")
    (slot,) = store.find([name("b")], 0)
    store.drop(name("b"))
    store.drop(name("never here"))
    assert held(store, "abc") == "ac"
    assert store.offer(name("d"), ()) == slot
    assert held(store, "acd") == "acd"


def test_without_room_nothing_is_taken():
    store = HostStore(capacity=0)
    assert store.offer(name("a"), ()) is None
    assert store.find([name("a")], 0) == []
    store.check()


def test_a_negative_size_is_refused():
    with pytest.raises(ValueError, match="fewer than 0"):
        HostStore(capacity=-1)


def test_check_sees_a_slot_that_was_given_twice():
    store = filled("ab", capacity=2)
    store._free.append(0)
    with pytest.raises(AssertionError, match="slot"):
        store.check()


@given(
    st.integers(0, 4),
    st.lists(
        st.one_of(
            st.tuples(st.just("offer"), st.sampled_from("abcdef")),
            st.tuples(st.just("drop"), st.sampled_from("abcdef")),
            st.tuples(st.just("find"), st.permutations("abcdef").map("".join)),
        ),
        max_size=30,
    ),
    st.integers(0, 3),
)
def test_it_holds_what_a_list_in_order_of_use_holds(capacity, acts, start):
    store = HostStore(capacity=capacity)
    used: list[str] = []  # least recently used first
    slots: dict[str, int] = {}
    for act, what in acts:
        if act == "offer":
            slot = store.offer(name(what), ())
            assert (slot is None) == (what in used or capacity == 0)
            if what in used:
                used.remove(what)
            if slot is not None:
                del used[: len(used) - capacity + 1 if len(used) >= capacity else 0]
                slots[what] = slot
            if capacity:
                used.append(what)
        elif act == "drop":
            store.drop(name(what))
            used = [letter for letter in used if letter != what]
        else:
            run = ""
            for letter in what[start:]:
                if letter not in used:
                    break
                run += letter
            assert store.find(names(what), start) == [slots[letter] for letter in run]
            used = [letter for letter in used if letter not in run] + list(reversed(run))
        store.check()
        assert len(store) == len(used)
        assert len({slots[letter] for letter in used}) == len(used), "two pages share a slot"
