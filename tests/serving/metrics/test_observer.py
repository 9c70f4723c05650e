"""Metrics count what happened, exist from the start, and are all documented."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.forecast.forecast import Prediction
from serving.messages import (
    NOT_FINITE,
    Completed,
    Decision,
    Detail,
    Dropped,
    End,
    Failed,
    LoadReport,
    Outcome,
    Rejected,
    Role,
    WorkerId,
    WorkerMeans,
)
from serving.metrics import Metrics, ServerLabels
from serving.metrics.catalog import token_bounds
from serving.metrics.observer import HELD_BY_WORKER
from serving.request import GREEDY, FinishReason, SessionId, Slo, Turn, TurnId

P, D0, D1 = WorkerId("p0"), WorkerId("d0"), WorkerId("d1")
A = TurnId("a")
DISAGGREGATED = ((P, Role.PREFILL), (D0, Role.DECODE), (D1, Role.DECODE))
DOCS = Path(__file__).parents[3] / "docs" / "metrics.md"


def metrics(workers: tuple[tuple[WorkerId, Role], ...] = DISAGGREGATED) -> Metrics:
    return Metrics(ServerLabels("m", 100, workers, 16, "float32"))


def turn(max_tokens: int = 10) -> Turn:
    sampling = replace(GREEDY, max_tokens=max_tokens)
    return Turn(A, None, (1, 2, 3, 4), sampling, Slo(None, None), 0, "")


def decided(kind: str, choice: str, reason: str, **details: Detail) -> Decision:
    if kind == "route":
        details = {"options": [], **details}
    return Decision(kind, A, SessionId("s"), choice, reason, details)


def read(observer: Metrics, name: str, **labels: str) -> float:
    """The sum of a series' samples that have these labels."""
    found = [
        sample.value
        for family in observer._registry.collect()
        if name.startswith(family.name)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert found, name
    return sum(found)


def answered(observer: Metrics, outcome: Outcome) -> None:
    """Arrives at 1.0, tokens at 1.5, 1.6 (two) and 2.0, ends at 2.5; two of four tokens cached."""
    observer.on_arrival(turn(), 1.0)
    observer.on_decision(decided("place", D1, "least_load"), 1.0)
    observer.on_tokens([A], 1.5)
    for _ in range(2):
        observer.on_tokens([A], 1.6)
    observer.on_tokens([A], 2.0)
    observer.on_end(End(A, outcome, 4, 4, 2), 2.5)


def test_documented_and_scraped_names_are_the_same():
    documented = set(re.findall(r"^\| `((?:vllm|foretoken):\w+)` \|", DOCS.read_text(), re.M))
    families = text_string_to_metric_families(metrics().scrape().decode())
    scraped = {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
    assert scraped == documented


def test_documented_kinds_and_labels_are_the_scraped_ones():
    rows = re.findall(r"^\| `([\w:]+)` \| (\w+) \| (.*?) ?\|", DOCS.read_text(), re.M)
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    for family in text_string_to_metric_families(metrics().scrape().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels}
        assert documented[name] == (family.type, labels - {"model_name", "engine", "le"})


def test_every_series_exists_from_the_start_at_zero():
    for family in text_string_to_metric_families(metrics().scrape().decode()):
        assert family.samples
        values = {sample.value for sample in family.samples}
        if family.name == "foretoken:worker_role":
            assert values == {0, 1}
            assert sum(sample.value for sample in family.samples) == len(DISAGGREGATED)
        else:
            expected = 1 if family.name == "vllm:cache_config_info" else 0
            assert values == {expected}, family.name
        assert {sample.labels["engine"] for sample in family.samples} == {"0", "1", "2"}


def test_an_answered_turn():
    observer = metrics()
    answered(observer, Completed(FinishReason.LENGTH))
    owner = {"engine": "2", "model_name": "m"}
    assert read(observer, "vllm:time_to_first_token_seconds_sum", **owner) == 0.5
    assert read(observer, "vllm:time_to_first_token_seconds_bucket", le="0.5") == 1
    assert read(observer, "vllm:time_to_first_token_seconds_bucket", le="0.25") == 0
    assert read(observer, "vllm:inter_token_latency_seconds_count", **owner) == 3
    assert read(observer, "vllm:inter_token_latency_seconds_sum") == pytest.approx(0.5)
    assert read(observer, "foretoken:inter_token_latency_seconds_count", **owner) == 3
    assert read(observer, "vllm:request_decode_time_seconds_sum", **owner) == 0.5
    per_token = read(observer, "vllm:request_time_per_output_token_seconds_sum", **owner)
    assert per_token == pytest.approx(0.5 / 3)
    assert read(observer, "vllm:e2e_request_latency_seconds_sum", **owner) == 1.5
    assert read(observer, "vllm:prompt_tokens_total", **owner) == 4
    assert read(observer, "vllm:generation_tokens_total", **owner) == 4
    assert read(observer, "vllm:prefix_cache_queries_total", **owner) == 4
    assert read(observer, "vllm:prefix_cache_hits_total", **owner) == 2
    assert read(observer, "vllm:request_prompt_tokens_sum", **owner) == 4
    assert read(observer, "vllm:request_generation_tokens_sum", **owner) == 4
    assert read(observer, "vllm:request_prefill_kv_computed_tokens_sum", **owner) == 2
    assert read(observer, "vllm:request_params_max_tokens_sum") == 10


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Completed(FinishReason.STOP), "stop"),
        (Completed(FinishReason.LENGTH), "length"),
        (Dropped("stopped"), "stop"),
        (Dropped("client disconnected"), "abort"),
        (Rejected("queue_full", ""), "error"),
        (Failed("engine_dead", ""), "error"),
    ],
)
def test_turns_are_counted_by_how_they_ended(outcome: Outcome, reason: str):
    observer = metrics()
    answered(observer, outcome)
    assert read(observer, "vllm:request_success_total") == 1
    assert read(observer, "vllm:request_success_total", finished_reason=reason) == 1
    whole = float(reason in ("stop", "length"))
    assert read(observer, "vllm:e2e_request_latency_seconds_count") == whole
    assert read(observer, "vllm:prefix_cache_queries_total") == 4 * whole
    assert read(observer, "foretoken:turns_not_finite_total") == 0


def test_a_turn_without_numbers_is_counted_at_its_owner():
    observer = metrics()
    answered(observer, Failed(NOT_FINITE, ""))
    assert read(observer, "foretoken:turns_not_finite_total") == 1
    assert read(observer, "foretoken:turns_not_finite_total", engine="2") == 1
    assert read(observer, "vllm:request_success_total", finished_reason="error") == 1


def test_a_turn_is_forgotten_at_its_end():
    observer = metrics()
    answered(observer, Completed(FinishReason.STOP))
    observer.on_tokens([A], 3.0)
    observer.on_end(End(A, Completed(FinishReason.STOP), 4, 4, 2), 3.0)
    observer.on_decision(decided("route", D1, "other"), 1.0)
    assert read(observer, "vllm:generation_tokens_total") == 4
    assert read(observer, "vllm:request_success_total") == 1
    assert read(observer, "foretoken:route_decisions_total") == 0


def test_a_rejected_turn_counts_for_engine_0():
    observer = metrics()
    observer.on_arrival(turn(), 1.0)
    observer.on_end(End(A, Rejected("queue_full", ""), 4, 0, 0), 1.0)
    assert read(observer, "vllm:request_success_total", engine="0", finished_reason="error") == 1


@pytest.mark.parametrize(
    ("workers", "choice", "reason", "path", "label"),
    [
        (DISAGGREGATED, P, "remote_fastest", "remote_prefill", "remote_fastest"),
        (DISAGGREGATED, D0, "no_prefill_worker", "append_prefill", "no_prefill_worker"),
        (((D0, Role.BOTH),), D0, "no_prefill_worker", "colocated", "no_prefill_worker"),
        (DISAGGREGATED, P, "brand_new", "remote_prefill", "other"),
    ],
)
def test_routes(
    workers: tuple[tuple[WorkerId, Role], ...], choice: str, reason: str, path: str, label: str
):
    observer = metrics(workers)
    observer.on_arrival(turn(), 1.0)
    observer.on_decision(decided("place", D0, "least_load"), 1.0)
    observer.on_decision(decided("route", choice, reason), 1.0)
    assert read(observer, "foretoken:route_decisions_total") == 1
    assert read(observer, "foretoken:route_decisions_total", path=path, reason=label) == 1


def test_retries_and_preemptions():
    observer = metrics()
    observer.on_arrival(turn(), 1.0)
    for reason in ("preempted", "worker_lost", "brand_new"):
        observer.on_decision(decided("retry", "attempt 1", reason), 1.0)
    assert read(observer, "vllm:num_preemptions_total") == 1
    assert read(observer, "foretoken:turn_retries_total") == 3
    assert read(observer, "foretoken:turn_retries_total", reason="worker_lost") == 1
    assert read(observer, "foretoken:turn_retries_total", reason="other") == 1


def test_transfers_and_compilations():
    observer = metrics()
    observer.on_moved(P, D1, 100)
    observer.on_moved(D1, P, 7)
    observer.on_compile()
    assert read(observer, "foretoken:kv_transfer_bytes_total", direction="p2d", engine="0") == 100
    assert read(observer, "foretoken:kv_transfer_bytes_total", direction="d2p", engine="2") == 7
    assert read(observer, "foretoken:xla_compilations_total") == 1


def test_gauges_follow_the_reports_and_return_to_zero():
    observer = metrics()
    observer.on_reports([LoadReport(D0, 3, 2, 6, 2, 2, 1, 4, 50)])
    assert read(observer, "vllm:num_requests_waiting", engine="1") == 3
    assert read(observer, "vllm:num_requests_running", engine="1") == 2
    assert read(observer, "vllm:kv_cache_usage_perc", engine="1") == 0.6
    observer.on_reports([LoadReport(D0, 0, 0, 0, 8, 2, 0, 0, 0)])
    for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"):
        assert read(observer, f"vllm:{name}") == 0


def test_a_worker_that_is_lost_holds_nothing_and_has_no_role():
    observer = metrics()
    both = [LoadReport(worker, 3, 2, 6, 2, 2, 1, 4, 50, page_loss_s=0.25) for worker in (D0, D1)]
    observer.on_reports(both)
    observer.on_means([WorkerMeans(worker, 0.5, 0.25) for worker in (D0, D1)])
    observer.on_step_ages({D0: 2.0, D1: 3.0})
    observer.on_reports(both[1:])
    for name in HELD_BY_WORKER:
        assert read(observer, name, engine="1") == 0
        assert read(observer, name, engine="2") > 0
    for role in Role:
        assert read(observer, "foretoken:worker_role", engine="1", role=role.value) == 0
    assert read(observer, "foretoken:worker_role", engine="2", role="decode") == 1


@pytest.mark.parametrize(("reason", "overdue_s"), [("broke", None), ("step_overdue", 300.5)])
def test_a_loss_is_counted_with_its_reason_before_anybody_has_asked(
    reason: str, overdue_s: float | None
):
    observer = metrics()
    details = {"worker": D0, "overdue_s": overdue_s}
    observer.on_decision(Decision("worker_lost", None, None, "", reason, details), 1.0)
    assert read(observer, "foretoken:workers_lost_total", engine="1", reason=reason) == 1
    assert read(observer, "foretoken:workers_lost_total") == 1
    assert read(observer, "foretoken:worker_role", engine="1") == 0
    assert read(observer, "foretoken:worker_role", engine="2") == 1


def test_what_pages_are_there_for():
    observer = metrics()
    observer.on_reports([LoadReport(D0, 3, 2, 6, 5, 2, 1, 4, 50, page_loss_s=0.25, pace=0.9)])
    assert read(observer, "foretoken:kv_held_tokens", engine="1") == 6 * 16
    assert read(observer, "foretoken:session_kv_retained_tokens", engine="1") == 5 * 16
    assert read(observer, "foretoken:kv_reserved_tokens", engine="1") == 1 * 16
    assert read(observer, "foretoken:kv_host_pages", engine="1") == 4
    assert read(observer, "foretoken:kv_page_loss_seconds", engine="1") == 0.25
    assert read(observer, "foretoken:pace_share", engine="1") == 0.9


def test_the_page_pool_is_described_once_it_is_known():
    observer = metrics()
    labels = {"block_size": "16", "cache_dtype": "float32", "engine": "1"}
    assert read(observer, "vllm:cache_config_info", num_gpu_blocks="0", **labels) == 1
    for _ in range(2):
        observer.on_reports([LoadReport(D0, 3, 2, 6, 2, 2, 1, 4, 50)])
    assert read(observer, "vllm:cache_config_info", num_gpu_blocks="10", **labels) == 1
    assert read(observer, "vllm:cache_config_info", **labels) == 1


def test_token_buckets_are_a_1_2_5_series():
    assert token_bounds(100) == (1, 2, 5, 10, 20, 50, 100)
    assert token_bounds(4096)[-1] == 2000


def test_the_tokens_of_a_step_are_counted_turn_by_turn():
    observer = metrics()
    for name, owner in (("a", D0), ("b", D0), ("c", D1)):
        observer.on_arrival(replace(turn(), id=TurnId(name)), 0.0)
        observer.on_decision(replace(decided("place", owner, "least_load"), turn=TurnId(name)), 0.0)
    for now, names in ((1.0, "a"), (2.0, "ab"), (4.0, "abcx"), (8.0, "abc")):
        observer.on_tokens([TurnId(name) for name in names], now)
    for engine, firsts, gaps in (("1", 1 + 2, 1 + 2 + 2 + 4 + 4), ("2", 4, 4)):
        assert read(observer, "vllm:time_to_first_token_seconds_sum", engine=engine) == firsts
        assert read(observer, "vllm:inter_token_latency_seconds_sum", engine=engine) == gaps
    assert read(observer, "vllm:generation_tokens_total", engine="1") == 7
    assert read(observer, "vllm:generation_tokens_total", engine="2") == 2
    assert read(observer, "vllm:inter_token_latency_seconds_count", engine="1") == 5


def test_the_two_inter_token_histograms_tell_the_same():
    observer = metrics()
    observer.on_arrival(turn(), 0.0)
    for now in (1.0, 1.002, 1.022, 1.042, 200.0):
        observer.on_tokens([A], now)
    for prefix in ("vllm", "foretoken"):
        name = f"{prefix}:inter_token_latency_seconds"
        assert read(observer, f"{name}_bucket", le="0.01") == 1
        assert read(observer, f"{name}_bucket", le="0.025") == 3
        assert read(observer, f"{name}_bucket", le="80.0") == 3
        assert read(observer, f"{name}_bucket", le="+Inf") == 4
    assert read(observer, "foretoken:inter_token_latency_seconds_bucket", le="0.0025") == 1
    assert b'vllm:inter_token_latency_seconds_bucket{engine="0",le="0.0025"' not in (
        observer.scrape()
    )


def test_a_value_on_a_bound_belongs_to_the_bucket_below():
    observer = metrics()
    for n in (1, 2, 3):
        observer.on_request(n)
    assert read(observer, "vllm:request_params_n_bucket", le="1.0") == 1
    assert read(observer, "vllm:request_params_n_bucket", le="2.0") == 2
    assert read(observer, "vllm:request_params_n_bucket", le="+Inf") == 3
    assert read(observer, "vllm:request_params_n_sum") == 6


@pytest.mark.parametrize(
    ("sampling", "counted", "held"),
    [
        ({"stop_ids": (7,)}, 2, 0.5),
        ({"stop_ids": (7,), "min_tokens": 9}, 1, 1),
        ({"stop_ids": ()}, 0, 0),
    ],
    ids=str,
)
def test_predictions_count_where_a_reply_was_free_to_end(sampling: dict, counted: int, held: float):
    """At most 2 tokens were to come, then, after 9, at most 10; there came 10 in all."""
    observer, asked = metrics(), turn()
    observer.on_arrival(replace(asked, sampling=replace(asked.sampling, **sampling)), 0.0)
    said = (Prediction(0, 1.0, 1, 2), Prediction(9, 1.0, 1, 10))
    observer.on_end(End(A, Completed(FinishReason.LENGTH), 4, 10, 0, said), 2.5)
    assert read(observer, "foretoken:predicted_remaining_tokens_abs_error_count") == counted
    assert read(observer, "foretoken:predicted_q90_coverage") == held
