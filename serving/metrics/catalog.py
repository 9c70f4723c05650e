"""Which series are there? Names, kinds, labels and buckets; docs/metrics.md is the same in words.

Knows nothing of when they change. A `vllm:` name means what it means in vLLM, with vLLM's buckets;
everything else is `foretoken:`. Labels have few, fixed values, so all series exist from the start.
"""

from collections.abc import Mapping, Sequence
from itertools import product

from serving.messages import Role
from serving.metrics.engines import ServerLabels
from serving.metrics.series import Coarser, Histogram, Kind, Series, Values
from serving.policy.routes import ROUTE_REASONS

TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
FINE_ITL_BOUNDS = (0.001, 0.0025, 0.005, *ITL_BOUNDS)
STEP_BOUNDS = (0.0001, 0.00025, 0.0005, *FINE_ITL_BOUNDS)
LATENCY_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
N_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0)

CACHE_INFO = "vllm:cache_config_info"

FINISHED_REASONS = ("stop", "length", "abort", "error")
PATHS = ("remote_prefill", "append_prefill", "colocated")
OTHER = "other"
"""The label of a reason that stands on none of these lists."""
PLACE_REASONS = ("session_owner", "least_load", "prefix", OTHER)
RETRY_REASONS = (
    *("preempted", "transfer_failed", "worker_lost", "timeout", "moved_away", "move_lost"),
    *("no_room", "stood_aside"),
    OTHER,
)
MOVE_REASONS = ("worst_step", "memory", "spread", "drain", OTHER)
MOVE_FAILURES = (
    *("ending", "not_decoding", "timeout", "transfer_failed", "worker_lost"),
    *("busy", "no_room", "preempted", OTHER),
)
MIGRATIONS = (
    *(("started", reason) for reason in MOVE_REASONS),
    *(("moved", reason) for reason in MOVE_REASONS),
    *(("failed", reason) for reason in MOVE_FAILURES),
)
ADMITTED_REASONS = ("fits", "alone", OTHER)
DEFERRED_REASONS = ("slots", "pages", "growth", "pace", OTHER)
ADMISSIONS = (
    *(("admitted", reason) for reason in ADMITTED_REASONS),
    *(("deferred", reason) for reason in DEFERRED_REASONS),
)
EVICTION_REASONS = ("dropped", "offloaded", OTHER)
RESTORE_REASONS = ("fetch_faster", "compute_faster", OTHER)
ASIDE_REASONS = ("late", "spare", "longer", OTHER)
PAUSE_REASONS = ("reply_ends", "first_to_end", "first_token", OTHER)
CHUNK_REASONS = ("full", "slack")
PLACE_STARTS = (0, 1, 20, 50, 100, 200, 500, 1000, 2000)
"""Reply tokens at which a class of predictions begins."""
PLACES = tuple(str(start) for start in PLACE_STARTS)
DIRECTIONS = ("p2d", "d2d", "d2p")
PHASES = ("queue", "prefill")
STEP_KINDS = ("decode", "prefill", "mixed")
ROLES = tuple(role.value for role in Role)
LOSS_REASONS = ("broke", "step_overdue")
WANTED_REASONS = ("prefill_waits", "decode_full", OTHER)
ROLE_CHANGES = (
    *(("wanted", reason) for reason in WANTED_REASONS),
    *(("draining", reason) for reason in ("asked", "policy")),
    *(("done", reason) for reason in ("asked", "policy", "drained")),
    ("refused", OTHER),
)


def token_bounds(most: int) -> tuple[float, ...]:
    """Return 1, 2, 5, 10, 20, 50 ... up to `most`."""
    bounds = [float(m * 10**e) for e in range(len(str(most))) for m in (1, 2, 5)]
    return tuple(bound for bound in bounds if bound <= most)


class Catalog:
    """Every series by its name, without `_total`, all at zero."""

    def __init__(self, server: ServerLabels) -> None:
        self.values: dict[str, Values] = {}
        self.histograms: dict[str, Histogram] = {}
        self._server = server
        self._views: dict[str, Coarser] = {}
        self._tokens = token_bounds(server.max_model_len)
        self._load()
        self._turns()
        self._routes()
        self._predictions()
        self._migrations()
        self._workers()
        self._own_decisions()
        self._lengths()

    @property
    def series(self) -> Mapping[str, Series]:
        """All of them, for a scrape."""
        return {**self.values, **self.histograms, **self._views}

    def _rows(self, labels: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
        """Return every combination of engine and label values; `labels` are such combinations."""
        models, engines = [self._server.model_name], self._server.engines
        return [(*base, *more) for base in product(models, engines) for more in labels]

    def _value(self, kind: Kind, name: str, help: str, /, **labels: Sequence[str]) -> None:
        names = ["model_name", "engine", *labels]
        rows = self._rows(list(product(*labels.values())))
        self.values[name] = Values(kind, name, help, names, rows)

    def _gauge(self, name: str, help: str, **labels: Sequence[str]) -> None:
        self._value("gauge", name, help, **labels)

    def _counter(self, name: str, help: str, **labels: Sequence[str]) -> None:
        self._value("counter", name, help, **labels)

    def _histogram(
        self, name: str, help: str, bounds: Sequence[float], **labels: Sequence[str]
    ) -> None:
        names = ["model_name", "engine", *labels]
        rows = self._rows(list(product(*labels.values())))
        self.histograms[name] = Histogram(name, help, bounds, names, rows)

    def _load(self) -> None:
        self._gauge("vllm:num_requests_running", "Turns that prefill or decode.")
        self._gauge("vllm:num_requests_waiting", "Turns that wait for a place.")
        self._gauge("vllm:kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.")
        block_size, num_gpu_blocks, cache_dtype, prefix = self._server.cache(0)
        self._gauge(
            CACHE_INFO,
            "The page pool; the value is 1. Without pages until the worker is warm.",
            block_size=[block_size],
            num_gpu_blocks=[num_gpu_blocks],
            cache_dtype=[cache_dtype],
            enable_prefix_caching=[prefix],
        )
        self._gauge("foretoken:kv_held_tokens", "Room for tokens in pages that rows hold.")
        self._gauge("foretoken:kv_reserved_tokens", "Room set aside for rows that will grow.")
        self._gauge("foretoken:session_kv_retained_tokens", "Room in pages kept for reuse.")
        self._gauge("foretoken:kv_host_pages", "Pages in host memory.")
        self._gauge("foretoken:kv_page_loss_seconds", "Prefill that evicting one costs.")
        self._gauge("foretoken:pace_share", "Share of rows' targets that steps of rows may take.")
        self._counter(
            "foretoken:kv_transfer_bytes",
            "KV pages sent between workers, by the sender.",
            direction=DIRECTIONS,
        )
        self._counter("foretoken:xla_compilations", "Programs compiled.", fn=["any"])

    def _turns(self) -> None:
        self._counter("vllm:prefix_cache_queries", "Prompt tokens of answered turns.")
        self._counter("vllm:prefix_cache_hits", "Those of them that were not computed.")
        self._counter("vllm:num_preemptions", "Tasks that lost their pages to others.")
        self._counter("vllm:prompt_tokens", "Prompt tokens of turns that got a first token.")
        self._counter("vllm:generation_tokens", "Reply tokens.")
        ended = FINISHED_REASONS
        self._counter("vllm:request_success", "Turns that ended.", finished_reason=ended)
        self._counter("foretoken:turns_not_finite", "Turns for which the model had no numbers.")
        self._histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", TTFT_BOUNDS)
        fine, itl = "foretoken:inter_token_latency_seconds", "vllm:inter_token_latency_seconds"
        self._histogram(fine, "Token to token, with finer buckets.", FINE_ITL_BOUNDS)
        self._views[itl] = self.histograms[fine].coarser(itl, "Token to token.", ITL_BOUNDS)
        self._histogram(
            "vllm:request_time_per_output_token_seconds",
            "A turn's decode time by its tokens after the first.",
            ITL_BOUNDS,
        )
        self._histogram("vllm:e2e_request_latency_seconds", "Arrival to end.", LATENCY_BOUNDS)
        self._histogram("vllm:request_decode_time_seconds", "First to last token.", LATENCY_BOUNDS)
        for name, help in (
            ("vllm:request_prompt_tokens", "Prompt lengths."),
            ("vllm:request_generation_tokens", "Reply lengths."),
            ("vllm:request_prefill_kv_computed_tokens", "Prompt tokens that were computed."),
            ("vllm:request_params_max_tokens", "Reply lengths allowed."),
        ):
            self._histogram(name, help, self._tokens)
        self._histogram("vllm:request_params_n", "`n` of requests.", N_BOUNDS)

    def _routes(self) -> None:
        self._counter(
            "foretoken:route_decisions",
            "Where turns were prefilled, and why.",
            path=PATHS,
            reason=(*ROUTE_REASONS, OTHER),
        )
        self._counter(
            "foretoken:place_decisions", "Turns by their owner, and why it.", reason=PLACE_REASONS
        )
        self._counter(
            "foretoken:turn_retries", "New attempts at turns, and why.", reason=RETRY_REASONS
        )
        self._counter(
            "foretoken:append_prefill_tokens",
            "Prompt tokens computed by owners although prefill workers exist.",
        )
        self._histogram(
            "foretoken:route_predicted_gain_seconds",
            "TTFT predicted for the best other option, less that of the chosen one.",
            FINE_ITL_BOUNDS,
        )

    def _predictions(self) -> None:
        self._histogram(
            "foretoken:ttft_phase_seconds", "What TTFT went on.", TTFT_BOUNDS, phase=PHASES
        )
        self._histogram(
            "foretoken:ttft_prediction_abs_error_seconds",
            "Predicted against actual time to first token.",
            FINE_ITL_BOUNDS,
        )
        self._counter("foretoken:ttft_predicted_seconds", "Sum of predicted TTFTs.")
        self._counter("foretoken:ttft_observed_seconds", "Sum of the TTFTs that came instead.")
        self._histogram(
            "foretoken:step_prediction_abs_error_seconds",
            "Predicted against actual time of steps.",
            STEP_BOUNDS,
            kind=STEP_KINDS,
        )
        for name, help in (
            ("foretoken:step_predicted_seconds", "Sum of predicted step times."),
            ("foretoken:step_observed_seconds", "Sum of the times that the steps took."),
            ("foretoken:step_errors_checked", "Steps whose stated error was looked at."),
            ("foretoken:step_errors_held", "Those of them within two standard deviations of it."),
        ):
            self._counter(name, help, kind=STEP_KINDS)
        self._gauge("foretoken:window_ttft_seconds", "Mean TTFT that policies see; 0: none.")
        self._gauge(
            "foretoken:window_itl_seconds", "Mean time between tokens that policies see; 0: none."
        )

    def _lengths(self) -> None:
        """What the length head says, and how it holds."""
        self._histogram(
            "foretoken:predicted_remaining_tokens_abs_error",
            "Predicted median of the remaining reply against what came.",
            self._tokens,
            generated=PLACES,
        )
        self._gauge(
            "foretoken:predicted_q90_coverage",
            "Share of predictions under whose 90 % quantile the last 1,000 replies stayed.",
        )
        self._gauge(
            "foretoken:length_head_misses",
            "1 while the 90 % quantile holds for less than 75 % of the last 1,000 replies.",
        )
        self._gauge("foretoken:length_head_served", "1 if a length head is read.")
        self._gauge(
            "foretoken:length_head_unusable", "1 if there is a length head that cannot be served."
        )
        self._gauge("foretoken:length_head_tilt", "Learned shift of the log-odds of going on.")
        self._gauge("foretoken:length_head_unreadable", "Readings that were no numbers.")

    def _migrations(self) -> None:
        name = "foretoken:migrations"
        labels = ["model_name", "engine", "outcome", "reason"]
        rows = self._rows(MIGRATIONS)
        self.values[name] = Values("counter", name, "Moves of decoding rows.", labels, rows)
        self._counter("foretoken:migration_bytes", "KV that moves sent, by the source.")
        for name, help in (
            ("pause", "Last token from the source to the first from the destination."),
            ("predicted_gain", "Step time that a move was predicted to gain."),
            ("itl_before", "A moved row's time per token at its source."),
            ("itl_after", "A moved row's time per token at its destination."),
        ):
            self._histogram(f"foretoken:migration_{name}_seconds", help, STEP_BOUNDS)

    def _workers(self) -> None:
        self._gauge("foretoken:worker_role", "1 for the role that a worker has.", role=ROLES)
        self._gauge("foretoken:worker_draining", "1 while a worker takes no new work.")
        self._gauge("foretoken:step_age_seconds", "How long the oldest step has been out.")
        self._counter("foretoken:workers_lost", "Workers that are gone.", reason=LOSS_REASONS)
        name = "foretoken:role_changes"
        labels = ["model_name", "engine", "outcome", "reason"]
        rows = self._rows(ROLE_CHANGES)
        self.values[name] = Values("counter", name, "Changes of a worker's role.", labels, rows)

    def _own_decisions(self) -> None:
        """What workers decide by themselves."""
        name = "foretoken:admissions"
        labels = ["model_name", "engine", "outcome", "reason"]
        rows = self._rows(ADMISSIONS)
        self.values[name] = Values("counter", name, "Tasks that got room or wait.", labels, rows)
        self._counter("foretoken:reordered", "Tasks started before older ones, for deadlines.")
        self._counter("foretoken:pauses", "Rows that waited for a page.", reason=PAUSE_REASONS)
        self._counter("foretoken:aside", "Rows that stood aside for a turn.", reason=ASIDE_REASONS)
        self._counter(
            "foretoken:evicted_pages", "Cached pages given away.", reason=EVICTION_REASONS
        )
        self._counter(
            "foretoken:restore_decisions", "Pages in host memory.", reason=RESTORE_REASONS
        )
        self._counter(
            "foretoken:chunk_decisions", "Steps with prompts in them.", reason=CHUNK_REASONS
        )
