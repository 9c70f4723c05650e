"""How is an HTTP response read with as little work as possible? Bytes in, one body out.

The load generator shares the cores with the server it measures, so this reads only what the two
generation endpoints send: a length or chunks, no trailers, one response at a time. Knows nothing
of sockets or of what the body says.
"""

from dataclasses import dataclass, field


class ProtocolError(ValueError):
    """Bytes that are not the response this reader understands."""


@dataclass(slots=True)
class ResponseReader:
    """One response. Life: head -> body -> done; a new response needs a new reader."""

    status: int = 0
    body: bytearray = field(default_factory=bytearray)
    done: bool = False
    _rest: bytes = b""
    _in_body: bool = False
    _length: int | None = None

    def feed(self, data: bytes) -> bool:
        """Take the next bytes; returns whether the response is complete.

        Raises ProtocolError for bytes that belong to no response, or to a second one.
        """
        if self.done:
            raise ProtocolError("bytes after the end of the response")
        self._rest = self._rest + data if self._rest else data
        if not self._in_body and not self._read_head():
            return False
        if self._length is None:
            self._read_chunks()
        else:
            self._read_length(self._length)
        if self.done and self._rest:
            raise ProtocolError("bytes after the end of the response")
        return self.done

    def _read_head(self) -> bool:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            return False
        status_line, *lines = head.split(b"\r\n")
        version, _, status = status_line.partition(b" ")
        if not version.startswith(b"HTTP/1.") or not status[:3].isdigit():
            raise ProtocolError(f"not a status line: {status_line[:80]!r}")
        self.status = int(status[:3])
        headers = {}
        for line in lines:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        if headers.get(b"transfer-encoding", b"").lower() != b"chunked":
            if b"content-length" not in headers:
                raise ProtocolError("neither a length nor chunks")
            self._length = int(headers[b"content-length"])
        self._in_body, self._rest = True, rest
        return True

    def _read_length(self, length: int) -> None:
        missing = length - len(self.body)
        self.body += self._rest[:missing]
        self._rest = self._rest[missing:]
        self.done = len(self.body) == length

    def _read_chunks(self) -> None:
        """Take every whole chunk: size in hexadecimal, line end, data, line end; size 0 ends."""
        rest, place = self._rest, 0
        while (line_end := rest.find(b"\r\n", place)) >= 0:
            try:
                size = int(rest[place:line_end].split(b";")[0], 16)
            except ValueError:
                raise ProtocolError(f"not a chunk size: {rest[place:line_end][:80]!r}") from None
            begin, end = line_end + 2, line_end + 2 + size
            if len(rest) < end + 2:
                break
            if rest[end : end + 2] != b"\r\n":
                raise ProtocolError("a chunk is longer than it said")
            self.body += rest[begin:end]
            place = end + 2
            if size == 0:
                self.done = True
                break
        self._rest = rest[place:]
