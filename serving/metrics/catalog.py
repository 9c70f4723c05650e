"""Which series are there? Names, kinds, labels and buckets; docs/metrics.md is the same in words.

Knows nothing of when they change. A `vllm:` name means what it means in vLLM, with vLLM's buckets;
everything else is `foretoken:`. Labels have few, fixed values, so all series exist from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

from serving.messages import Role, WorkerId
from serving.metrics.series import Histogram, Kind, Series, Values

TTFT_BOUNDS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
ITL_BOUNDS = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
FINE_ITL_BOUNDS = (0.001, 0.0025, 0.005, *ITL_BOUNDS)
LATENCY_BOUNDS = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
N_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0)

CACHE_INFO = "vllm:cache_config_info"

FINISHED_REASONS = ("stop", "length", "abort", "error")
PATHS = ("remote_prefill", "append_prefill", "colocated")
ROUTE_REASONS = ("no_prefill_worker", "shortest_prefill_queue", "other")
RETRY_REASONS = ("preempted", "transfer_failed", "draining", "worker_lost", "other")
DIRECTIONS = ("p2d", "d2d", "d2p")


@dataclass(frozen=True, slots=True)
class ServerLabels:
    """What the series are labelled with. `workers` in their stable order: the label `engine`."""

    model_name: str
    max_model_len: int
    workers: tuple[tuple[WorkerId, Role], ...]
    page_size: int
    cache_dtype: str

    def cache(self, num_pages: int) -> tuple[str, str, str, str]:
        """Return the labels that describe one worker's page pool."""
        return (str(self.page_size), str(num_pages), self.cache_dtype, "True")


def token_bounds(most: int) -> tuple[float, ...]:
    """Return 1, 2, 5, 10, 20, 50 ... up to `most`."""
    bounds = [float(m * 10**e) for e in range(len(str(most))) for m in (1, 2, 5)]
    return tuple(bound for bound in bounds if bound <= most)


def catalog(server: ServerLabels) -> Mapping[str, Series]:
    """Return every series by its name, without `_total`, all at zero."""
    model = server.model_name
    engines = [str(i) for i in range(max(1, len(server.workers)))]
    tokens = token_bounds(server.max_model_len)
    out: dict[str, Series] = {}

    def rows(*values: Sequence[str]) -> list[tuple[str, ...]]:
        return list(product([model], engines, *values))

    def values(kind: Kind, name: str, help: str, **labels: Sequence[str]) -> None:
        names = ["model_name", "engine", *labels]
        out[name] = Values(kind, name, help, names, rows(*labels.values()))

    def histogram(name: str, help: str, bounds: Sequence[float]) -> None:
        out[name] = Histogram(name, help, bounds, ["model_name", "engine"], rows())

    values("gauge", "vllm:num_requests_running", "Turns that prefill or decode.")
    values("gauge", "vllm:num_requests_waiting", "Turns that wait for a place.")
    values("gauge", "vllm:kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.")
    block_size, num_gpu_blocks, cache_dtype, prefix = server.cache(0)
    values(
        "gauge",
        CACHE_INFO,
        "The page pool; the value is 1. Without pages until the worker is warm.",
        block_size=[block_size],
        num_gpu_blocks=[num_gpu_blocks],
        cache_dtype=[cache_dtype],
        enable_prefix_caching=[prefix],
    )
    values("counter", "vllm:prefix_cache_queries", "Prompt tokens of answered turns.")
    values("counter", "vllm:prefix_cache_hits", "Those of them that were not computed.")
    values("counter", "vllm:num_preemptions", "Tasks that lost their pages to others.")
    values("counter", "vllm:prompt_tokens", "Prompt tokens of turns that got a first token.")
    values("counter", "vllm:generation_tokens", "Reply tokens.")
    values(
        "counter",
        "vllm:request_success",
        "Turns that ended.",
        finished_reason=FINISHED_REASONS,
    )
    histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", TTFT_BOUNDS)
    fine = Histogram(
        "foretoken:inter_token_latency_seconds",
        "Token to token, with finer buckets.",
        FINE_ITL_BOUNDS,
        ["model_name", "engine"],
        rows(),
    )
    out["foretoken:inter_token_latency_seconds"] = fine
    itl = "vllm:inter_token_latency_seconds"
    out[itl] = fine.coarser(itl, "Token to token.", ITL_BOUNDS)
    histogram(
        "vllm:request_time_per_output_token_seconds",
        "A turn's decode time by its tokens after the first.",
        ITL_BOUNDS,
    )
    histogram("vllm:e2e_request_latency_seconds", "Arrival to end.", LATENCY_BOUNDS)
    histogram("vllm:request_decode_time_seconds", "First to last token.", LATENCY_BOUNDS)
    histogram("vllm:request_prompt_tokens", "Prompt lengths.", tokens)
    histogram("vllm:request_generation_tokens", "Reply lengths.", tokens)
    histogram(
        "vllm:request_prefill_kv_computed_tokens", "Prompt tokens that were computed.", tokens
    )
    histogram("vllm:request_params_n", "`n` of requests.", N_BOUNDS)
    histogram("vllm:request_params_max_tokens", "Reply lengths allowed.", tokens)
    values(
        "counter",
        "foretoken:route_decisions",
        "Where turns were prefilled, and why.",
        path=PATHS,
        reason=ROUTE_REASONS,
    )
    values(
        "counter", "foretoken:turn_retries", "New attempts at turns, and why.", reason=RETRY_REASONS
    )
    values(
        "counter",
        "foretoken:kv_transfer_bytes",
        "KV pages sent between workers, by the sender.",
        direction=DIRECTIONS,
    )
    values("counter", "foretoken:xla_compilations", "Programs compiled.", fn=["any"])
    return MappingProxyType(out)
