"""How much memory did a process hold at most? Resident bytes, sampled from a thread."""

import threading
from pathlib import Path
from typing import Self

import psutil

PERIOD_S = 0.05


class MemorySampler:
    """Samples while its block runs; `peak` is the most it saw, in bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._process = psutil.Process(pid)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        """Start sampling."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Take a last sample."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            self.peak = max(self.peak, resident(self._process))
            if self._stopping.wait(PERIOD_S):
                break


def resident(process: psutil.Process) -> int:
    """Return the resident bytes of a process and its children; 0 once it is gone."""
    try:
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family)
    except psutil.NoSuchProcess:
        return 0


def high_water_mark(pid: int) -> int | None:
    """Return the peak resident bytes that Linux kept of a process; None where it keeps none."""
    status = Path("/proc") / str(pid) / "status"
    return peak_in_status(status.read_text()) if status.exists() else None


def peak_in_status(text: str) -> int | None:
    """Find VmHWM (given in KiB) in the text of a process's status."""
    for line in text.splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
