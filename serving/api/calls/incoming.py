"""How is text read that comes in pieces? What has come and is not read yet, and JSON in it.

A reader is a generator: it yields where it needs more text, and is resumed once there is some, or
once the text has ended. So it reads as if all were there, and what it finds cannot depend on how
the text was cut into pieces.
"""

import re
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]
"""Returns what was read; yields for more text."""

Sink = Callable[[str], None]

SPACES = " \t\r\n"
"""JSON's whitespace."""

_SPACES = re.compile(f"[{SPACES}]*")
_WORD = re.compile(r"[A-Za-z0-9_.-]*")
_STRUCTURE = re.compile(r'["\[\]{}]')
_IN_STRING = re.compile(r'["\\]')
_SCALAR_END = re.compile(rf"[{SPACES},\]}}]")
_VALUE_STARTS = frozenset('{["-0123456789tfn')


class Incoming:
    """The text of a reply, as far as it has come and may still be needed."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._mark: int | None = None
        self._ended = False

    def add(self, text: str) -> None:
        """Take more text; what has been read is let go of, from the mark on it is kept."""
        start = self._at if self._mark is None else self._mark
        self._text = self._text[start:] + text
        self._at -= start
        if self._mark is not None:
            self._mark = 0

    def end(self) -> None:
        """Say that no more will come."""
        self._ended = True

    def mark(self) -> None:
        """Keep what is read from here on."""
        self._mark = self._at

    def marked(self) -> str:
        """Return what was read since the mark, and lift it."""
        text = self._text[self._mark : self._at]
        self.unmark()
        return text

    def unmark(self) -> None:
        """Let go of what was read: it has been handed on."""
        self._mark = None

    def content_before(self, marker: str, say: Sink, *, after_call: bool) -> Reading[bool]:
        """Hand on text up to a marker, and take that; False: there was none to the end.

        Whitespace before the marker is not handed on, nor is it behind a call where nothing else
        comes. What may become either is held back. The mark is set before what was not handed on.
        """
        self.unmark()
        while True:
            at = self._text.find(marker, self._at)
            start = at if at >= 0 else self._start_of(marker)
            text = self._text[self._at : start].rstrip(SPACES)
            say(text)
            after_call = after_call and not text
            self._at += len(text)
            if at >= 0:
                self.mark()
                self._at = at + len(marker)
                return True
            if self._ended:
                rest = self._rest()
                if not (after_call and not rest.strip(SPACES)):
                    say(rest)
                return False
            yield

    def takes(self, literal: str, *, may_be_cut: bool = False) -> Reading[bool]:
        """Take a literal with the whitespace before it, or nothing if something else is there.

        One that `may_be_cut` counts where the text ends within it.
        """
        while True:
            start = self._behind_spaces()
            there = self._text[start : start + len(literal)]
            begun = literal.startswith(there)
            if there == literal or (may_be_cut and begun and self._ended):
                self._at = start + len(there)
                return True
            if self._ended or not begun:
                return False
            yield

    def ahead(self) -> Reading[str]:
        """Return the next character that is no whitespace, and take nothing; "": the text ends."""
        while (start := self._behind_spaces()) == len(self._text):
            if self._ended:
                return ""
            yield
        return self._text[start]

    def word(self) -> Reading[str]:
        """Take the letters, digits, dots, dashes and underscores behind whitespace; maybe none."""
        while True:
            start = self._behind_spaces()
            found = _WORD.match(self._text, start)
            assert found is not None  # it matches the empty word
            if found.end() < len(self._text) or self._ended:
                self._at = found.end()
                return found.group()
            yield

    def is_value(self) -> Reading[bool]:
        """Whether the next character begins a JSON value."""
        return (yield from self.ahead()) in _VALUE_STARTS

    def value(self, sink: Sink) -> Reading[bool]:
        """Hand on a JSON value character by character, as written; False: it has no end.

        Only its extent is looked at: strings and brackets, whatever stands between them.
        """
        first = yield from self.ahead()
        self._at = self._behind_spaces()
        if first == '"':
            self._read(self._at + 1, sink)
            return (yield from self._string(sink))
        if first in ("{", "["):
            return (yield from self._nested(sink))
        return (yield from self._scalar(sink))

    def _nested(self, sink: Sink) -> Reading[bool]:
        depth = 0
        while True:
            found = _STRUCTURE.search(self._text, self._at)
            if found is None:
                self._read(len(self._text), sink)
                if self._ended:
                    return False
                yield
                continue
            self._read(found.end(), sink)
            match found.group():
                case '"':
                    if not (yield from self._string(sink)):
                        return False
                case "{" | "[":
                    depth += 1
                case _:
                    depth -= 1
            if depth == 0:
                return True

    def _string(self, sink: Sink) -> Reading[bool]:
        """Hand on a string whose first quote has been read."""
        while True:
            found = _IN_STRING.search(self._text, self._at)
            if found is not None and found.group() == '"':
                self._read(found.end(), sink)
                return True
            if found is not None and found.end() < len(self._text):
                self._read(found.end() + 1, sink)  # whatever is escaped, a quote most of all
                continue
            if self._ended:
                sink(self._rest())
                return False
            self._read(len(self._text) if found is None else found.start(), sink)
            yield

    def _scalar(self, sink: Sink) -> Reading[bool]:
        while True:
            found = _SCALAR_END.search(self._text, self._at)
            self._read(len(self._text) if found is None else found.start(), sink)
            if found is not None:
                return True
            if self._ended:
                return False
            yield

    def _read(self, to: int, sink: Sink) -> None:
        sink(self._text[self._at : to])
        self._at = to

    def _rest(self) -> str:
        rest = self._text[self._at :]
        self._at = len(self._text)
        return rest

    def _behind_spaces(self) -> int:
        found = _SPACES.match(self._text, self._at)
        assert found is not None  # it matches nothing, too
        return found.end()

    def _start_of(self, marker: str) -> int:
        """Where an end of the text begins that could grow into the marker; its length if none."""
        at = self._text.find(marker[0], max(self._at, len(self._text) - len(marker) + 1))
        while at >= 0 and not marker.startswith(self._text[at:]):
            at = self._text.find(marker[0], at + 1)
        return len(self._text) if at < 0 else at
