"""How is the load generator's process driven? Specifications in, reports out."""

from dataclasses import asdict, replace

from benchmarks.bench import Bench, replies_for
from benchmarks.child import Child
from benchmarks.load import LoadReport, LoadSpec


class Generator:
    """The load generator as a process, for as long as its block runs."""

    def __init__(self, bench: Bench) -> None:
        """Start it."""
        self._child: Child = bench.child("benchmarks.load")
        self._bench = bench

    def run(self, spec: LoadSpec) -> LoadReport:
        """Do one run."""
        return LoadReport(**self._child.ask(asdict(spec)))

    def sized(self, port: int, clients: int, *, stream: bool) -> LoadSpec:
        """Describe runs that take about as long as the scale says; warms the server up by one."""
        once = self._bench.load(port, clients, stream=stream)
        return replace(once, replies=replies_for(self._bench.scale.run_s, self.run(once)), seed=1)

    def close(self) -> None:
        """End the process."""
        self._child.close()

    def __enter__(self) -> "Generator":
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()
