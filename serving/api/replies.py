"""Which token ids did this server sample for a reply that now comes back from a client?

Text tokenised again need not give the ids that were sampled, and then the KV of the whole
conversation no longer matches. So replies are remembered: by tenant, by the exact prompt they
answered (its digest) and by their text; those with calls, which clients get in pieces, by the id of
their first call instead. Knows nothing of templates or turns.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import NewType

TEXT_BYTES = 500
"""What a remembered text takes beside its characters: its key, its place, its table of versions
(tracemalloc: about 440)."""

VERSION_BYTES = 200
"""What one answer with that text takes beside its ids: a digest, an array's head, an entry
(tracemalloc: 165 to 195, by how full the table is)."""

Tenant = NewType("Tenant", str)
"""Who may see a reply again: the turn's salt."""


class ReplyStore:
    """Replies of the recent past, in at most about `max_bytes` of memory, whatever their lengths.

    Full of answers of one token or of 200, all of one text or each of its own, it takes 0.8 to 1.0
    times that (tracemalloc), and less where texts are not ASCII. The oldest are forgotten first,
    where being looked up makes a reply young again. Thread-safe.
    """

    def __init__(self, max_bytes: int) -> None:
        self._room = max_bytes
        self._texts: OrderedDict[tuple[Tenant, str], dict[bytes, array[int]]] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, tenant: Tenant, prompt: Sequence[int], text: str, ids: Sequence[int]) -> None:
        """Remember that `prompt` was answered with `ids`, whose text is `text`."""
        if not text:
            return
        digest, kept = _digest(prompt), array("I", ids)
        with self._lock:
            if (tenant, text) not in self._texts:
                self._texts[tenant, text] = {}
                self._room -= _text_size(text)
            versions = self._texts[tenant, text]
            if digest in versions:
                self._room += _version_size(versions[digest])
            versions[digest] = kept
            self._room -= _version_size(kept)
            self._texts.move_to_end((tenant, text))
            while self._room < 0 and self._texts:
                (_, old), forgotten = self._texts.popitem(last=False)
                self._room += _text_size(old) + sum(map(_version_size, forgotten.values()))

    def knows(self, tenant: Tenant, text: str) -> bool:
        """Whether the text was a reply to the tenant, to whatever prompt."""
        return (tenant, text) in self._texts

    def of_call(self, tenant: Tenant, call: str) -> Sequence[int] | None:
        """Return the ids of the reply with this call, which is one only; None if there is none."""
        with self._lock:
            versions = self._texts.get((tenant, call))
            return None if versions is None else next(iter(versions.values()))

    def find(self, tenant: Tenant, prompt: Sequence[int], text: str) -> Sequence[int] | None:
        """Return the ids of the reply `text` to exactly this prompt; None if there was none."""
        with self._lock:
            versions = self._texts.get((tenant, text))
            if versions is None:
                return None
            self._texts.move_to_end((tenant, text))
            return versions.get(_digest(prompt))


def text_size(text: str) -> int:
    """Return what a text's characters take at most, in bytes.

    One of other than ASCII text takes up to 4, and as many in a UTF-8 copy.
    """
    return len(text) * (1 if text.isascii() else 8)


def _text_size(text: str) -> int:
    return TEXT_BYTES + text_size(text)


def _version_size(ids: "array[int]") -> int:
    return VERSION_BYTES + len(ids) * ids.itemsize


def _digest(ids: Sequence[int]) -> bytes:
    return blake2b(array("I", ids).tobytes(), digest_size=16).digest()
