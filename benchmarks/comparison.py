"""What is compared: policies on workloads, at loads, on clusters; and how they are cut into cells.

All policies have the same hardware, batch limits and targets. Each has the split of the workers
with which it did best on other parts of the trace (`Source.quarters`), as its user would have
planned. What belongs to a system goes with its policy: `foretoken` alone orders its queues for most
targets, moves rows and keeps turns waiting for the others' pace, `ampd` looks ahead as AMPD does,
the rest serve first come, first served.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

POLICIES = ("replicas", "pd-full", "pd-delta", "local", "threshold", "ampd", "foretoken")
"""Those of the scheduler that need no table of measurements; `ppd` joins where there is one."""
FIRST_SEED = 10
"""Seeds below it, and the parts of the traces that belong to them, served to choose settings."""
AMPD_PASSES = 4
"""How often AMPD's lookahead passes over a task (papers.md 3.4: its bound is not published)."""
SERVEGEN_S = 900.0
"""How much of ServeGen's day arrivals are drawn for, before the load's own scale."""
MAX_LEN = 66_560
CONTEXT = 65_536


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers, each of `tp` accelerators.

    `load` is by how much a workload's rates and turns are multiplied: what it serves, of what four
    accelerators do with the 8B model.
    """

    model: str
    workers: int
    tp: int
    load: float


CLUSTERS = {
    "4": Cluster("llama-3.1-8b", 4, 1, 1.0),
    "16": Cluster("llama-3.1-8b", 16, 1, 4.0),
    "64": Cluster("llama-3.1-8b", 64, 1, 16.0),
    "70b": Cluster("llama-3.1-70b", 4, 4, 0.45),  # four times the devices, 8.8 the parameters
}


@dataclass(frozen=True, slots=True)
class Source:
    """A workload: its file, where that is from, its format, turns a cell, targets in seconds.

    `rates` multiply the file's own rate, `Cluster.load` does so again. Where the file has no
    session starts, they are drawn at `session_rate` a second. Else its first `tuned_s` seconds
    served to choose settings, and the seeds reported have parts behind them that follow each other
    by `part_s`, but for clusters of a `Cluster.load` from `whole_from` on: too large for a part,
    they begin where the file does, and get so many of its turns. So many `quarters` of the workers
    only prefill under each policy: those of 0 to 2 for `foretoken`, of 1 to 3 for its disaggregated
    peers, that had the best attainment on seed 0 (LOG.md).
    """

    file: str
    origin: str
    format: str
    turns: int
    ttft_s: float
    tpot_s: float
    rates: tuple[float, ...]
    quarters: Mapping[str, int] = field(hash=False)
    session_rate: float = 1.0
    tuned_s: float = 0.0
    part_s: float | None = None
    whole_from: float = inf

    def window(self, seed: int, *, whole: bool) -> tuple[float, float | None]:
        """Return where a seed's part of the file begins, and its length; in seconds, None: all."""
        if self.format == "servegen":
            return 0.0, SERVEGEN_S
        if self.part_s is None or whole:
            return 0.0, None
        if seed >= FIRST_SEED:
            return self.tuned_s + self.part_s * (seed - FIRST_SEED), None
        start_s = self.tuned_s * seed / FIRST_SEED
        return start_s, self.tuned_s - start_s


def _split(*, foretoken: int, peers: int) -> Mapping[str, int]:
    """Return the quarters of all policies."""
    own = {"replicas": 0, "foretoken": foretoken}
    return {**dict.fromkeys([*POLICIES, "ppd"], peers), **own}


SOURCES = {
    "mooncake": Source(
        "mooncake_conversation.jsonl.zst",
        "github.com/kvcache-ai/Mooncake",
        "mooncake",
        1500,
        2.0,
        0.03,
        (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.5),
        _split(foretoken=0, peers=2),
        tuned_s=1000.0,
        part_s=700.0,
        whole_from=16.0,
    ),
    "weka": Source(
        "weka_claude_code.jsonl.zst",
        "github.com/callanjfox/kv-cache-tester",
        "weka",
        3000,
        2.0,
        0.03,
        (0.25, 0.5, 1.0, 1.5, 2.0, 4.0),
        _split(foretoken=0, peers=1),
        0.2,
    ),
    "servegen": Source(
        "servegen_deepseek_r1.jsonl.zst",
        "github.com/alibaba/ServeGen",
        "servegen",
        4000,
        2.0,
        0.02,
        (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0, 1.25, 1.5),
        _split(foretoken=0, peers=1),
    ),
    "azure": Source(
        "azure_2023_conv.csv.zst",
        "github.com/Azure/AzurePublicDataset",
        "azure",
        4000,
        1.0,
        0.03,
        (6.0, 10.0, 14.0, 16.0, 17.0, 18.0, 20.0, 23.0),
        _split(foretoken=1, peers=2),
        tuned_s=2000.0,
        part_s=740.0,
        whole_from=4.0,
    ),
}


def lacking(workloads: Iterable[str], traces: str | None) -> str | None:
    """Say in one line which files of these workloads a folder lacks, and where they come from.

    None if it has all of them.
    """
    needed = [SOURCES[name] for name in dict.fromkeys(workloads)]
    gone = [one for one in needed if traces is None or not (Path(traces) / one.file).is_file()]
    if not gone:
        return None
    files = ", ".join(f"{one.file} ({one.origin})" for one in gone)
    unnamed = "--traces or FORETOKEN_TRACES must name a folder with"
    where = unnamed if traces is None else f"--traces {traces} has no"
    return f"{where} {files}; docs/workloads.md says how they are made"


@dataclass(frozen=True, slots=True)
class Cell:
    """One simulation. `variant` names what differs from the policy's own settings, if anything."""

    cluster: str
    workload: str
    rate: float
    policy: str
    seed: int
    variant: str = ""


ABLATIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "no prediction": {"predictor": "none"},
    "histogram": {"predictor": "histogram"},
    "oracle": {"predictor": "oracle"},
    "no moves": {"rebalance_policy": "none"},
    "moves by current load": {"rebalance_policy": "current"},
    "no ordering": {"order_policy": "arrival"},
    "AMPD's ordering": {"order_policy": "lookahead", "max_passes": 4},
    "no pace kept": {"keep_pace": False},
    "nobody stands aside": {"stand_aside": False},
    "all do both": {"quarters": 0},
    "a quarter prefills": {"quarters": 1},
    "no margin below targets": {"route_late_margin": 0.0},
    "no TPOT harm": {"route_weight_tpot": 0.0},
    "no count of misses": {"route_weight_miss": 0.0},
    "miss weight halved": {"route_weight_miss": 2.5},
    "miss weight doubled": {"route_weight_miss": 10.0},
    "TTFT weight halved": {"route_weight_ttft": 0.5},
    "TTFT weight doubled": {"route_weight_ttft": 2.0},
    "TPOT weight halved": {"route_weight_tpot": 0.5},
    "TPOT weight doubled": {"route_weight_tpot": 2.0},
}
"""What is taken away or changed. The ablations of `foretoken` have one seed, so that what it does
as it is on that seed alone stands beside them."""
HOST_MEMORY: dict[str, dict[str, Any]] = {
    f"{gib} GiB of host memory": {"host_kv_gib": float(gib)} for gib in (64, 128, 192)
}
"""For each worker. Machines with H100s have about 256 GiB for each of them."""
VARIANTS = {"": {}, **ABLATIONS, **HOST_MEMORY}


def cells_of(
    clusters: Sequence[str], workloads: Sequence[str], policies: Sequence[str], seeds: int
) -> Iterator[Cell]:
    """List the cells of a comparison, the first cluster first."""
    chosen = range(FIRST_SEED, FIRST_SEED + seeds)
    for cluster, seed, workload in product(clusters, chosen, workloads):
        for rate, policy in product(SOURCES[workload].rates, policies):
            yield Cell(cluster, workload, rate, policy, seed)


def ablations_of(cluster: str, workloads: Sequence[str]) -> Iterator[Cell]:
    """List the variants of `foretoken` on one cluster, at two loads near saturation."""
    for workload in workloads:
        for rate, variant in product(SOURCES[workload].rates[-3:-1], ABLATIONS):
            yield Cell(cluster, workload, rate, "foretoken", FIRST_SEED, variant)
