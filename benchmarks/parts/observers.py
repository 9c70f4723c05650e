"""What does watching cost? Served tokens a second with metrics, with a decision log too, with none.

Rounds of all three, from first to last and back in turn, so that a machine that slows down slows
all. What observers cost is far less than what two runs differ by, so the figure that counts is
the processor time that they themselves take, of all that the server takes in the same run.
"""

from dataclasses import replace
from typing import Any

import psutil

from benchmarks.bench import Bench
from benchmarks.child import Child
from benchmarks.figures import figure, ratio
from benchmarks.generator import Generator
from benchmarks.load import LoadSpec

CLIENTS = 16
ROUNDS_A_REPEAT = 4
WAYS = ("none", "metrics", "log")
"""What watches, as `benchmarks.observed_child` names it."""


class Way:
    """The runs with one observer."""

    def __init__(self, watching: str) -> None:
        """Start without runs."""
        self.watching = watching
        self.rates: list[float] = []
        self.cpu_us: list[float] = []
        self.shares: list[float] = []

    def run(self, child: Child, generator: Generator, spec: LoadSpec | None) -> LoadSpec:
        """Serve anew and warm up; with a `spec` measure it, without one choose it."""
        port = child.ask({"watching": self.watching})["port"]
        if spec is None:
            return generator.sized(port, CLIENTS, stream=False)
        here = replace(spec, port=port)
        generator.run(replace(here, replies=1))
        process = psutil.Process(child.pid)
        before, watched = _cpu_s(process), child.ask({})["watched_s"]
        report = generator.run(here)
        used_s = _cpu_s(process) - before
        self.rates.append(report.tokens_per_s)
        self.cpu_us.append(used_s / report.tokens * 1e6)
        self.shares.append((child.ask({})["watched_s"] - watched) / used_s)
        return here


def measure(bench: Bench) -> dict[str, Any]:
    """Serve with each in turn, `ROUNDS_A_REPEAT` rounds a repeat."""
    ways = {name: Way(name) for name in WAYS}
    rounds = ROUNDS_A_REPEAT * bench.scale.repeats
    bench.say("starting")
    with (
        bench.child("benchmarks.observed_child", str(bench.checkpoint)) as child,
        Generator(bench) as generator,
    ):
        spec = ways["log"].run(child, generator, None)
        for number in range(rounds):
            for name in list(ways) if number % 2 else list(reversed(ways)):
                bench.say(f"round {number + 1} of {rounds}, {name}")
                ways[name].run(child, generator, spec)
    return {
        "clients": CLIENTS,
        "reply_len": spec.reply_len,
        "replies_per_client": spec.replies,
        **{
            name: {
                "tokens_per_s": figure(way.rates),
                "cpu_us_per_token": figure(way.cpu_us),
                "watching_share": figure(way.shares),
            }
            for name, way in ways.items()
        },
        "ratios": {
            name: {
                "tokens_per_s": ratio(ways[name].rates, ways["none"].rates),
                "cpu": ratio(ways[name].cpu_us, ways["none"].cpu_us),
            }
            for name in WAYS[1:]
        },
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
