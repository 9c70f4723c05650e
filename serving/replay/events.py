"""Where does an event of a stream end? Bytes as they come in, the data of whole events out.

Every event of OpenAI's streams has its data in one line. Lines end with newlines alone: text in
JSON may hold what Unicode takes for the end of a line.
"""

DATA = b"data:"


class EventReader:
    """Keeps the beginning of a line until its end comes."""

    def __init__(self) -> None:
        """Start before any byte."""
        self._rest = b""

    def feed(self, received: bytes) -> list[bytes]:
        """Return the data of the events that became whole, in order."""
        *lines, self._rest = (self._rest + received).split(b"\n")
        return [line[len(DATA) :].strip() for line in lines if line.startswith(DATA)]
