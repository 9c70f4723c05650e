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
LONG_CLIENTS, LONG_PROMPT_LEN = 32, 2048
"""Half the demo model's context each: together more tokens than the decode workers' pools hold."""


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
            bench.say(f"{LONG_CLIENTS} clients, long prompts")
            generator.run(replace(short, clients=LONG_CLIENTS, prompt_len=LONG_PROMPT_LEN, seed=1))
        peak = max(sampler.peak, high_water_mark(server.pid) or 0)
    return {
        "flags": " ".join(SPLIT),
        "clients": CLIENTS,
        "long_clients": LONG_CLIENTS,
        "long_prompt_len": LONG_PROMPT_LEN,
        "start_peak_bytes": start_peak,
        "load_peak_bytes": sampler.peak,
        "peak_bytes": peak,
    }
