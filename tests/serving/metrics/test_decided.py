"""Decisions as numbers: what was decided and why, what was predicted and what came."""

from typing import Any

import pytest

from serving.messages import Completed, Decision, End, Role, StepsTimed, StepTime, WorkerId
from serving.metrics import Metrics, ServerLabels
from serving.metrics.decided import predicted_gain_s
from serving.request import FinishReason, SessionId, TurnId
from tests.serving.metrics.test_observer import A, read
from tests.support.fake_fleet import FakeFleet
from tests.support.shape import Shape
from tests.support.turns import make_turn

P, D0, D1 = WorkerId("p0"), WorkerId("d0"), WorkerId("d1")
WORKERS = ((P, Role.PREFILL), (D0, Role.DECODE), (D1, Role.DECODE))


class Watched:
    """Metrics of one turn whose owner is d0 and which is prefilled at p0 or d0."""

    def __init__(self, prefill: WorkerId = P) -> None:
        self.metrics = Metrics(ServerLabels("m", 1000, WORKERS, 16, "float32"))
        self.metrics.on_arrival(make_turn(A, range(30)), 0.0)
        self.decide("place", D0, "least_load")
        self.decide("route", prefill, "remote_fastest", options=[])

    def decide(
        self, kind: str, choice: str, reason: str = "observed", at: float = 0.0, **details: Any
    ) -> None:
        decision = Decision(kind, A, SessionId("s"), choice, reason, details)
        self.metrics.on_decision(decision, at)

    def tokens(self, *times: float) -> None:
        for time in times:
            self.metrics.on_tokens([A], time)

    def __getitem__(self, name: str) -> float:
        return read(self.metrics, f"foretoken:{name}")

    def of(self, name: str, **labels: str) -> float:
        return read(self.metrics, f"foretoken:{name}", **labels)


def test_placements_are_counted_by_reason():
    watched = Watched()
    assert watched.of("place_decisions_total", engine="1", reason="least_load") == 1
    watched.decide("place", D1, "session_owner")
    assert watched.of("place_decisions_total", engine="2", reason="session_owner") == 1


def test_a_prediction_is_counted_beside_what_came():
    watched = Watched()
    details = {"ttft_s": 0.5, "predicted_ttft_s": 0.375, "prefill_s": 0.25, "computed": 30}
    watched.decide("first_token", P, at=0.5, **details)
    assert watched.of("ttft_prediction_abs_error_seconds_sum", engine="0") == 0.125
    assert watched.of("ttft_predicted_seconds_total", engine="0") == 0.375
    assert watched.of("ttft_observed_seconds_total", engine="0") == 0.5
    assert watched.of("ttft_phase_seconds_sum", phase="queue") == 0.25
    assert watched.of("ttft_phase_seconds_sum", phase="prefill") == 0.25
    assert watched["append_prefill_tokens_total"] == 0


def test_what_was_not_predicted_is_not_compared():
    watched = Watched(prefill=D0)
    details = {"ttft_s": 0.5, "predicted_ttft_s": None, "prefill_s": 0.25, "computed": 30}
    watched.decide("first_token", D0, at=0.5, **details)
    assert watched["ttft_prediction_abs_error_seconds_count"] == 0
    assert watched["ttft_observed_seconds_total"] == 0
    assert watched.of("append_prefill_tokens_total", engine="1") == 30


def options(*ttfts: float) -> dict[str, Any]:
    return {"options": [{"ttft_s": ttft_s} for ttft_s in ttfts]}


@pytest.mark.parametrize(
    ("ttfts", "gain_s"),
    [((), None), ((1.0,), None), ((1.0, 4.0, 3.0), 2.0), ((3.0, 1.0), 0.0)],
)
def test_the_gain_of_a_route_is_against_the_best_other_option(
    ttfts: tuple[float, ...], gain_s: float | None
):
    assert predicted_gain_s(options(*ttfts)) == gain_s
    watched = Watched()
    watched.decide("route", P, "remote_fastest", **options(*ttfts))
    assert watched["route_predicted_gain_seconds_count"] == (gain_s is not None)
    assert watched["route_predicted_gain_seconds_sum"] == (gain_s or 0.0)


def test_a_move_from_its_prediction_to_its_effect():
    watched = Watched()
    first = {"ttft_s": 1.0, "predicted_ttft_s": None, "prefill_s": 0.5, "computed": 30}
    watched.decide("first_token", P, at=1.0, **first)
    watched.tokens(1.0, 2.0, 3.0)
    watched.decide("move", D1, "worst_step", 3.0, replied=3, gain_s=0.25, **{"from": D0})
    watched.tokens(4.0)
    watched.decide("moved", D1, "worst_step", 4.5, replied=4, **{"from": D0})
    watched.decide("resumed", D1, at=6.0, replied=4, stop_s=2.0, **{"from": D0})
    watched.tokens(6.0, 6.5, 7.0)
    watched.metrics.on_end(End(A, Completed(FinishReason.STOP), 30, 7, 0), 8.0)
    source, destination = {"engine": "1"}, {"engine": "2"}
    for outcome in ("started", "moved"):
        labels = {"outcome": outcome, "reason": "worst_step", **source}
        assert watched.of("migrations_total", **labels) == 1
    assert watched["migrations_total"] == 2
    assert watched.of("migration_predicted_gain_seconds_sum", **source) == 0.25
    assert watched.of("migration_pause_seconds_sum", **source) == 2.0
    assert watched.of("migration_itl_before_seconds_sum", **source) == 1.0
    assert watched.of("migration_itl_after_seconds_sum", **destination) == 0.5
    assert read(watched.metrics, "vllm:request_success_total", **destination) == 1


def test_a_row_that_never_moved_has_no_before_and_after():
    watched = Watched()
    first = {"ttft_s": 1.0, "predicted_ttft_s": None, "prefill_s": 0.5, "computed": 30}
    watched.decide("first_token", P, at=1.0, **first)
    watched.tokens(1.0, 2.0, 3.0)
    watched.metrics.on_end(End(A, Completed(FinishReason.STOP), 30, 3, 0), 8.0)
    assert watched["migration_itl_before_seconds_count"] == 0
    assert watched["migration_itl_after_seconds_count"] == 0


def test_failed_moves_are_counted_by_what_went_wrong():
    watched = Watched()
    details: dict[str, Any] = {"from": D0}
    for reason in ("ending", "brand_new"):
        watched.decide("move_failed", D1, reason, **details)
    assert watched.of("migrations_total", outcome="failed", reason="ending") == 1
    assert watched.of("migrations_total", outcome="failed", reason="other") == 1


def test_pages_between_decoding_workers_are_those_of_moves():
    metrics = Metrics(ServerLabels("m", 1000, WORKERS, 16, "float32"))
    metrics.on_moved(P, D0, 1)
    metrics.on_moved(D0, P, 2)
    metrics.on_moved(D1, D0, 4)
    assert read(metrics, "foretoken:migration_bytes_total", engine="2") == 4
    assert read(metrics, "foretoken:migration_bytes_total") == 4


def told(metrics: Metrics, kind: str, choice: str, reason: str = "asked") -> None:
    metrics.on_decision(Decision(kind, None, None, choice, reason, {"worker": D1}), 0.0)


def test_a_worker_drains_and_takes_another_role():
    metrics = Metrics(ServerLabels("m", 1000, WORKERS, 16, "float32"))
    told(metrics, "role_wanted", "prefill", "prefill_waits")
    told(metrics, "drain", "prefill", "policy")
    assert read(metrics, "foretoken:worker_draining", engine="2") == 1
    assert read(metrics, "foretoken:worker_role", engine="2", role="decode") == 1
    told(metrics, "role", "prefill", "drained")
    told(metrics, "role_refused", "decode", "Worker d1 is the last that decodes.")
    assert read(metrics, "foretoken:worker_draining") == 0
    assert read(metrics, "foretoken:worker_role", engine="2", role="prefill") == 1
    assert read(metrics, "foretoken:worker_role", engine="2") == 1
    for outcome, reason in (
        ("wanted", "prefill_waits"),
        ("draining", "policy"),
        ("done", "drained"),
        ("refused", "other"),
    ):
        told_of = {"engine": "2", "outcome": outcome, "reason": reason}
        assert read(metrics, "foretoken:role_changes_total", **told_of) == 1
    metrics.on_moved(D1, D0, 4)
    assert read(metrics, "foretoken:kv_transfer_bytes_total", direction="p2d") == 4


def test_steps_are_compared_by_kind():
    metrics = Metrics(ServerLabels("m", 1000, WORKERS, 16, "float32"))
    times = (
        StepTime(4, 0, 0, 0.5, 0.25),
        StepTime(0, 64, 0, 1.0, 2.0),
        StepTime(3, 8, 56, 1.0, 1.0),
    )
    metrics.on_steps(StepsTimed(D1, times, 1.0, 0.1))
    for kind, error, predicted, observed in (
        ("decode", 0.25, 0.5, 0.25),
        ("prefill", 1.0, 1.0, 2.0),
        ("mixed", 0.0, 1.0, 1.0),
    ):
        labels = {"engine": "2", "kind": kind}
        assert read(metrics, "foretoken:step_prediction_abs_error_seconds_sum", **labels) == error
        assert read(metrics, "foretoken:step_predicted_seconds_total", **labels) == predicted
        assert read(metrics, "foretoken:step_observed_seconds_total", **labels) == observed
    for reason in ("full", "slack"):
        labels = {"engine": "2", "reason": reason}
        assert read(metrics, "foretoken:chunk_decisions_total", **labels) == 1


@pytest.mark.parametrize(
    ("rows", "new_len", "observed_s", "error", "held"),
    [
        (4, 0, 0.625, 0.125, 1),
        (4, 0, 0.375, 0.125, 1),
        (4, 0, 0.65, 0.125, 0),
        (4, 0, 0.35, 0.125, 0),
        (0, 64, 0.65, 0.25, 1),
        (4, 64, 0.5, 0.0, 1),
    ],
)
def test_the_error_stated_of_a_step_holds_within_twice_of_it(
    rows, new_len, observed_s, error, held
):
    """It is relative, and that of the corrected prediction: half a second, not ten."""
    metrics = Metrics(ServerLabels("m", 1000, WORKERS, 16, "float32"))
    times = (StepTime(9, 9, 0, 1.0, 5.0), StepTime(rows, new_len, 0, 10.0, observed_s))
    metrics.on_steps(StepsTimed(D1, times, 0.5, error))
    kind = {(4, 0): "decode", (0, 64): "prefill", (4, 64): "mixed"}[rows, new_len]
    labels = {"engine": "2", "kind": kind}
    assert read(metrics, "foretoken:step_errors_checked_total", **labels) == 1
    assert read(metrics, "foretoken:step_errors_held_total", **labels) == held
    assert read(metrics, "foretoken:step_errors_checked_total", engine="2") == 1


@pytest.mark.parametrize(
    ("kind", "reason", "series", "labels"),
    [
        ("admit", "fits", "admissions_total", {"outcome": "admitted", "reason": "fits"}),
        ("admit", "a whim", "admissions_total", {"outcome": "admitted", "reason": "other"}),
        ("defer", "growth", "admissions_total", {"outcome": "deferred", "reason": "growth"}),
        ("order", "deadlines", "reordered_total", {}),
        ("pause", "reply_ends", "pauses_total", {"reason": "reply_ends"}),
        ("restore", "compute_faster", "restore_decisions_total", {"reason": "compute_faster"}),
    ],
)
def test_what_a_worker_decides_by_itself_counts_for_that_worker(kind, reason, series, labels):
    watched = Watched()
    watched.decide(kind, D1, reason)
    assert watched.of(series, engine="2", **labels) == 1
    assert watched.of(series, **labels) == 1


def test_evicted_pages_are_counted_by_what_became_of_them():
    watched = Watched()
    for session, outcome, pages in (
        ("s", "dropped", 3),
        ("t", "dropped", 2),
        ("s", "offloaded", 4),
    ):
        details = {"worker": D0, "pages": pages}
        evicted = Decision("evict", None, SessionId(session), D0, outcome, details)
        watched.metrics.on_decision(evicted, 1.0)
    assert watched.of("evicted_pages_total", engine="1", reason="dropped") == 5
    assert watched.of("evicted_pages_total", engine="1", reason="offloaded") == 4


@pytest.mark.parametrize("seed", range(4))
def test_no_reason_that_the_scheduler_gives_is_unknown(seed: int):
    """A fleet in trouble: small pools, a lost worker, moves. Every label must be on its list."""
    shape = Shape(decode_workers=2, prefill_workers=1, max_model_len=64, num_pages=24)
    fleet = FakeFleet(shape, seed=seed)
    fleet.run()
    metrics = Metrics(ServerLabels("m", 64, WORKERS, 4, "float32"))
    for i in range(10):
        turn = make_turn(f"t{i}", [i % 3] * (5 + i), max_tokens=30, seed=i)
        metrics.on_arrival(turn, 0.0)
        fleet.submit(turn)
    for i in range(1500):
        if i == 100:
            fleet.move(TurnId("t0"), D1)
        if i == 250:
            fleet.lose(D1)
        if not fleet.round():
            break
    for decision in fleet.decisions:
        metrics.on_decision(decision, fleet.now)
    for name in ("place_decisions", "route_decisions", "turn_retries"):
        assert read(metrics, f"foretoken:{name}_total") > 0
        assert read(metrics, f"foretoken:{name}_total", reason="other") == 0
    assert read(metrics, "foretoken:migrations_total", outcome="failed", reason="other") == 0
