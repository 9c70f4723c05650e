"""What happened, in numbers? Told of arrivals, tokens, ends and decisions; scraped by Prometheus.

Decides nothing and never blocks; all methods are called in the event loop's thread. A turn counts
for its owner's `engine`; one that was never placed counts for engine 0.
"""

from collections.abc import Mapping, Sequence
from typing import assert_never

from prometheus_client import CollectorRegistry, generate_latest

from serving.messages import (
    NOT_FINITE,
    STOPPED,
    Completed,
    Decision,
    Dropped,
    End,
    Failed,
    LoadReport,
    Outcome,
    Rejected,
    StepsTimed,
    WorkerId,
    WorkerMeans,
)
from serving.metrics.catalog import CACHE_INFO, Catalog
from serving.metrics.decided import Decided, Seen
from serving.metrics.engines import Engines, Row, ServerLabels
from serving.metrics.predicted import Predicted
from serving.metrics.series import Collector
from serving.request import Turn, TurnId

HELD_BY_WORKER = (
    *("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"),
    *("foretoken:kv_held_tokens", "foretoken:kv_reserved_tokens", "foretoken:kv_host_pages"),
    *("foretoken:session_kv_retained_tokens", "foretoken:kv_page_loss_seconds"),
    *("foretoken:window_ttft_seconds", "foretoken:window_itl_seconds"),
    "foretoken:step_age_seconds",
)
"""Gauges of what a worker has now, or had in its last seconds."""
SIGMAS = 2
"""Standard deviations within which an error that is stated counts as held."""


class Metrics:
    """The observer. Owns its registry, so several can live in one process."""

    def __init__(self, server: ServerLabels) -> None:
        self._server = server
        self._engines = Engines(server)
        self._live: dict[TurnId, Seen] = {}
        catalog = Catalog(server)
        self._values = catalog.values
        self._histograms = catalog.histograms
        self._generated = self._values["vllm:generation_tokens"]
        self._itl = self._histograms["foretoken:inter_token_latency_seconds"]
        self._decided = Decided(catalog, self._engines)
        self._predicted = Predicted(catalog, self._row(None))
        self._pools: dict[WorkerId, int] = {}
        self._reported: set[WorkerId] = set()
        for worker in self._engines:
            self._pools[worker] = 0
            self._decided.show_role(worker)
        for engine in server.engines:
            self._values[CACHE_INFO].set((server.model_name, engine, *server.cache(0)), 1)
        self._registry = CollectorRegistry()
        self._registry.register(Collector(catalog.series))

    def scrape(self) -> bytes:
        """Return everything in Prometheus' text format. May be called from any thread."""
        return generate_latest(self._registry)

    def on_request(self, n: int) -> None:
        """A valid request asked for `n` choices."""
        self._observe("vllm:request_params_n", self._row(None), n)

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""
        row = self._row(None)
        self._live[turn.id] = Seen(
            turn.sampling, now, row, None, "", turn.prompt_len, None, now, None
        )
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
        self._decided.on_left(live, end.reply_len)
        if isinstance(end.outcome, Completed):
            free = [p for p in end.predictions if live.sampling.may_end_after(p.generated)]
            self._predicted.on_reply(live.row, free, end.reply_len)
        reason = _finished_reason(end.outcome)
        row = live.row
        self._values["vllm:request_success"].add((*row, reason), 1)
        if isinstance(end.outcome, Failed) and end.outcome.code == NOT_FINITE:
            self._values["foretoken:turns_not_finite"].add(row, 1)
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

    def on_decision(self, decision: Decision, now: float) -> None:
        """The coordinator decided something, or tells what became of it."""
        if decision.turn is None:
            self._decided.on_worker(decision)
            return
        seen = self._live.get(decision.turn)
        if seen is not None:
            self._decided.on_turn(decision, seen, now)

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Pages left a worker. Between two that decode, only moves send any."""
        row, direction = self._row(sender), self._engines.direction(sender, to)
        self._values["foretoken:kv_transfer_bytes"].add((*row, direction), num_bytes)
        if direction == "d2d":
            self._values["foretoken:migration_bytes"].add(row, num_bytes)

    def on_steps(self, steps: StepsTimed) -> None:
        """A worker tells how long its last steps took."""
        base = self._row(steps.worker)
        errors = self._histograms["foretoken:step_prediction_abs_error_seconds"]
        predicted = self._values["foretoken:step_predicted_seconds"]
        observed = self._values["foretoken:step_observed_seconds"]
        chunks = self._values["foretoken:chunk_decisions"]
        for rows, new_len, held_back, predicted_s, observed_s in steps.steps:
            if new_len:
                chunks.add((*base, "slack" if held_back else "full"), 1)
            row = (*base, _step_kind(rows, new_len))
            errors.observe(row, abs(predicted_s - observed_s), 1)
            predicted.add(row, predicted_s)
            observed.add(row, observed_s)
        last = steps.steps[-1]
        row = (*base, _step_kind(last.rows, last.new_len))
        off_s = abs(last.observed_s - steps.corrected_s)
        self._values["foretoken:step_errors_checked"].add(row, 1)
        held = off_s <= SIGMAS * steps.error * steps.corrected_s
        self._values["foretoken:step_errors_held"].add(row, int(held))

    def on_compile(self) -> None:
        """XLA compiled a program."""
        self._values["foretoken:xla_compilations"].add((*self._row(None), "any"), 1)

    def on_reports(self, reports: Sequence[LoadReport]) -> None:
        """Workers told what they hold; called before a scrape. Who tells nothing more is lost."""
        reported = {report.worker for report in reports}
        for worker in self._reported - reported:
            self._on_lost(worker)
        self._reported = reported
        for report in reports:
            row = self._row(report.worker)
            pages = report.pages_used + report.pages_cached + report.pages_free
            self._on_pool(report.worker, pages)
            self._values["vllm:num_requests_running"].set(row, report.running)
            self._values["vllm:num_requests_waiting"].set(row, report.waiting)
            usage = report.pages_used / pages if pages else 0.0
            self._values["vllm:kv_cache_usage_perc"].set(row, usage)
            for name, count in (
                ("kv_held_tokens", report.pages_used),
                ("kv_reserved_tokens", report.pages_promised),
                ("session_kv_retained_tokens", report.pages_cached),
            ):
                self._values[f"foretoken:{name}"].set(row, count * self._server.page_size)
            self._values["foretoken:kv_host_pages"].set(row, report.pages_on_host)
            self._values["foretoken:kv_page_loss_seconds"].set(row, report.page_loss_s)
            self._values["foretoken:pace_share"].set(row, report.pace)
            self._predicted.on_report(row, report)

    def _on_lost(self, worker: WorkerId) -> None:
        """A worker holds nothing any more, and has no role."""
        for name in HELD_BY_WORKER:
            self._values[name].set(self._row(worker), 0)
        self._decided.on_lost(worker)

    def on_length_head(self, *, serves: bool, missing: bool) -> None:
        """Say whether a length head is served, and whether there should be one that cannot be."""
        self._predicted.on_head(serves=serves, missing=missing)

    def on_means(self, means: Sequence[WorkerMeans]) -> None:
        """What the policies see of the workers' last seconds; called before a scrape."""
        for worker, ttft_s, itl_s in means:
            row = self._row(worker)
            self._values["foretoken:window_ttft_seconds"].set(row, ttft_s or 0.0)
            self._values["foretoken:window_itl_seconds"].set(row, itl_s or 0.0)

    def on_step_ages(self, ages: Mapping[WorkerId, float]) -> None:
        """For how long (seconds) workers' oldest steps have been out; called before a scrape."""
        for worker, age_s in ages.items():
            self._values["foretoken:step_age_seconds"].set(self._row(worker), age_s)

    def _on_first_token(self, live: Seen, now: float) -> None:
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
        return self._engines.row(worker)

    def _observe(self, name: str, row: Row, value: int | float) -> None:
        self._histograms[name].observe(row, value, 1)


def _step_kind(rows: int, new_len: int) -> str:
    if not new_len:
        return "decode"
    return "mixed" if rows else "prefill"


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
