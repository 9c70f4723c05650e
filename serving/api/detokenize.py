"""Which text do sampled tokens make? Whole characters only, stop strings held back.

Knows nothing of turns or HTTP. Costs O(1) per token: a table lookup and a byte decoder's step.
"""

import codecs
from collections.abc import Iterable, Sequence
from copy import copy

from serving.api.tokenizer import Tokenizer


class TokenText:
    """The bytes of every token id, read from the tokenizer once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        special = tokenizer.special_ids
        self.every = tuple(tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size))
        self.plain = tuple(b"" if i in special else b for i, b in enumerate(self.every))

    def showing(self, markers: Iterable[str]) -> "TokenText":
        """Return the same, but special tokens that are these markers are never skipped."""
        wanted = {marker.encode() for marker in markers}
        shown = copy(self)
        shown.plain = tuple(
            whole if whole in wanted else plain
            for whole, plain in zip(self.every, self.plain, strict=True)
        )
        return shown

    def table(self, *, skip_special: bool) -> Sequence[bytes]:
        """Return the bytes by token id, special tokens empty if they are to be skipped."""
        return self.plain if skip_special else self.every

    def text(self, ids: Sequence[int], *, skip_special: bool) -> str:
        """Return the text of a whole run of ids; broken characters become U+FFFD."""
        table = self.table(skip_special=skip_special)
        return b"".join(map(table.__getitem__, ids)).decode("utf-8", "replace")


class Detokenizer:
    """Turns ids into text as they come; an unfinished character waits for its other bytes.

    The pushes and the flush, joined, equal the decoding of all bytes at once, however the ids are
    cut into pushes.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self._bytes_of = table.__getitem__
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, ids: Sequence[int]) -> str:
        """Return the text that these ids complete."""
        return self._decode(b"".join(map(self._bytes_of, ids)))

    def flush(self) -> str:
        """Return what is left of an unfinished character (U+FFFD), at the end."""
        return self._decode(b"", True)


class StopStrings:
    """Watches text for stop strings and keeps back whatever may be the start of one.

    After `push` has named a stop string nothing more may be pushed.
    """

    def __init__(self, stops: Sequence[str], *, include: bool) -> None:
        self._stops = tuple(stops)
        self._include = include
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Take new text; return what may go out, and the stop string that was found in it.

        Of several the one that begins first wins, then the one listed first. The text before it
        goes out, with the string itself if it is to be included.
        """
        text = self._held + text
        hits = [(at, i) for i, stop in enumerate(self._stops) if (at := text.find(stop)) >= 0]
        if hits:
            at, i = min(hits)
            stop = self._stops[i]
            self._held = ""
            return text[: at + len(stop)] if self._include else text[:at], stop
        keep = min(self._start_of_match(text, stop) for stop in self._stops)
        self._held = text[keep:]
        return text[:keep], None

    def flush(self) -> str:
        """Return the held text: the reply ended before it became a stop string."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _start_of_match(text: str, stop: str) -> int:
        """Where a suffix of `text` begins that could grow into `stop`; len(text) if none does."""
        at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
        while at >= 0:
            if stop.startswith(text[at:]):
                return at
            at = text.find(stop[0], at + 1)
        return len(text)
