"""Which rate do so many workers of one kind sustain? The latency model against the targets.

Decode: the most rows B whose step over B mean contexts takes no longer than the target per token,
and which memory holds. Rows come and go at random, so `count` workers that share them run at
B / (1 + z / sqrt(B count)) on average (ours; z is the normal quantile of the attainment wanted).
Prefill: prompts wait as serving/plan/queue says; the link has to carry the KV that they make.
Colocated: in a step ride as many prompt tokens as rows that end make room for; prompts wait for the
largest chunks that the target per token leaves time for (performance.md, section 11).
Rates are multiples of the workload's own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, sqrt
from statistics import NormalDist

import numpy as np

from serving.costs.costs import Costs, Link
from serving.messages import Role
from serving.plan.demand import Demand, TurnWork
from serving.plan.queue import Seconds, fullest

MOST_ROWS = 512
CHUNKS = (256, 512, 1024, 2048, 4096, 8192)
CHUNK_EFFICIENCY = 0.95
"""The smallest chunk is taken that costs at most so much more per token than the best (ours)."""
ROWS_GRAIN = 8
MOST_RECOMPUTE = 1e3
"""By how much a turn may cost more with its history computed again: out of reach, but finite."""
SAMPLE = 400
"""Prompts that service times are computed of."""


@dataclass(frozen=True, slots=True)
class Targets:
    """Seconds to the first token and per token, and the share of turns that shall meet both."""

    ttft_s: float
    tpot_s: float
    attainment: float


@dataclass(frozen=True, slots=True)
class WorkerKind:
    """Workers of a role over `degree` devices, with room for `kv_tokens` tokens each."""

    role: Role
    degree: int
    costs: Costs
    kv_tokens: int


@dataclass(frozen=True, slots=True)
class Option:
    """`count` workers of one kind, and what they do.

    `rate`: the rate scale they sustain. `spare`: that of prompts alone which workers that decode
    could take if nothing decoded. `room`: tokens of KV that they hold, `row_tokens` those of
    running rows per unit of rate scale, `token_s` what a token of a reply takes there. `recompute`:
    how much more a turn costs them with its history computed again, relative to all cached.
    `limited_by` says what ends the rate.
    """

    kind: WorkerKind
    count: int
    rate: float
    spare: float
    room: float
    row_tokens: float
    token_s: float
    recompute: float
    limited_by: str

    @property
    def gpus(self) -> int:
        """Accelerators that they take."""
        return self.count * self.kind.degree


def prefill_seconds(costs: Costs, turn: TurnWork, chunk: int) -> float:
    """Return what a prompt takes alone, in chunks."""
    seconds, at = 0.0, turn.cached
    end = turn.cached + turn.new
    while at < end:
        step = min(chunk, end - at)
        seconds += costs.prefill(step, at).seconds
        at += step
    return seconds


def chunk_size(costs: Costs) -> int:
    """Return how many prompt tokens a step should take: few, but not dear (`CHUNK_EFFICIENCY`).

    Prompts that share a step end together, so larger ones make the first wait for the last.
    """
    per_token = {chunk: costs.prefill(chunk, 0).seconds / chunk for chunk in CHUNKS}
    best = min(per_token.values())
    return next(c for c in CHUNKS if per_token[c] * CHUNK_EFFICIENCY <= best)


def sample(turns: Sequence[TurnWork]) -> Sequence[TurnWork]:
    """Take every k-th turn, at most `SAMPLE`."""
    return turns[:: -(-len(turns) // SAMPLE)]


def service_times(costs: Costs, demand: Demand) -> Seconds:
    """Return the seconds that a sample of the workload's prompts take, each alone."""
    chunk = chunk_size(costs)
    return np.array([prefill_seconds(costs, turn, chunk) for turn in sample(demand.turns)])


def forgotten(demand: Demand) -> Demand:
    """Return the same demand with nothing cached."""
    turns = tuple(TurnWork(turn.new + turn.cached, 0, turn.reply) for turn in demand.turns)
    return replace(demand, turns=turns)


def rows_within(costs: Costs, context: float, tpot_s: float) -> int:
    """Return the most rows, up to `MOST_ROWS`, whose decode step is within `tpot_s`; 0 if none."""

    def fits(rows: int) -> bool:
        return costs.decode(rows, round(rows * context)).seconds <= tpot_s

    return _largest(fits, MOST_ROWS)


def rows_in_memory(kind: WorkerKind, demand: Demand) -> int:
    """Return how many rows a worker's memory holds."""
    return int(kind.kv_tokens / demand.footprint)


def row_limit(kind: WorkerKind, demand: Demand, targets: Targets) -> int:
    """Return `max_num_seqs`: what target and memory allow, rounded up to `ROWS_GRAIN`."""
    rows = min(
        rows_within(kind.costs, demand.context, targets.tpot_s), rows_in_memory(kind, demand)
    )
    return max(1, -(-rows // ROWS_GRAIN)) * ROWS_GRAIN


def prefill_options(
    kind: WorkerKind, demand: Demand, targets: Targets, link: Link, most_gpus: int
) -> list[Option]:
    """Price every number of prefill workers."""
    counts = range(1, most_gpus // kind.degree + 1)
    kept = _prefill_rates(kind, demand, targets, link, counts)
    lost = _prefill_rates(kind, forgotten(demand), targets, link, counts)
    return [
        Option(kind, count, rate, 0.0, 0.0, 0.0, 0.0, _more(rate, without), limited_by)
        for count, (rate, limited_by), (without, _) in zip(counts, kept, lost, strict=True)
    ]


def _prefill_rates(
    kind: WorkerKind, demand: Demand, targets: Targets, link: Link, counts: Sequence[int]
) -> list[tuple[float, str]]:
    """Return the rate scale of each number of workers, and what limits it."""
    service = service_times(kind.costs, demand)
    carried = link.bytes_per_s / (demand.new * kind.costs.kv_bytes_per_token)
    rates: list[tuple[float, str]] = []
    for count in counts:
        busy = fullest(service, count, targets.ttft_s, targets.attainment)
        computed = busy / float(service.mean())
        limited_by = "link" if carried < computed else "compute of prefill"
        rates.append((count * min(computed, carried) / demand.turns_per_s, limited_by))
    return rates


def _more(kept: float, lost: float) -> float:
    """Return how much more turns cost with nothing cached, by the rates with and without."""
    return min(MOST_RECOMPUTE, kept / lost - 1) if lost else MOST_RECOMPUTE


def decode_options(
    kind: WorkerKind, demand: Demand, targets: Targets, link: Link, most_gpus: int
) -> list[Option]:
    """Price every number of decode workers."""
    in_time = rows_within(kind.costs, demand.context, targets.tpot_s)
    rows = min(in_time, rows_in_memory(kind, demand))
    if rows == 0:
        return []
    carried = link.bytes_per_s / (demand.new * kind.costs.kv_bytes_per_token)
    limited_by = "memory" if rows < in_time else "compute of decode"
    options: list[Option] = []
    for count in range(1, most_gpus // kind.degree + 1):
        mean_rows = max(1, int(_mean_rows(rows, count, targets)))
        step_s = kind.costs.decode(mean_rows, round(mean_rows * demand.context)).seconds
        decoded = mean_rows / step_s / demand.reply
        speed, busy = _prompts_beside(kind.costs, demand, targets, 0, count)
        options.append(
            Option(
                kind,
                count,
                count * min(decoded, carried) / demand.turns_per_s,
                count * busy * speed / demand.new / demand.turns_per_s,
                count * kind.kv_tokens,
                demand.turns_per_s * demand.reply * step_s * demand.footprint,
                step_s,
                0.0,
                "link" if carried < decoded else limited_by,
            )
        )
    return options


def colocated_options(
    kind: WorkerKind, demand: Demand, targets: Targets, most_gpus: int
) -> list[Option]:
    """Price every number of workers that do both."""
    in_time = rows_within(kind.costs, demand.context, targets.tpot_s)
    rows = min(in_time, rows_in_memory(kind, demand))
    if rows == 0:
        return []
    options: list[Option] = []
    for count in range(1, most_gpus // kind.degree + 1):
        most = max(1, int(_mean_rows(rows, count, targets)))
        held, step_s = _colocated_rows(kind, demand, targets, most, count)
        if held == 0:
            continue
        rate = count * held / step_s / demand.reply / demand.turns_per_s
        few, long_s = _colocated_rows(kind, forgotten(demand), targets, most, count)
        options.append(
            Option(
                kind,
                count,
                rate,
                0.0,
                count * kind.kv_tokens,
                demand.turns_per_s * demand.reply * step_s * demand.footprint,
                step_s,
                _more(held / step_s, few / long_s),
                "memory" if held == most and rows < in_time else "compute of both",
            )
        )
    return options


def _colocated_rows(
    kind: WorkerKind, demand: Demand, targets: Targets, most: int, count: int
) -> tuple[int, float]:
    """Find the most rows beside which prompts are in time; returns them and a step's seconds."""
    rows = _largest(lambda rows: _keeps_up(kind, demand, targets, rows, count), most)
    return rows, _colocated_step(kind.costs, demand, max(1, rows))


def _colocated_step(costs: Costs, demand: Demand, rows: int) -> float:
    """Return the seconds of a step in which as many prompts ride as replies end."""
    chunk = ceil(rows * demand.new / demand.reply)
    kv_tokens = round(rows * demand.context)
    return costs.mixed(rows, kv_tokens, chunk, round(demand.cached)).seconds


def _keeps_up(kind: WorkerKind, demand: Demand, targets: Targets, rows: int, count: int) -> bool:
    """Say whether prompts are in time beside so many rows, and steps too."""
    if _colocated_step(kind.costs, demand, rows) > targets.tpot_s:
        return False
    tokens_per_s, busy = _prompts_beside(kind.costs, demand, targets, rows, count)
    # The chunks that ride are fewer than could: prompts come at random, and wait for chunks.
    turns_per_s = rows / targets.tpot_s / demand.reply
    return turns_per_s * demand.new <= busy * tokens_per_s


def _prompts_beside(
    costs: Costs, demand: Demand, targets: Targets, rows: int, count: int
) -> tuple[float, float]:
    """Return what the largest chunks within the target per token come to beside so many rows.

    In tokens a second of one worker; and the share of it that prompts in time may use.
    """
    kv_tokens, cached = round(rows * demand.context), round(demand.cached)

    def seconds(chunk: int) -> float:
        return costs.mixed(rows, kv_tokens, chunk, cached).seconds

    chunk = _largest(lambda chunk: seconds(chunk) <= targets.tpot_s, CHUNKS[-1])
    if chunk == 0:
        return 0.0, 0.0
    speed = chunk / seconds(chunk)
    service = np.array([turn.new for turn in sample(demand.turns)]) / speed
    return speed, fullest(service, count, targets.ttft_s, targets.attainment)


def _mean_rows(rows: int, count: int, targets: Targets) -> float:
    z = NormalDist().inv_cdf(targets.attainment)
    return rows / (1 + max(0.0, z) / sqrt(rows * count))


def _largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest number in 1..most that fits, where all below it do; 0 if none."""
    if fits(most):
        return most
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        if fits(middle):
            low = middle
        else:
            high = middle
    return low
