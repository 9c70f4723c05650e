"""How is an operator told what happens, when nobody can listen? Standard error that never fails.

A log file on a full disk, or a terminal that has gone, must not end a server that has turns to
finish. Knows nothing of what is told.
"""

import io
import os
from typing import Any


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
