import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.name_changes import NameChanges


def test_changes_are_told_once_and_in_order():
    changes = NameChanges()
    changes.added(b"b")
    changes.added(b"a")
    assert changes.take() == ((b"b", b"a"), ())
    changes.removed(b"a")
    changes.added(b"c")
    assert changes.take() == ((b"c",), (b"a",))
    assert changes.take() == ((), ())


def test_what_came_and_went_is_not_told():
    changes = NameChanges()
    changes.added(b"a")
    changes.removed(b"a")
    assert changes.take() == ((), ())


def test_what_went_and_came_back_is_not_told():
    changes = NameChanges()
    changes.added(b"a")
    changes.take()
    changes.removed(b"a")
    changes.added(b"a")
    assert changes.take() == ((), ())


def test_check_sees_a_name_that_the_pool_lost_without_a_word():
    changes = NameChanges()
    changes.added(b"a")
    changes.check({b"a"})
    with pytest.raises(AssertionError, match="reported"):
        changes.check(set())
    changes.take()
    changes.removed(b"a")
    with pytest.raises(AssertionError, match="revoked"):
        changes.check({b"a"})


@given(st.lists(st.sampled_from([b"a", b"b", b"c", None])))
def test_a_mirror_that_asks_now_and_then_knows_every_name(flips: list[bytes | None]):
    changes = NameChanges()
    names: set[bytes] = set()
    mirror: set[bytes] = set()
    for name in [*flips, None]:
        if name is None:
            added, removed = changes.take()
            assert not (set(added) & mirror)
            assert set(removed) <= mirror
            mirror = (mirror | set(added)) - set(removed)
            assert mirror == names
        elif name in names:
            names.remove(name)
            changes.removed(name)
        else:
            names.add(name)
            changes.added(name)
        changes.check(names)
