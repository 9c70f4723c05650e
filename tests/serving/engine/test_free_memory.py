"""What the host can still give away: the least that its system or a control group says."""

from math import inf
from pathlib import Path

import pytest

from serving.engine.free_memory import free_host_bytes

GIB = 2**30
MACHINE = {"proc/meminfo": f"MemTotal:  9 kB\nMemAvailable:   {24 * 2**20} kB\nMemFree: 8 kB\n"}


def free(root: Path, files: dict[str, str]) -> float:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return free_host_bytes(root)


def v2(folder: str, limit: str, used: int, inactive: int = 0) -> dict[str, str]:
    at = f"sys/fs/cgroup/{folder}"
    stat = f"anon 5\nfile 7\ninactive_file {inactive}\nactive_file 3\n"
    return {
        f"{at}memory.max": f"{limit}\n",
        f"{at}memory.current": f"{used}\n",
        f"{at}memory.stat": stat,
    }


def v1(folder: str, limit: int, used: int, inactive: int = 0) -> dict[str, str]:
    at = f"sys/fs/cgroup/memory/{folder}"
    return {
        f"{at}memory.limit_in_bytes": f"{limit}\n",
        f"{at}memory.usage_in_bytes": f"{used}\n",
        f"{at}memory.stat": f"inactive_file 1\ntotal_inactive_file {inactive}\n",
    }


def own(text: str) -> dict[str, str]:
    return {"proc/self/cgroup": text}


def test_a_system_that_does_not_tell(tmp_path: Path):
    assert free(tmp_path, {}) == inf
    assert free(tmp_path, {"proc/meminfo": "MemTotal: 9 kB\n"}) == inf


def test_a_machine_of_its_own(tmp_path: Path):
    assert free(tmp_path, MACHINE) == 24 * GIB
    assert free(tmp_path, own("0::/\n")) == 24 * GIB


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        (v2("a/b/", str(10 * GIB), 3 * GIB, 1 * GIB), 8),
        (v2("a/b/", "max", 3 * GIB), 24),
        (v2("a/b/", str(100 * GIB), 3 * GIB), 24),
        (v2("a/b/", str(2 * GIB), 3 * GIB), 0),
        (v2("a/", str(10 * GIB), 3 * GIB), 7),
        (v2("", str(10 * GIB), 3 * GIB), 7),
        (v2("a/b/", str(10 * GIB), 1 * GIB) | v2("a/", str(9 * GIB), 4 * GIB), 5),
        (v2("a/c/", str(1 * GIB), 0), 24),
        ({"sys/fs/cgroup/a/b/memory.max": str(6 * GIB)}, 6),
    ],
    ids=[
        "its files count as free",
        "no limit",
        "beyond the machine",
        "over its limit",
        "of a group around it",
        "a container that sees only itself",
        "the least of both",
        "of another group",
        "a limit alone",
    ],
)
def test_a_control_group(tmp_path: Path, files: dict[str, str], gib: int):
    assert free(tmp_path, MACHINE | own("0::/a/b\n") | files) == gib * GIB


@pytest.mark.parametrize(
    ("files", "gib"),
    [
        (v1("a/b/", 10 * GIB, 3 * GIB, 2 * GIB), 9),
        (v1("", 10 * GIB, 3 * GIB), 7),
        (v1("a/b/", 9223372036854771712, 3 * GIB), 24),
        (v2("a/b/", str(GIB), 0), 24),
    ],
    ids=["own", "a container that sees only itself", "no limit", "files of the other kind"],
)
def test_a_control_group_of_the_older_kind(tmp_path: Path, files: dict[str, str], gib: int):
    groups = own("8:cpu,cpuacct:/x\n4:hugetlb,memory:/a/b\n1:name=systemd:/a\n0::/elsewhere\n")
    assert free(tmp_path, MACHINE | groups | files) == gib * GIB
