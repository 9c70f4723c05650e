"""What did the coordinator decide, and what came of it? Its decisions as numbers.

Knows nothing of tokens or steps. A prediction is counted beside what was observed in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.messages import Decision, Detail, Role, WorkerId
from serving.metrics.catalog import (
    ADMITTED_REASONS,
    ASIDE_REASONS,
    DEFERRED_REASONS,
    EVICTION_REASONS,
    MOVE_FAILURES,
    MOVE_REASONS,
    OTHER,
    PAUSE_REASONS,
    PLACE_REASONS,
    RESTORE_REASONS,
    RETRY_REASONS,
    ROLES,
    WANTED_REASONS,
    Catalog,
)
from serving.metrics.engines import Engines, Row
from serving.policy.routes import ROUTE_REASONS
from serving.request import SamplingParams


@dataclass(frozen=True, slots=True)
class Stay:
    """A row's time at one worker: since token number `replied` of its reply, at `since` seconds."""

    since: float
    replied: int
    moved_here: bool


@dataclass(slots=True)
class Seen:
    """A turn under way; times in seconds. `stay` is None while its row decodes nowhere."""

    sampling: SamplingParams
    arrived: float
    row: Row
    owner: WorkerId | None
    path: str
    prompt_len: int
    first: float | None
    last: float
    stay: Stay | None


class Decided:
    """Counts decisions. A kind that is not known here is not counted."""

    def __init__(self, catalog: Catalog, engines: Engines) -> None:
        self._values = catalog.values
        self._histograms = catalog.histograms
        self._engines = engines

    def on_turn(self, decision: Decision, seen: Seen, now: float) -> None:
        """Count a decision about a turn."""
        match decision.kind:
            case "place":
                self._own(decision, seen)
                self._count("foretoken:place_decisions", seen.row, decision, PLACE_REASONS)
            case "route":
                self._route(decision, seen)
            case "first_token":
                self._first_token(decision, seen, now)
            case "retry":
                seen.stay = None
                self._count("foretoken:turn_retries", seen.row, decision, RETRY_REASONS)
                if decision.reason in ("preempted", "stood_aside"):
                    self._values["vllm:num_preemptions"].add(seen.row, 1)
            case "move" | "moved" | "move_failed" | "resumed":
                self._move(decision, seen, now)
            case _:
                self._by_worker(decision)

    def on_worker(self, decision: Decision) -> None:
        """Count a decision about a worker."""
        if decision.kind == "evict":
            self._by_worker(decision)
            return
        worker = WorkerId(str(decision.details["worker"]))
        row, changes = self._engines.row(worker), self._values["foretoken:role_changes"]
        match decision.kind:
            case "role_wanted":
                reason = decision.reason if decision.reason in WANTED_REASONS else OTHER
                changes.add((*row, "wanted", reason), 1)
            case "drain":
                changes.add((*row, "draining", decision.reason), 1)
                self._values["foretoken:worker_draining"].set(row, 1)
            case "role":
                changes.add((*row, "done", decision.reason), 1)
                self._engines.set_role(worker, Role(decision.choice))
                self._values["foretoken:worker_draining"].set(row, 0)
                self.show_role(worker)
            case "role_refused":
                changes.add((*row, "refused", OTHER), 1)
            case "worker_lost":
                self._values["foretoken:workers_lost"].add((*row, decision.reason), 1)
                self.on_lost(worker)
            case _:
                return

    def _by_worker(self, decision: Decision) -> None:
        """Count what a worker, the decision's choice, has decided by itself."""
        row = self._engines.row(WorkerId(decision.choice))
        match decision.kind:
            case "admit":
                admitted = (*row, "admitted")
                self._count("foretoken:admissions", admitted, decision, ADMITTED_REASONS)
            case "defer":
                deferred = (*row, "deferred")
                self._count("foretoken:admissions", deferred, decision, DEFERRED_REASONS)
            case "order":
                self._values["foretoken:reordered"].add(row, 1)
            case "pause":
                self._count("foretoken:pauses", row, decision, PAUSE_REASONS)
            case "aside":
                self._count("foretoken:aside", row, decision, ASIDE_REASONS)
            case "restore":
                self._count("foretoken:restore_decisions", row, decision, RESTORE_REASONS)
            case "evict":
                details: Mapping[str, Any] = decision.details
                reason = decision.reason if decision.reason in EVICTION_REASONS else OTHER
                self._values["foretoken:evicted_pages"].add((*row, reason), details["pages"])
            case _:
                return

    def on_lost(self, worker: WorkerId) -> None:
        """A worker is gone."""
        self._engines.lose(worker)
        self._values["foretoken:worker_draining"].set(self._engines.row(worker), 0)
        self.show_role(worker)

    def show_role(self, worker: WorkerId) -> None:
        """Set the gauge of a worker's role."""
        now, row = self._engines.role(worker), self._engines.row(worker)
        for role in ROLES:
            self._values["foretoken:worker_role"].set((*row, role), int(role == now))

    def on_left(self, seen: Seen, replied: int) -> None:
        """A row decodes no more at its worker, or its reply is over after `replied` tokens."""
        stay, seen.stay = seen.stay, None
        if stay is not None and stay.moved_here and replied > stay.replied:
            after = (seen.last - stay.since) / (replied - stay.replied)
            self._observe("foretoken:migration_itl_after_seconds", seen.row, after)

    def _own(self, decision: Decision, seen: Seen) -> None:
        seen.owner = WorkerId(decision.choice)
        seen.row = self._engines.row(seen.owner)

    def _route(self, decision: Decision, seen: Seen) -> None:
        seen.path = self._engines.path(seen.owner, decision.choice)
        row = (*seen.row, seen.path)
        self._count("foretoken:route_decisions", row, decision, ROUTE_REASONS)
        gain_s = predicted_gain_s(decision.details)
        if gain_s is not None:
            self._observe("foretoken:route_predicted_gain_seconds", seen.row, gain_s)

    def _first_token(self, decision: Decision, seen: Seen, now: float) -> None:
        row = self._engines.row(WorkerId(decision.choice))
        details: Mapping[str, Any] = decision.details
        ttft_s, prefill_s = details["ttft_s"], details["prefill_s"]
        seen.stay = Stay(now, 1, moved_here=False)
        phases = self._histograms["foretoken:ttft_phase_seconds"]
        phases.observe((*row, "prefill"), prefill_s, 1)
        phases.observe((*row, "queue"), ttft_s - prefill_s, 1)
        if seen.path == "append_prefill":
            self._values["foretoken:append_prefill_tokens"].add(row, details["computed"])
        predicted_s = details["predicted_ttft_s"]
        if predicted_s is not None:
            error_s = abs(predicted_s - ttft_s)
            self._observe("foretoken:ttft_prediction_abs_error_seconds", row, error_s)
            self._values["foretoken:ttft_predicted_seconds"].add(row, predicted_s)
            self._values["foretoken:ttft_observed_seconds"].add(row, ttft_s)

    def _move(self, decision: Decision, seen: Seen, now: float) -> None:
        """Count a stage of a move for its source: the owner until the row has moved."""
        details: Mapping[str, Any] = decision.details
        name, row = "foretoken:migrations", seen.row
        match decision.kind:
            case "move":
                self._count(name, (*row, "started"), decision, MOVE_REASONS)
                self._observe("foretoken:migration_predicted_gain_seconds", row, details["gain_s"])
            case "moved":
                self._count(name, (*row, "moved"), decision, MOVE_REASONS)
                self._before(seen, details["replied"])
                self.on_left(seen, details["replied"])
                self._own(decision, seen)
            case "move_failed":
                self._count(name, (*row, "failed"), decision, MOVE_FAILURES)
            case _:
                source = self._engines.row(details["from"])
                self._observe("foretoken:migration_pause_seconds", source, details["stop_s"])
                seen.stay = Stay(now, details["replied"] + 1, moved_here=True)

    def _before(self, seen: Seen, replied: int) -> None:
        stay = seen.stay
        if stay is not None and replied > stay.replied:
            before = (seen.last - stay.since) / (replied - stay.replied)
            self._observe("foretoken:migration_itl_before_seconds", seen.row, before)

    def _count(self, name: str, row: Row, decision: Decision, known: Sequence[str]) -> None:
        reason = decision.reason if decision.reason in known else OTHER
        self._values[name].add((*row, reason), 1)

    def _observe(self, name: str, row: Row, value: float) -> None:
        self._histograms[name].observe(row, value, 1)


def predicted_gain_s(details: Mapping[str, Detail]) -> float | None:
    """Return by how much the chosen option's TTFT is predicted to beat the best other one's.

    0 where the turn is to wait longer so that others do not; None where nothing was compared.
    """
    options: Any = details["options"]
    if len(options) < 2:
        return None
    return max(0.0, min(option["ttft_s"] for option in options[1:]) - options[0]["ttft_s"])
