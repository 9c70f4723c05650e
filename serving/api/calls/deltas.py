"""What does a reply say, once its calls are told from its text? Deltas, in the reply's order.

Knows nothing of how models write calls, nor of ids.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """Text that is no call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegins:
    """Call number `index` of a reply, counted from 0, is of the function `name`."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """The next characters of a call's arguments, which are JSON."""

    index: int
    text: str


Delta = Content | CallBegins | Arguments


class Outgoing:
    """Gathers what a parser finds; `cut` once a call's arguments have no end.

    Neighbours of a kind become one delta, so that a parser may hand on text in any small parts.
    With `only_first`, calls behind the first one are left out.
    """

    def __init__(self, *, only_first: bool) -> None:
        self.calls = 0
        self.cut = False
        self._only_first = only_first
        self._found: list[Delta] = []

    def say(self, text: str) -> None:
        """Hand on text."""
        match self._found:
            case [*_, Content(before)]:
                self._found[-1] = Content(before + text)
            case _ if text:
                self._found.append(Content(text))

    def begin(self, name: str) -> None:
        """Begin a call; what is argued from now on are its arguments."""
        self.calls += 1
        if self._shown:
            self._found.append(CallBegins(self.calls - 1, name))

    def argue(self, text: str) -> None:
        """Hand on a part of the last call's arguments."""
        if not self._shown:
            return
        match self._found:
            case [*_, Arguments(index, before)]:
                self._found[-1] = Arguments(index, before + text)
            case _ if text:
                self._found.append(Arguments(self.calls - 1, text))

    def take(self) -> list[Delta]:
        """Return what was found since the last time."""
        found, self._found = self._found, []
        return found

    @property
    def _shown(self) -> bool:
        return self.calls == 1 or not self._only_first
