"""How is an operator told what happens, when nobody can listen? Standard error that never fails.

A log file on a full disk, or a terminal that has gone, must not end a server that has turns to
finish; a terminal that was stopped must not stop it. Knows nothing of what is told.
"""

import io
import logging
import os
from contextlib import suppress
from queue import Full, Queue
from threading import Thread
from typing import Any

MOST_WAITING = 10_000
"""Lines kept while nobody takes them; later ones are lost."""
CLOSE_S = 1.0
"""How long the end of the process waits for the last lines, in seconds."""


class _Forgiving(io.RawIOBase):
    """A file descriptor; what it does not take is lost."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def writable(self) -> bool:
        """It is for nothing else."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def isatty(self) -> bool:
        """Tell whether somebody may be watching."""
        return os.isatty(self._descriptor)

    def write(self, data: Any) -> int:
        """Write what can be written; returns the number of bytes that were done with."""
        try:
            return os.write(self._descriptor, data)
        except OSError:
            return memoryview(data).nbytes


def forgiving(descriptor: int) -> io.TextIOWrapper:
    """Return a text stream to a descriptor whose writes never fail; it comes out line by line."""
    raw = io.BufferedWriter(_Forgiving(descriptor))
    return io.TextIOWrapper(raw, "utf-8", errors="backslashreplace", line_buffering=True)


class Unhurried(logging.Handler):
    """Writes log lines in a thread of its own, so that whoever logs never waits for a reader.

    To the descriptor itself: a lock of a stream's, held for ever, would keep the process alive.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._raw = _Forgiving(descriptor)
        self._waiting: Queue[bytes | None] = Queue(MOST_WAITING)
        self._thread = Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line, unless too many wait."""
        with suppress(Full):
            self._waiting.put_nowait(f"{self.format(record)}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        """Write what waits, unless nobody takes it."""
        with suppress(Full):
            self._waiting.put_nowait(None)
        self._thread.join(CLOSE_S)
        super().close()

    def _run(self) -> None:
        while (line := self._waiting.get()) is not None:
            rest = memoryview(line)
            while rest:
                rest = rest[self._raw.write(rest) :]
