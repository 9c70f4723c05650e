"""Which token ids did this server sample for a reply that now comes back as text?

Text tokenised again need not give the ids that were sampled, and then the KV of the whole
conversation no longer matches. So replies are remembered: by tenant, by the exact prompt they
answered (its digest) and by their text. Knows nothing of templates or turns.
"""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from typing import NewType

Tenant = NewType("Tenant", str)
"""Who may see a reply again: the turn's salt."""


class ReplyStore:
    """Replies of the recent past, at most `max_tokens` tokens and text characters of them together.

    The oldest are forgotten first, where being looked up makes a reply young again. Thread-safe.
    """

    def __init__(self, max_tokens: int) -> None:
        self._room = max_tokens
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
                self._room -= len(text)
            versions = self._texts[tenant, text]
            self._room += len(versions.get(digest, ())) - len(kept)
            versions[digest] = kept
            self._texts.move_to_end((tenant, text))
            while self._room < 0 and self._texts:
                (_, old), forgotten = self._texts.popitem(last=False)
                self._room += len(old) + sum(map(len, forgotten.values()))

    def knows(self, tenant: Tenant, text: str) -> bool:
        """Whether the text was a reply to the tenant, to whatever prompt."""
        return (tenant, text) in self._texts

    def find(self, tenant: Tenant, prompt: Sequence[int], text: str) -> Sequence[int] | None:
        """Return the ids of the reply `text` to exactly this prompt; None if there was none."""
        with self._lock:
            versions = self._texts.get((tenant, text))
            if versions is None:
                return None
            self._texts.move_to_end((tenant, text))
            return versions.get(_digest(prompt))


def _digest(ids: Sequence[int]) -> bytes:
    return blake2b(array("I", ids).tobytes(), digest_size=16).digest()
