"""How much can the host still give this process? What its system says, and its control groups.

A container's limit may lie far below what the machine has free. Whoever goes beyond it is killed.
Files that were read and can be dropped count as free, as they do in the system's own estimate.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from pathlib import Path

ROOT = Path("/")
"""Where `proc` and `sys` are found."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The files of a control group; `dropped` names the line of `stat` that can be given back."""

    folder: Path
    limit: str
    used: str
    dropped: str


def free_host_bytes(root: Path) -> float:
    """Return what the host can still give away; infinity where the system does not tell."""
    return min([_free_of_machine(root), *map(_free_of_group, _groups(root))])


def _free_of_machine(root: Path) -> float:
    lines = _read(root / "proc/meminfo").splitlines()
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024.0 if found else inf


def _groups(root: Path) -> Iterator[_Files]:
    """Name the files of the process's control groups, of those that contain them too.

    A container that does not see where it lies among the host's groups finds its own at the top.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, controllers, path = line.split(":", 2)
        own = Path(path.lstrip("/"))
        for part in (own, *own.parents):
            if number == "0":
                folder = root / "sys/fs/cgroup" / part
                yield _Files(folder, "memory.max", "memory.current", "inactive_file")
            elif "memory" in controllers.split(","):
                folder = root / "sys/fs/cgroup/memory" / part
                limit, used = "memory.limit_in_bytes", "memory.usage_in_bytes"
                yield _Files(folder, limit, used, "total_inactive_file")


def _free_of_group(files: _Files) -> float:
    limit = _read(files.folder / files.limit).strip()
    if not limit.isdigit():  # "max", or there is no such group here
        return inf
    used = int(_read(files.folder / files.used) or 0)
    lines = [line.split() for line in _read(files.folder / "memory.stat").splitlines()]
    dropped = sum(int(size) for name, size in lines if name == files.dropped)
    return max(0.0, float(int(limit) - used + dropped))


def _read(path: Path) -> str:
    """Return a file's text; nothing where there is no such file, or none that may be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
