"""Which words stand for a workload's text? Made up from its name: equal names, equal text.

The longer of two texts of one name begins with the shorter one, as spans of a workload ask for.
"""

import random
from dataclasses import dataclass

from serving.workload.session import Span

SPECIAL = 10
"""Smaller ids are special tokens in many vocabularies; only tiny ones are used from 0 on."""
_NOUNS = (
    "time year people way day man thing woman life child world school state family student group"
    " country problem hand part place case week company system program question work number night"
    " point home water room mother area money story fact month lot right study book eye job word"
    " business issue side kind head house service friend father power hour game line end member law"
)
WORDS = tuple(_NOUNS.split())
"""Each is one token with its space in the common English vocabularies."""


@dataclass(frozen=True, slots=True)
class Author:
    """Writes all text of a replay: of one seed the same, of another seed another."""

    seed: int
    vocab: int

    def shared_ids(self, span: Span) -> list[int]:
        """Return the token ids of text that several sessions may have."""
        return self._ids(self._shared(span), span.tokens)

    def own_ids(self, turn: str, length: int) -> list[int]:
        """Return the token ids of one turn's new text."""
        return self._ids(self._own(turn), length)

    def shared_words(self, span: Span) -> list[str]:
        """Return the words of text that several sessions may have, one for each token."""
        return random.Random(self._shared(span)).choices(WORDS, k=span.tokens)

    def own_words(self, turn: str, length: int) -> list[str]:
        """Return the words of one turn's new text, one for each token."""
        return random.Random(self._own(turn)).choices(WORDS, k=length)

    def _ids(self, name: str, length: int) -> list[int]:
        first = SPECIAL if self.vocab >= 2 * SPECIAL else 0
        return random.Random(name).choices(range(first, self.vocab), k=length)

    def _shared(self, span: Span) -> str:
        return f"{self.seed} shared {span.name}"

    def _own(self, turn: str) -> str:
        return f"{self.seed} turn {turn}"
