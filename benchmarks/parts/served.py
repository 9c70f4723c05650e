"""How many tokens a second come through HTTP, and which share of the raw step's rate is that?

Every round measures the raw loop and then each number of clients unstreamed and streamed, so that
a ratio compares what ran within the same minute. One client is one row.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import figure, ratio
from benchmarks.generator import Generator
from benchmarks.load import LoadReport, LoadSpec
from benchmarks.parts.raw import ask, raw_child
from benchmarks.server import COLOCATED, SPLIT, Server

MODES = {"unstreamed": False, "streamed": True}


@dataclass(slots=True)
class Cell:
    """Every run of one number of clients in one mode; `server_cpu`: cores that the server used."""

    spec: LoadSpec
    reports: list[LoadReport] = field(default_factory=list)
    server_cpu: list[float] = field(default_factory=list)

    def run(self, generator: Generator, server: Server) -> None:
        """Run once more."""
        before = server.cpu_s()
        report = generator.run(self.spec)
        self.server_cpu.append((server.cpu_s() - before) / report.wall_s)
        self.reports.append(report)

    def rates(self) -> list[float]:
        """Return the tokens per second of each run."""
        return [report.tokens_per_s for report in self.reports]

    def figures(self) -> dict[str, Any]:
        """Summarise; the generator's own cost is stated beside what it measured."""
        return {
            "replies_per_client": self.spec.replies,
            "tokens_per_s": figure(self.rates()),
            "first_byte_p50_s": figure([report.first_p50_s for report in self.reports]),
            "first_byte_p95_s": figure([report.first_p95_s for report in self.reports]),
            "server_cores": figure(self.server_cpu),
            "generator_cores": figure([r.cpu_s / r.wall_s for r in self.reports]),
            "generator_us_per_token": figure([r.cpu_s / r.tokens * 1e6 for r in self.reports]),
        }


Cells = dict[tuple[int, str], Cell]


def measure(bench: Bench) -> dict[str, Any]:
    """Measure the colocated worker beside the raw loop, and the shape of `make serve`."""
    raw: list[Mapping[str, Any]] = []
    with raw_child(bench) as child:

        def measure_raw() -> None:
            bench.say("raw step loop")
            raw.append(ask(bench, child)["tokens_per_s"])

        colocated = _shape(bench, "colocated", COLOCATED, measure_raw)
    split = _shape(bench, "make serve", SPLIT, lambda: None)
    rates = {rows: [answer[str(rows)]["median"] for answer in raw] for rows in bench.scale.rows}
    return {
        "prompt_len": bench.scale.prompt_len,
        "reply_len": bench.scale.reply_len,
        "mean_context": bench.scale.context,
        "colocated": {
            "flags": " ".join(COLOCATED),
            "rows": {
                str(rows): {
                    "raw_tokens_per_s": figure(rates[rows]),
                    **{m: _beside(colocated[rows, m], rates[rows]) for m in MODES},
                }
                for rows in bench.scale.rows
            },
        },
        "split": {
            "flags": " ".join(SPLIT),
            "rows": {
                str(rows): {m: split[rows, m].figures() for m in MODES} for rows in bench.scale.rows
            },
        },
    }


def _beside(cell: Cell, raw_rates: list[float]) -> dict[str, Any]:
    return {**cell.figures(), "of_raw": ratio(cell.rates(), raw_rates)}


def _shape(
    bench: Bench, name: str, flags: tuple[str, ...], before_round: Callable[[], None]
) -> Cells:
    """Serve one shape and run every cell once a round."""
    bench.say(f"starting the server, {name}")
    with Server(bench.checkpoint, flags, bench.env) as server, Generator(bench) as generator:
        cells: Cells = {}
        for rows in bench.scale.rows:
            for mode, stream in MODES.items():
                bench.say(f"{name}: warming up {rows} clients {mode}")
                cells[rows, mode] = Cell(generator.sized(server.port, rows, stream=stream))
        for round_ in range(bench.scale.repeats):
            before_round()
            for (rows, mode), cell in cells.items():
                bench.say(f"{name}: {rows} clients {mode}, repeat {round_ + 1}")
                cell.run(generator, server)
    return cells
