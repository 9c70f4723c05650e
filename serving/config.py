"""Which settings does a server have, and which values make sense? One tree, one default each.

Built once by the command line and passed down; nothing below reads flags, files or the environment.
Field metadata carries the help text; derived values are properties.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any


def setting(default: Any, help: str, **extra: Any) -> Any:
    """Declare a field with its only default and the help text of its flag."""
    return field(default=default, metadata={"help": help, **extra})


class ConfigError(ValueError):
    """A setting, or a combination of settings, cannot work; one line for a person."""


def require(condition: bool, problem: str) -> None:
    """Raise ConfigError(problem) unless the condition holds."""
    if not condition:
        raise ConfigError(problem)


def _require_known(flag: str, value: str, known: Sequence[str]) -> None:
    *most, last = known
    require(value in known, f"{flag} {value} is unknown; use {', '.join(most)} or {last}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeshConfig:
    """How many workers of each role, and over how many devices each is sharded."""

    prefill_workers: int = setting(
        0, "Prefill workers; 0 is the colocated mode.", aliases=("pd-num-prefill",)
    )
    decode_workers: int = setting(
        1,
        "Decode workers; in the colocated mode they prefill too.",
        aliases=("pd-num-decode",),
    )
    prefill_tp: int = setting(
        1, "Tensor-parallel degree of each prefill worker.", aliases=("pd-prefill-tp-size",)
    )
    decode_tp: int = setting(
        1, "Tensor-parallel degree of each decode worker.", aliases=("pd-decode-tp-size",)
    )
    flexible_roles: bool = setting(
        False, "Compile every worker for both roles, so that roles can change at run time."
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for an impossible shape."""
        require(self.prefill_workers >= 0, "--prefill-workers must not be negative")
        require(self.decode_workers >= 1, "--decode-workers must be at least 1")
        require(self.prefill_tp >= 1, "--prefill-tp must be at least 1")
        require(self.decode_tp >= 1, "--decode-tp must be at least 1")
        require(
            self.prefill_workers > 0 or self.prefill_tp == 1,
            "--prefill-tp has no effect with --prefill-workers 0; leave it out or add workers",
        )

    @property
    def devices_needed(self) -> int:
        """Devices that the disjoint meshes take together."""
        return self.prefill_workers * self.prefill_tp + self.decode_workers * self.decode_tp


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """How much KV each worker holds."""

    max_model_len: int | None = setting(
        None, "Longest prompt plus reply in tokens; the model's own limit if not given."
    )
    kv_pages: int | None = setting(
        None,
        "KV pages per worker; chosen from the free memory if not given.",
        aliases=("num-gpu-blocks-override",),
    )
    page_size: int = setting(
        16,
        "Token positions per KV page; 128 on TPUs if not given.",
        aliases=("block-size",),
    )
    host_kv_gib: float = setting(0.0, "Host memory per worker for idle KV, in GiB; 0: none.")
    memory_fraction: float = setting(
        0.9, "Share of an accelerator's memory to use.", aliases=("gpu-memory-utilization",)
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for values that hold no conversation."""
        require(self.max_model_len is None or self.max_model_len >= 2, "--max-model-len is below 2")
        require(self.kv_pages is None or self.kv_pages >= 2, "--kv-pages is below 2")
        require(self.page_size >= 1, "--page-size must be at least 1")
        require(self.host_kv_gib >= 0, "--host-kv-gib must not be negative")
        require(0 < self.memory_fraction <= 1, "--memory-fraction must lie in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchConfig:
    """What one step may hold."""

    max_num_seqs: int = setting(
        64, "Rows that may decode at once on one worker; 256 on GPUs and TPUs if not given."
    )
    max_num_batched_tokens: int = setting(
        256, "New prompt tokens that one step may prefill; 2048 on GPUs and TPUs if not given."
    )
    max_prefill_rows: int = setting(8, "Tasks that may share the prefill part of one step.")
    min_prefill_tokens: int = setting(
        32,
        "New prompt tokens that ride in a step however late its rows are; 128 on GPUs and TPUs if "
        "not given.",
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for empty steps."""
        require(self.max_num_seqs >= 1, "--max-num-seqs must be at least 1")
        require(self.max_num_batched_tokens >= 1, "--max-num-batched-tokens must be at least 1")
        require(self.max_prefill_rows >= 1, "--max-prefill-rows must be at least 1")
        require(self.min_prefill_tokens >= 1, "--min-prefill-tokens must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Limits of the coordinator."""

    max_queue_size: int = setting(1024, "Turns that may wait for their first token.")
    queue_timeout_seconds: float = setting(0.0, "Give up on a turn that waited longer; 0: never.")
    reserve_tokens: int = setting(
        512,
        "Mean length of a reply, as long as none was seen.",
        aliases=("disaggregation-num-reserved-decode-tokens",),
    )
    session_ttl_seconds: float = setting(600.0, "Forget the place of a session idle for longer.")
    max_sessions: int = setting(10_000, "Sessions whose place is remembered.")
    transfer_timeout_seconds: float = setting(30.0, "Give up a transfer that stands still so long.")
    move_pages_per_step: int = setting(
        32, "KV pages of a moving row copied beside one step of its worker."
    )
    drain_timeout_seconds: float = setting(30.0, "Grace for running turns after SIGTERM.")
    step_timeout_seconds: float = setting(
        300.0,
        "Give up on a worker whose step has not come back for so long; inf: never.",
        aliases=("watchdog-timeout",),
    )

    def __post_init__(self) -> None:
        """Raise ConfigError for negative limits."""
        require(self.max_queue_size >= 1, "--max-queue-size must be at least 1")
        require(self.queue_timeout_seconds >= 0, "--queue-timeout-seconds must not be negative")
        require(self.reserve_tokens >= 2, "--reserve-tokens must be at least 2")
        require(self.session_ttl_seconds > 0, "--session-ttl-seconds must be positive")
        require(self.max_sessions >= 1, "--max-sessions must be at least 1")
        require(self.transfer_timeout_seconds > 0, "--transfer-timeout-seconds must be positive")
        require(self.move_pages_per_step >= 1, "--move-pages-per-step must be at least 1")
        require(self.drain_timeout_seconds >= 0, "--drain-timeout-seconds must not be negative")
        require(self.step_timeout_seconds > 0, "--step-timeout-seconds must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyConfig:
    """How sessions are placed, and turns routed, ordered, admitted and moved."""

    place_policy: str = setting("load", "Where new sessions decode: load or hash.")
    route_policy: str = setting(
        "foretoken",
        "Who prefills: foretoken, replicas (with --prefill-workers 0), or, with prefill workers, "
        "pd-full, pd-delta, local, ppd, threshold or ampd.",
        aliases=("policy",),
    )
    route_weight_ttft: float = setting(1.0, "Weight of a turn's own time to first token.")
    route_weight_tpot: float = setting(1.0, "Weight of the time per token that it costs others.")
    route_weight_miss: float = setting(5.0, "Weight of each target that would be missed.")
    route_late_margin: float = setting(
        0.05, "Share of a TTFT target within which a predicted first token counts as late."
    )
    route_peers: bool = setting(
        True, "Let workers that do both prefill for each other (foretoken)."
    )
    route_table: str | None = setting(
        None, "Measured table of the policy ppd (JSON); without one it goes by predicted times."
    )
    slo_ttft_ms: float | None = setting(None, "TTFT target of turns that bring none, in ms.")
    slo_tpot_ms: float | None = setting(None, "Target per token of such turns, in ms.")
    order_policy: str = setting(
        "on-time", "Who goes first in a queue: on-time, lookahead or arrival."
    )
    order_window: int | None = setting(
        None, "Queued tasks that may change places: 64 by on-time, 3 by lookahead, if not given."
    )
    max_passes: int = setting(64, "Times that the first of a queue may be passed over.")
    reserve_quantile: float = setting(
        0.5, "Quantile of the pages that all rows will need at once, which are kept for them."
    )
    wait_for_pages: bool = setting(
        True, "Let rows wait for pages that are about to come, before one of them loses its own."
    )
    keep_pace: bool = setting(
        True, "Let turns wait while a row more would make most rows miss their time per token."
    )
    stand_aside: bool = setting(True, "Let rows with time to spare give way to turns that are due.")
    rebalance_policy: str = setting(
        "predicted", "Which rows move: none, current or predicted.", aliases=("rebalance",)
    )
    rebalance_interval_seconds: float = setting(1.0, "Time between two looks at the load.")
    rebalance_max_moves: int = setting(1, "Rows that may begin to move at one look.")
    rebalance_cool_down_seconds: float = setting(5.0, "Time for which a moved row stays.")
    roles_policy: str = setting(
        "none",
        "Who changes a worker's role at run time: none or queue, which needs --flexible-roles and "
        "--slo-ttft-ms.",
    )
    window_seconds: float = setting(10.0, "Span of the means that policies look at.")
    decision_log: str | None = setting(None, "File for every decision, as JSON lines.")

    def __post_init__(self) -> None:
        """Raise ConfigError for values outside their range; names are looked up by the engine."""
        for name in ("route_weight_ttft", "rebalance_interval_seconds", "window_seconds"):
            require(getattr(self, name) > 0, f"--{name.replace('_', '-')} must be positive")
        for of in ("ttft", "tpot", "miss"):
            weight = getattr(self, f"route_weight_{of}")
            require(0 <= weight < inf, f"--route-weight-{of} must be finite and at least 0")
        require(0 <= self.route_late_margin < 1, "--route-late-margin must lie in [0, 1)")
        for name in ("slo_ttft_ms", "slo_tpot_ms"):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            require(value is None or 0 < value < inf, f"{flag} must be positive and finite")
        require(
            self.order_window is None or self.order_window >= 1, "--order-window must be at least 1"
        )
        require(self.max_passes >= 0, "--max-passes must not be negative")
        require(0 < self.reserve_quantile < 1, "--reserve-quantile must lie between 0 and 1")
        require(self.rebalance_max_moves >= 1, "--rebalance-max-moves must be at least 1")
        require(
            self.rebalance_cool_down_seconds >= 0,
            "--rebalance-cool-down-seconds must not be negative",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastConfig:
    """How the lengths of replies are predicted."""

    length_head: str = setting(
        "auto",
        "Directory of a length head; auto: the checkpoint's own, if one fits; none: do without.",
    )
    length_head_every: int = setting(20, "Tokens after which a row's length head is read again.")
    smooth_readings: bool = setting(True, "Fold readings of the head into earlier ones.")
    calibrate_readings: bool = setting(True, "Bend predicted curves as held-out replies demand.")

    def __post_init__(self) -> None:
        """Raise ConfigError for a head that is never read."""
        require(self.length_head_every >= 1, "--length-head-every must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class CostsConfig:
    """How durations are predicted."""

    costs: str | None = setting(
        None, "File of measured times (foretoken profile); estimated from --hardware if not given."
    )
    hardware: str | None = setting(
        None, "Description of the devices to estimate times from; by their kind if not given."
    )
    link_gib_per_s: float = setting(8.0, "Rate at which KV moves between two workers, in GiB/s.")
    link_latency_us: float = setting(500.0, "Time that any KV transfer takes at least.")

    def __post_init__(self) -> None:
        """Raise ConfigError for links that carry nothing."""
        require(self.link_gib_per_s > 0, "--link-gib-per-s must be positive")
        require(self.link_latency_us >= 0, "--link-latency-us must not be negative")


TOOL_CALL_PARSERS = ("auto", "none", "hermes", "llama3_json", "mistral")
LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\sA-Z]+")
"""An origin as browsers send it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointConfig:
    """The HTTP surface."""

    host: str = setting("127.0.0.1", "Address to listen on.")
    port: int = setting(8000, "Port to listen on.")
    root_path: str = setting("", "Path prefix when behind a proxy, such as /llm.")
    uvicorn_log_level: str = setting("info", "Log level of the HTTP server: critical to trace.")
    served_model_name: tuple[str, ...] = setting((), "Name(s) of the model in the API.")
    api_key: tuple[str, ...] = setting((), "Accepted bearer key(s); none: open.", secret=True)
    allowed_origins: tuple[str, ...] = setting(
        (),
        "Origin(s) whose pages may call this server from a browser, or a JSON list of them; *: all "
        "may; none: no page may.",
        json_list=True,
    )
    max_body_bytes: int = setting(16 * 1024 * 1024, "Largest request body.")
    max_logprobs: int = setting(20, "Most alternatives a completion may ask for.")
    stream_interval: int = setting(1, "Tokens per streamed chunk.")
    tool_call_parser: str = setting("auto", f"How calls are read: {', '.join(TOOL_CALL_PARSERS)}.")
    enable_request_id_headers: bool = setting(False, "Echo or make X-Request-Id.")
    enable_force_include_usage: bool = setting(False, "Send usage in every stream.")
    enable_admin_api: bool = setting(False, "Serve the operator endpoints.")

    def __post_init__(self) -> None:
        """Raise ConfigError for values no socket or client can take."""
        require(0 <= self.port < 65536, "--port must lie between 0 and 65535")
        require(
            re.fullmatch("(/[^/]+)*", self.root_path) is not None,
            f"--root-path {self.root_path} must begin with / and not end with one",
        )
        _require_known("--uvicorn-log-level", self.uvicorn_log_level, LOG_LEVELS)
        _require_known("--tool-call-parser", self.tool_call_parser, TOOL_CALL_PARSERS)
        require(self.max_body_bytes >= 1024, "--max-body-bytes must be at least 1024")
        require(0 <= self.max_logprobs <= 20, "--max-logprobs must lie between 0 and 20")
        require(self.stream_interval >= 1, "--stream-interval must be at least 1")
        require(
            all(key and key == key.strip() for key in self.api_key),
            "an --api-key is empty or has spaces around it, and no client could send it; is the"
            " variable that should hold it set?",
        )
        for origin in self.allowed_origins:
            require(
                origin == "*" or ORIGIN.fullmatch(origin) is not None,
                f"--allowed-origins {origin}: an origin is scheme://host or scheme://host:port, in"
                " lower case and without a path; or *",
            )


KV_DTYPES = {"auto": None, "bfloat16": "bfloat16", "fp8": "float8_e4m3fn"}
"""Names for what keys and values are kept as; None: as the model computes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which weights, in which precision, and what attends over their KV."""

    dtype: str = setting("auto", "auto, float32 or bfloat16.")
    quantize: str = setting(
        "none", "Keep the weights of the layers' matmuls in eight bits: none, int8 or fp8."
    )
    kv_dtype: str = setting(
        "auto",
        "Precision of KV pages: auto (the model's), bfloat16, or fp8 (e4m3 without scales).",
        aliases=("kv-cache-dtype",),
    )
    attention: str = setting(
        "auto",
        "What attends over KV pages: reference (slow), blocked (any device), gpu or tpu; auto: the "
        "fastest that can serve the model here.",
    )
    chat_template: str | None = setting(None, "A Jinja file instead of the checkpoint's template.")
    generation_config: str = setting(
        "auto", "Sampling that requests leave open: auto (by generation_config.json) or none."
    )
    random_weights: bool = setting(
        False, "Draw random weights of the size that config.json says, to measure speed."
    )
    seed: int = setting(0, "Seeds the seeds of turns that bring none, and random weights.")
    compilation_cache: bool = setting(True, "Keep compiled steps on disk for the next start.")

    def __post_init__(self) -> None:
        """Raise ConfigError for a name that there is not."""
        _require_known("--dtype", self.dtype, ("auto", "float32", "bfloat16"))
        _require_known("--generation-config", self.generation_config, ("auto", "none"))
        _require_known("--quantize", self.quantize, ("none", "int8", "fp8"))
        _require_known("--kv-dtype", self.kv_dtype, tuple(KV_DTYPES))

    @property
    def weight_format(self) -> str | None:
        """The format of quantised weights; None: they stay whole."""
        return None if self.quantize == "none" else self.quantize

    @property
    def kv_kept_as(self) -> str | None:
        """The dtype of keys and values between steps; None: as the model computes."""
        return KV_DTYPES[self.kv_dtype]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """Everything a server is told; `checkpoint` is the model directory."""

    checkpoint: str
    model: ModelSource
    mesh: MeshConfig
    memory: MemoryConfig
    batch: BatchConfig
    schedule: ScheduleConfig
    policy: PolicyConfig
    forecast: ForecastConfig
    costs: CostsConfig
    endpoint: EndpointConfig
