"""What do the metrics cost? Served tokens a second, against an observer that does nothing.

Rounds of both, the first of a round alternating, so that a machine that slows down slows both. The
ratio of a round's processor time per token is steadier than that of its rates: it is shown too.
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
WAYS = {"with": True, "without": False}


class Way:
    """The runs with, or those without."""

    def __init__(self, *, observed: bool) -> None:
        """Start without runs."""
        self.observed = observed
        self.rates: list[float] = []
        self.cpu_us: list[float] = []

    def run(self, child: Child, generator: Generator, spec: LoadSpec | None) -> LoadSpec:
        """Serve anew and warm up; with a `spec` measure it, without one choose it."""
        port = child.ask({"observed": self.observed})["port"]
        if spec is None:
            return generator.sized(port, CLIENTS, stream=False)
        here = replace(spec, port=port)
        generator.run(replace(here, replies=1))
        process = psutil.Process(child.pid)
        before = _cpu_s(process)
        report = generator.run(here)
        self.rates.append(report.tokens_per_s)
        self.cpu_us.append((_cpu_s(process) - before) / report.tokens * 1e6)
        return here


def measure(bench: Bench) -> dict[str, Any]:
    """Serve with and without in turn, `ROUNDS_A_REPEAT` rounds a repeat."""
    ways = {name: Way(observed=observed) for name, observed in WAYS.items()}
    rounds = ROUNDS_A_REPEAT * bench.scale.repeats
    bench.say("starting")
    with (
        bench.child("benchmarks.observed_child", str(bench.checkpoint)) as child,
        Generator(bench) as generator,
    ):
        spec = ways["with"].run(child, generator, None)
        for number in range(rounds):
            for name in list(ways) if number % 2 else list(reversed(ways)):
                bench.say(f"round {number + 1} of {rounds}, {name}")
                ways[name].run(child, generator, spec)
    return {
        "clients": CLIENTS,
        "reply_len": spec.reply_len,
        "replies_per_client": spec.replies,
        **{
            name: {"tokens_per_s": figure(way.rates), "cpu_us_per_token": figure(way.cpu_us)}
            for name, way in ways.items()
        },
        "ratio": ratio(ways["with"].rates, ways["without"].rates),
        "cpu_ratio": ratio(ways["with"].cpu_us, ways["without"].cpu_us),
    }


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system
