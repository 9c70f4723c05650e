"""Which page names has a mirror of a pool still to hear of, and which to forget?

Only net changes are kept. What was never reported need not be revoked, so nothing piles up if
nobody asks. Knows nothing of pages.
"""

from collections.abc import Set


class NameChanges:
    """What was added and removed since the mirror last asked, in order."""

    def __init__(self) -> None:
        """Start with a mirror that knows no name. `pending`: there may be something to tell."""
        self.pending = False
        self._added: dict[bytes, None] = {}
        self._removed: dict[bytes, None] = {}

    def added(self, name: bytes) -> None:
        """Note that a name can be found from now on."""
        self.pending = True
        if name in self._removed:
            del self._removed[name]
        else:
            self._added[name] = None

    def removed(self, name: bytes) -> None:
        """Note that a name can be found no more."""
        self.pending = True
        if name in self._added:
            del self._added[name]
        else:
            self._removed[name] = None

    def take(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        """Return the names added and the names removed since last asked."""
        self.pending = False
        changes = tuple(self._added), tuple(self._removed)
        self._added.clear()
        self._removed.clear()
        return changes

    def check(self, names: Set[bytes]) -> None:
        """Raise AssertionError unless what is to be reported agrees with the `names` there are."""
        assert self._added.keys() <= names, "a name would be reported that cannot be found"
        assert not (self._removed.keys() & names), "a name would be revoked that can be found"
