"""How is one call read that a model writes as a JSON object with a name and arguments?

Knows nothing of what stands around the object.
"""

import json

from serving.api.calls.deltas import Outgoing
from serving.api.calls.incoming import Incoming, Reading, Sink

ARGUMENTS = ("arguments", "parameters")
"""Both spellings are read in every format: models mix them up."""

_BESIDE = ("type", "id")
"""Keys that may stand before the arguments; any other says that the object is no call."""


class CallObject:
    """Reads one object; a call begins with its arguments, as soon as its name is known."""

    def __init__(self, incoming: Incoming, out: Outgoing) -> None:
        self._incoming = incoming
        self._out = out
        self._name: str | None = None
        self._held: list[str] | None = None
        self._begun = False

    def read(self, *, needs_arguments: bool) -> Reading[bool]:
        """Return whether there was a call; if not, what was read is for the caller to hand on.

        A call of which the arguments have begun is one, whatever comes behind them: reading ends
        before what does not belong there. One without arguments has none, `{}`, unless it
        `needs_arguments` to be told from other objects.
        """
        incoming = self._incoming
        if not (yield from incoming.takes("{")):
            return False
        while (yield from self._member()):
            if (yield from incoming.takes(",")):
                continue
            if not (yield from incoming.takes("}")):
                break
            if not self._begun and self._name and not (needs_arguments and self._held is None):
                self._out.begin(self._name)
                self._out.argue("{}" if self._held is None else "".join(self._held))
                self._begun = True
            break
        return self._begun

    def _member(self) -> Reading[bool]:
        """Read a key and its value; False: there is none, or reading ends here."""
        key = yield from self._string()
        if key is None or not (yield from self._incoming.takes(":")):
            return False
        if not (yield from self._incoming.is_value()):
            return False
        if key == "name" and self._name is None:
            self._name = yield from self._string()
            return bool(self._name)
        if key in ARGUMENTS and not self._begun and self._held is None:
            return (yield from self._arguments())
        if not self._begun and key not in _BESIDE:
            return False
        return (yield from self._incoming.value(_nowhere))

    def _arguments(self) -> Reading[bool]:
        if self._name is None:
            self._held = []
            return (yield from read_arguments(self._incoming, self._held.append))
        self._begun = True
        self._incoming.unmark()
        self._out.begin(self._name)
        whole = yield from read_arguments(self._incoming, self._out.argue)
        self._out.cut = not whole
        return whole

    def _string(self) -> Reading[str | None]:
        """Return the JSON string that comes; None for anything else."""
        if (yield from self._incoming.ahead()) != '"':
            return None
        parts: list[str] = []
        whole = yield from self._incoming.value(parts.append)
        return _decoded("".join(parts)) if whole else None


def read_arguments(incoming: Incoming, sink: Sink) -> Reading[bool]:
    """Hand on arguments as written, as they come; False: they have no end.

    Some models write the object into a string: then what it holds is handed on, at its end.
    """
    if (yield from incoming.ahead()) != '"':
        return (yield from incoming.value(sink))
    parts: list[str] = []
    whole = yield from incoming.value(parts.append)
    written = "".join(parts)
    sink((_object_in(written) if whole else None) or written)
    return whole


def _decoded(written: str) -> str | None:
    try:
        text = json.loads(written, strict=False)
        text.encode()
    except ValueError:  # an escape that there is not, or half of a surrogate pair
        return None
    return text


def _object_in(written: str) -> str | None:
    """Return the text of the JSON object that a JSON string holds; None: it holds none."""
    inner = _decoded(written)
    try:
        return inner if inner and isinstance(json.loads(inner), dict) else None
    except (ValueError, RecursionError):
        return None


def _nowhere(text: str) -> None:
    """Values beside name and arguments have no place in OpenAI's calls."""
