"""Which full pages can be found at a worker, as far as the coordinator has heard?

Workers tell what comes and what goes, in order, so the mirror is exact but for what is on its way.
An eviction shows up as a shorter cached prefix, and routing follows by itself.
"""

from collections.abc import Sequence
from itertools import islice


class PageMirror:
    """The names of one worker's findable full pages."""

    def __init__(self, page_size: int) -> None:
        """Start empty."""
        self._page_size = page_size
        self._names: set[bytes] = set()

    def change(self, added: Sequence[bytes], removed: Sequence[bytes]) -> None:
        """Take what a worker told."""
        self._names.difference_update(removed)
        self._names.update(added)

    def cached_len(self, names: Sequence[bytes]) -> int:
        """Count the leading tokens of a prompt that its full pages hold.

        `names` are the chained names of the prompt's pages (prefix.chain), the root first.
        """
        known, held = self._names, 0
        if len(names) < 2 or names[1] not in known:
            return 0  # as at most workers of a large fleet
        for name in islice(names, 1, None):
            if name not in known:
                break
            held += 1
        return held * self._page_size
