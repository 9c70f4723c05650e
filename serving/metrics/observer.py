"""What happened, in numbers? Told of arrivals, tokens, ends and decisions; scraped by Prometheus.

Decides nothing and never blocks; all methods are called in the event loop's thread. A turn counts
for its owner's `engine`; one that was never placed counts for engine 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from prometheus_client import CollectorRegistry, generate_latest

from serving.messages import (
    Completed,
    Decision,
    Dropped,
    End,
    Failed,
    LoadReport,
    Outcome,
    Rejected,
    Role,
    WorkerId,
)
from serving.metrics.catalog import (
    CACHE_INFO,
    RETRY_REASONS,
    ROUTE_REASONS,
    ServerLabels,
    catalog,
)
from serving.metrics.series import Collector, Histogram, Values
from serving.request import Turn, TurnId

STOPPED = "stopped"
"""The reason of a `Dropped` turn whose text reached a stop string: for its client it is whole."""

Row = tuple[str, ...]


@dataclass(slots=True)
class _Live:
    """A turn under way; times in seconds."""

    arrived: float
    row: Row
    owner: WorkerId | None
    prompt_len: int
    first: float | None
    last: float


class Metrics:
    """The observer. Owns its registry, so several can live in one process."""

    def __init__(self, server: ServerLabels) -> None:
        self._model = server.model_name
        self._engines = {worker: str(i) for i, (worker, _) in enumerate(server.workers)}
        self._letters = {
            worker: "p" if role is Role.PREFILL else "d" for worker, role in server.workers
        }
        self._live: dict[TurnId, _Live] = {}
        series = catalog(server)
        self._values = {name: one for name, one in series.items() if isinstance(one, Values)}
        self._histograms = {name: one for name, one in series.items() if isinstance(one, Histogram)}
        self._generated = self._values["vllm:generation_tokens"]
        self._itl = self._histograms["foretoken:inter_token_latency_seconds"]
        self._server = server
        self._pools = dict.fromkeys(self._engines, 0)
        for worker in self._engines or [None]:
            self._values[CACHE_INFO].set((*self._row(worker), *server.cache(0)), 1)
        self._registry = CollectorRegistry()
        self._registry.register(Collector(series))

    def scrape(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def on_request(self, n: int) -> None:
        """A valid request asked for `n` choices."""
        self._observe("vllm:request_params_n", self._row(None), n)

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""
        row = self._row(None)
        self._live[turn.id] = _Live(now, row, None, turn.prompt_len, None, now)
        self._observe("vllm:request_params_max_tokens", row, turn.sampling.max_tokens)

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """A token is on its way to the client of each turn.

        Called for every step: turns whose last tokens came from one step too are counted together.
        """
        row: Row = ()
        gap, count = 0.0, 0
        for turn in turns:
            live = self._live.get(turn)
            if live is None:
                continue
            if live.first is None:
                self._on_first_token(live, now)
                continue
            own = now - live.last
            live.last = now
            if own != gap or live.row != row:
                self._on_gaps(row, gap, count)
                row, gap, count = live.row, own, 0
            count += 1
        self._on_gaps(row, gap, count)

    def on_end(self, end: End, now: float) -> None:
        """A turn ended; latencies and lengths are those of replies that are whole."""
        live = self._live.pop(end.turn, None)
        if live is None:
            return
        reason = _finished_reason(end.outcome)
        row = live.row
        self._values["vllm:request_success"].add((*row, reason), 1)
        if reason not in ("stop", "length"):
            return
        self._values["vllm:prefix_cache_queries"].add(row, end.prompt_len)
        self._values["vllm:prefix_cache_hits"].add(row, end.cached_len)
        computed = end.prompt_len - end.cached_len
        self._observe("vllm:request_prompt_tokens", row, end.prompt_len)
        self._observe("vllm:request_prefill_kv_computed_tokens", row, computed)
        self._observe("vllm:request_generation_tokens", row, end.reply_len)
        self._observe("vllm:e2e_request_latency_seconds", row, now - live.arrived)
        if live.first is not None:
            decoding = live.last - live.first
            self._observe("vllm:request_decode_time_seconds", row, decoding)
            if end.reply_len > 1:
                per_token = decoding / (end.reply_len - 1)
                self._observe("vllm:request_time_per_output_token_seconds", row, per_token)

    def on_decision(self, decision: Decision) -> None:
        """The coordinator placed, routed or retried a turn; other kinds are not counted."""
        live = self._live.get(decision.turn)
        if live is None:
            return
        match decision.kind:
            case "place":
                live.owner = WorkerId(decision.choice)
                live.row = self._row(live.owner)
            case "route":
                reason = decision.reason if decision.reason in ROUTE_REASONS else "other"
                path = self._path(live.owner, decision)
                self._values["foretoken:route_decisions"].add((*live.row, path, reason), 1)
            case "retry":
                reason = decision.reason if decision.reason in RETRY_REASONS else "other"
                self._values["foretoken:turn_retries"].add((*live.row, reason), 1)
                if reason == "preempted":
                    self._values["vllm:num_preemptions"].add(live.row, 1)
            case _:
                return

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Pages left a worker."""
        direction = f"{self._letters[sender]}2{self._letters[to]}"
        row = (*self._row(sender), direction)
        self._values["foretoken:kv_transfer_bytes"].add(row, num_bytes)

    def on_compile(self) -> None:
        """XLA compiled a program."""
        self._values["foretoken:xla_compilations"].add((*self._row(None), "any"), 1)

    def on_reports(self, reports: Sequence[LoadReport]) -> None:
        """Workers told what they hold; called before a scrape."""
        for report in reports:
            row = self._row(report.worker)
            pages = report.pages_used + report.pages_cached + report.pages_free
            self._on_pool(report.worker, pages)
            self._values["vllm:num_requests_running"].set(row, report.running)
            self._values["vllm:num_requests_waiting"].set(row, report.waiting)
            usage = report.pages_used / pages if pages else 0.0
            self._values["vllm:kv_cache_usage_perc"].set(row, usage)

    def _on_first_token(self, live: _Live, now: float) -> None:
        live.first = live.last = now
        self._generated.add(live.row, 1)
        self._observe("vllm:time_to_first_token_seconds", live.row, now - live.arrived)
        self._values["vllm:prompt_tokens"].add(live.row, live.prompt_len)

    def _on_gaps(self, row: Row, gap: float, count: int) -> None:
        """`count` tokens came `gap` seconds after the ones before them."""
        if count:
            self._generated.add(row, count)
            self._itl.observe(row, gap, count)

    def _on_pool(self, worker: WorkerId, pages: int) -> None:
        """Tell the size of a worker's pool, which is known once it is warm."""
        before = self._pools.get(worker)
        if before is not None and before != pages:
            row, cache = self._row(worker), self._server.cache
            self._values[CACHE_INFO].rename((*row, *cache(before)), (*row, *cache(pages)))
            self._pools[worker] = pages

    def _row(self, worker: WorkerId | None) -> Row:
        engine = "0" if worker is None else self._engines.get(worker, "0")
        return (self._model, engine)

    def _observe(self, name: str, row: Row, value: int | float) -> None:
        self._histograms[name].observe(row, value, 1)

    def _path(self, owner: WorkerId | None, route: Decision) -> str:
        if route.choice != owner:
            return "remote_prefill"
        return "append_prefill" if "p" in self._letters.values() else "colocated"


def _finished_reason(outcome: Outcome) -> str:
    match outcome:
        case Completed(reason):
            return reason.value
        case Dropped(reason):
            return "stop" if reason == STOPPED else "abort"
        case Rejected() | Failed():
            return "error"
        case _:
            assert_never(outcome)
