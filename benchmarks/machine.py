"""Which machine and which code did a benchmark run on? No host names and no paths."""

import hashlib
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import TypedDict

CPU_INFO = Path("/proc/cpuinfo")


class Machine(TypedDict):
    """What a figure depends on beside the code."""

    cpu: str
    cores: int
    ram_gib: float
    system: str
    python: str
    jax: str
    jaxlib: str


def describe_machine() -> Machine:
    """Describe the machine and the interpreter that this process runs on."""
    return Machine(
        cpu=_cpu_model(),
        cores=os.cpu_count() or 1,
        ram_gib=round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        jax=version("jax"),
        jaxlib=version("jaxlib"),
    )


def describe_code(root: Path) -> str:
    """Name the commit; with uncommitted changes, `commit+digest of the changes`.

    The results themselves do not count as a change. Returns "unknown" outside a git checkout.
    """
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD").strip()
        changes = _git(root, "diff", "HEAD", "--", ".", ":!benchmarks/results")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    if not changes:
        return commit
    return f"{commit}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}"


def usable_cores() -> int:
    """Return how many cores this process may run on, which others may change at any time."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model(info: str) -> str | None:
    """Find the processor's name in the text of Linux's cpuinfo; None if it has none."""
    for line in info.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return None


def _cpu_model() -> str:
    found = cpu_model(CPU_INFO.read_text()) if CPU_INFO.exists() else None
    return found or platform.processor() or platform.machine()


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout
