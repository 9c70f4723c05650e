"""What does not fit is said before anything is loaded: how much is missing, and what would fit."""

from dataclasses import replace
from math import inf
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from serving.assembly import kv_budget
from serving.config import ConfigError, MemoryConfig
from serving.engine.build import load_workers, settle, short_memory_told
from serving.engine.room import (
    CPU_POOL_BYTES,
    GIB,
    Room,
    check_host,
    settle_pages,
    unused_host,
)
from serving.flags import build_config
from serving.messages import WorkerId

SHAPES = Path(__file__).parents[3] / "benchmarks" / "shapes"
PAGE_BYTES = 2 * 2**20  # 16 tokens of Llama-3.1-8B
MEMORY = MemoryConfig()
LARGE = Room(
    worker=WorkerId("both-0"),
    memory_bytes=80 * GIB,
    fraction=0.9,
    on_host=False,
    weight_bytes=15 * 2**30,
    lighter={},
    page_bytes=PAGE_BYTES,
    degree=1,
    degree_flag="--decode-tp",
    degrees=(2, 4),
)
SMALL = replace(LARGE, memory_bytes=24 * GIB)


def problem(room: Room, length: int, memory: MemoryConfig = MEMORY) -> str:
    with pytest.raises(ConfigError) as caught:
        settle_pages(room, memory, length)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def missing(line: str) -> float:
    """The bytes that a line says are missing."""
    return float(line.partition(" GiB are missing")[0].rpartition(" ")[2]) * GIB


def test_what_is_left_becomes_pages():
    pages = settle_pages(LARGE, MEMORY, 131072)
    assert pages == kv_budget(80 * GIB, 0.9, 1, 15 * GIB) // PAGE_BYTES
    assert settle_pages(LARGE, replace(MEMORY, kv_pages=9000), 131072) == 9000


def test_weights_that_do_not_fit():
    line = problem(replace(SMALL, memory_bytes=16 * GIB), 1024)
    assert "both-0: weights of 15.00 GiB" in line
    assert "do not fit in --memory-fraction 0.9 of 1 x 16.00 GiB" in line
    assert line.endswith("use --decode-tp 2 or --memory-fraction 0.95")


def test_every_way_out_that_is_named_is_one():
    """And what is said to be missing is just enough."""
    lighter = {"--dtype bfloat16": 10 * 2**30, "--quantize int8": 6 * 2**30}
    room = replace(SMALL, weight_bytes=20 * 2**30, lighter=lighter)
    length = 16 * 800
    line = problem(room, length)
    ways = line.partition("; use ")[2].split(" or ")
    assert [way.split()[0] for way in ways] == [
        "--max-model-len",
        "--dtype",
        "--quantize",
        "--decode-tp",
        "--memory-fraction",
    ]
    shorter, degree, fraction = (ways[i].split()[1] for i in (0, 3, 4))
    settle_pages(room, MEMORY, int(shorter))
    problem(room, int(shorter) + 16)
    for weight_bytes in lighter.values():
        settle_pages(replace(room, weight_bytes=weight_bytes), MEMORY, length)
    little = replace(room, lighter={"--dtype bfloat16": 20 * 2**30 - 1})
    assert "--dtype" not in problem(little, length)
    settle_pages(replace(room, degree=2, memory_bytes=2 * 24 * GIB), MEMORY, length)
    assert degree == "2"
    settle_pages(replace(room, fraction=float(fraction)), MEMORY, length)
    problem(replace(room, fraction=float(fraction) - 0.01), length)
    more = missing(line) / room.fraction
    settle_pages(replace(room, memory_bytes=24 * GIB + more + 0.02 * GIB), MEMORY, length)
    problem(replace(room, memory_bytes=24 * GIB + more - 0.02 * GIB), length)


def test_where_no_way_out_would_do_alone_two_are_named_together():
    lighter = {"--dtype bfloat16": 18 * 2**30, "--quantize int8": 10 * 2**30}
    room = replace(SMALL, weight_bytes=36 * 2**30, lighter=lighter, degrees=())
    line = problem(room, 131072)
    for flags, way in zip(lighter, line.partition("; use ")[2].split(" or "), strict=True):
        assert way.startswith(f"{flags} --max-model-len ")
        lighter_room = replace(room, weight_bytes=lighter[flags])
        settle_pages(lighter_room, MEMORY, int(way.split()[-1]))
        problem(lighter_room, int(way.split()[-1]) + 16)


def test_where_nothing_would_do_it_says_so():
    line = problem(replace(SMALL, memory_bytes=8 * GIB, degrees=()), 1024)
    assert line.endswith("are missing; use a smaller model")


def test_pages_asked_for_that_cannot_be():
    memory = replace(MEMORY, kv_pages=10_000)
    line = problem(SMALL, 1024, memory)
    assert "--kv-pages 10000 take 19.53 GiB beside 15.00 GiB of weights" in line
    assert "10.53 GiB are missing" in line
    most = int(line.split()[-3])
    assert settle_pages(SMALL, replace(memory, kv_pages=most), 1024) == most
    problem(SMALL, 1024, replace(memory, kv_pages=most + 1))
    problem(replace(SMALL, memory_bytes=2 * GIB), 1024, replace(memory, kv_pages=2))


def test_cpu_devices_share_what_the_host_has():
    host = replace(SMALL, on_host=True, fraction=1.0, degrees=())
    assert settle_pages(host, MEMORY, 512) == CPU_POOL_BYTES // PAGE_BYTES
    assert settle_pages(host, MEMORY, 4096) == 4096 // 16 + 1
    line = problem(host, 131072)
    assert "in 24.00 GiB of host memory" in line
    shorter = line.split()[-1]
    assert line.endswith(f"use --max-model-len {shorter}")
    settle_pages(host, MEMORY, int(shorter))
    tight = replace(host, memory_bytes=15 * GIB + 100 * 2**20)
    assert settle_pages(tight, MEMORY, 512) == 50, "as much as there is, where that is enough"
    assert settle_pages(replace(host, memory_bytes=inf), MEMORY, 512) > 1
    assert settle_pages(replace(host, memory_bytes=inf), replace(MEMORY, kv_pages=7), 64) == 7


def test_host_memory_for_idle_sessions():
    memory = replace(MEMORY, host_kv_gib=40.0)
    two = [(LARGE, 1000), (SMALL, 9000)]
    check_host(memory, 81 * GIB, two)
    check_host(MEMORY, 0.0, two)
    with pytest.raises(ConfigError) as caught:
        check_host(memory, 60.5 * GIB, two)
    line = str(caught.value)
    assert "--host-kv-gib 40 for 2 worker(s) takes 80.00 GiB of host memory, and 60.50 GiB" in line
    assert "are free: 19.50 GiB are missing; use --host-kv-gib 30 at most" in line


def test_pools_on_the_host_take_of_the_same_memory():
    memory = replace(MEMORY, host_kv_gib=4.0)
    host = replace(SMALL, on_host=True, fraction=1.0, degrees=())
    two = [(host, 512), (host, 1024)]  # 1 GiB and 2 GiB, beside 30 of weights
    check_host(memory, 33 * GIB + 8 * GIB, two)
    with pytest.raises(ConfigError) as caught:
        check_host(memory, 33 * GIB + 7 * GIB, two)
    line = str(caught.value)
    assert "and 7.00 GiB are free beside 33.00 GiB of weights and pages: 1.00 GiB are" in line
    assert line.endswith("use --host-kv-gib 3 at most")
    check_host(MEMORY, 2 * GIB, two)
    with pytest.raises(ConfigError, match=r"and 0.00 GiB are free .* use --host-kv-gib 0 at most$"):
        check_host(memory, 2 * GIB, two)


def test_what_the_host_could_keep_is_told_where_it_keeps_nothing():
    line = unused_host(MEMORY, 500.4 * GIB, 4)
    assert line is not None
    assert line.startswith("host memory: 500.40 GiB are free; --host-kv-gib 62 would keep there")
    assert unused_host(replace(MEMORY, host_kv_gib=1.0), 500 * GIB, 4) is None
    assert unused_host(MEMORY, 7.9 * GIB, 4) is None
    assert unused_host(MEMORY, inf, 4) is None, "the system does not tell"


def test_a_model_that_is_too_large_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.engine.build.free_host_bytes", lambda path: 4 * GIB)
    config = build_config(str(SHAPES / "qwen3-8b"), {"random_weights": True})
    with pytest.raises(ConfigError, match=r"both-0: weights of 15.26 GiB .* are missing"):
        load_workers(settle(config))
    monkeypatch.setattr("serving.engine.build.free_host_bytes", lambda path: 40 * GIB)
    idle = build_config(str(SHAPES / "qwen3-8b"), {"random_weights": True, "host_kv_gib": 30.0})
    with pytest.raises(ConfigError, match=r"--host-kv-gib 30 for 1 worker.* beside \d+"):
        load_workers(settle(idle))
    monkeypatch.setattr("serving.engine.build.free_host_bytes", lambda path: 12 * GIB)
    with pytest.raises(ConfigError, match=r"use --quantize int8 --max-model-len \d+$"):
        load_workers(settle(config))


def test_a_device_that_runs_out_of_memory_is_one_line():
    with (
        pytest.raises(ConfigError, match=r"^a device has too little memory \(Out of .*; lower"),
        short_memory_told(),
    ):
        jnp.zeros(2**45, jnp.int8)


def test_what_else_a_device_says_is_left_as_it_is():
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: a bug"), short_memory_told():
        raise jax.errors.JaxRuntimeError("INTERNAL: a bug")
