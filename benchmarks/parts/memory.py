"""How much memory does `make serve` take at most? Over a cold start-up, and under load."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.generator import Generator
from benchmarks.memory_sampler import MemorySampler, high_water_mark
from benchmarks.server import SPLIT, Server, own_cache

CLIENTS = 64
LONG_PROMPT_LEN = 2048
"""Tokens: half the demo model's context, so that both pools and every chunk size are in use."""


def measure(bench: Bench) -> dict[str, Any]:
    """Sample the resident bytes of the server's process; a cold start compiles, which takes most.

    `peak_bytes` is the kernel's own high-water mark where it keeps one, else the samples' peak.
    """
    with tempfile.TemporaryDirectory() as cache:
        bench.say("start-up")
        server = Server(bench.checkpoint, SPLIT, own_cache(Path(cache)))
    with server, Generator(bench) as generator:
        start_peak = high_water_mark(server.pid)
        with MemorySampler(server.pid) as sampler:
            bench.say(f"{CLIENTS} clients")
            short = bench.load(server.port, CLIENTS, stream=True)
            generator.run(short)
            bench.say(f"{CLIENTS} clients, long prompts")
            generator.run(replace(short, prompt_len=LONG_PROMPT_LEN, seed=1))
        peak = max(sampler.peak, high_water_mark(server.pid) or 0)
    return {
        "flags": " ".join(SPLIT),
        "clients": CLIENTS,
        "longest_prompt_len": LONG_PROMPT_LEN,
        "start_peak_bytes": start_peak,
        "load_peak_bytes": sampler.peak,
        "peak_bytes": peak,
    }
