"""What the coordinator decides, event by event."""

from dataclasses import replace

import pytest

from serving.core.coordinator import Coordinator
from serving.messages import (
    Action,
    Arrived,
    Cancel,
    Cancelled,
    Completed,
    Decision,
    Decode,
    Drain,
    Dropped,
    Emit,
    End,
    Failed,
    Finished,
    LoadReport,
    Outcome,
    Prefill,
    PrefillDone,
    Refused,
    Rejected,
    Role,
    SampledToken,
    TaskId,
    Tick,
    Tokens,
    ToWorker,
    WorkerId,
    WorkerJoined,
    WorkerLost,
)
from serving.request import FinishReason, Turn, TurnId
from tests.support.shape import Shape
from tests.support.turns import make_turn

P0, P1, D0, D1 = WorkerId("p0"), WorkerId("p1"), WorkerId("d0"), WorkerId("d1")


def started(shape: Shape, *workers: tuple[WorkerId, Role]) -> Coordinator:
    coordinator = shape.coordinator()
    for worker, role in workers:
        coordinator.on(WorkerJoined(worker, role, 1000), 0.0)
    return coordinator


def colocated(**sizes: object) -> Coordinator:
    return started(replace(Shape(), **sizes), (D0, Role.BOTH))  # type: ignore[arg-type]


def disaggregated(**sizes: object) -> Coordinator:
    shape = replace(Shape(), **sizes)  # type: ignore[arg-type]
    return started(shape, (P0, Role.PREFILL), (D0, Role.DECODE), (D1, Role.DECODE))


def outcome(actions: list[Action]) -> Outcome:
    ends = [action.outcome for action in actions if isinstance(action, End)]
    assert len(ends) == 1
    return ends[0]


def rejection(actions: list[Action]) -> str:
    rejected = outcome(actions)
    assert isinstance(rejected, Rejected)
    return rejected.code


def sent(actions: list[Action]) -> list[tuple[WorkerId, str]]:
    return [(a.worker, type(a.message).__name__) for a in actions if isinstance(a, ToWorker)]


def task(turn: str, attempt: int = 0) -> TaskId:
    return TaskId(TurnId(turn), attempt)


def sample(index: int, token: int = 7) -> SampledToken:
    return SampledToken(index, token, None)


def prefilled(turn: str, *, attempt: int = 0, by: WorkerId = P0, index: int = 0) -> PrefillDone:
    return PrefillDone(by, task(turn, attempt), sample(index), 3, None, None, 0.0)


def emitted(actions: list[Action]) -> list[tuple[TurnId, int]]:
    return [
        (turn, sample.reply_index)
        for action in actions
        if isinstance(action, Emit)
        for turn, sample in zip(action.turns, action.samples, strict=True)
    ]


def test_more_turns_than_may_wait_are_rejected_until_one_has_a_token():
    coordinator = colocated(max_queue_size=2)
    for name in "ab":
        coordinator.on(Arrived(make_turn(name, [1])), 0.0)
    assert rejection(coordinator.on(Arrived(make_turn("c", [1])), 0.0)) == "queue_full"
    coordinator.on(prefilled("a", by=D0), 0.0)
    assert sent(coordinator.on(Arrived(make_turn("c", [1])), 0.0)) == [(D0, "Prefill")]


def test_a_draining_server_finishes_what_runs_and_rejects_the_rest():
    coordinator = colocated()
    coordinator.on(Arrived(make_turn("a", [1], max_tokens=2)), 0.0)
    assert coordinator.on(Drain(), 0.0) == []
    assert rejection(coordinator.on(Arrived(make_turn("b", [1])), 0.0)) == "draining"
    coordinator.on(prefilled("a", by=D0), 0.0)
    coordinator.on(Tokens(D0, [task("a")], [sample(1)]), 0.0)
    actions = coordinator.on(Finished(D0, task("a"), FinishReason.LENGTH, 2), 0.0)
    assert outcome(actions) == Completed(FinishReason.LENGTH)
    assert coordinator.live_turns == 0


def test_what_belongs_to_an_accepted_request_is_taken_by_a_full_and_by_a_draining_server():
    coordinator = colocated(max_queue_size=1, max_model_len=10)
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    for name in "bc":
        follower = make_turn(name, [1])
        assert sent(coordinator.on(Arrived(follower, accepted=True), 0.0)) == [(D0, "Prefill")]
        coordinator.on(Drain(), 0.0)
    too_long = make_turn("d", [1], max_tokens=10)
    assert rejection(coordinator.on(Arrived(too_long, accepted=True), 0.0)) == "too_long"


@pytest.mark.parametrize(("max_tokens", "fits"), [(6, True), (7, False)])
def test_a_turn_may_just_fill_the_context(max_tokens: int, fits: bool):
    coordinator = colocated(max_model_len=10)
    actions = coordinator.on(Arrived(make_turn("a", [1, 2, 3, 4], max_tokens=max_tokens)), 0.0)
    if fits:
        assert sent(actions) == [(D0, "Prefill")]
    else:
        assert rejection(actions) == "too_long"
        assert coordinator.live_turns == 0


def test_a_turn_that_waits_too_long_for_its_first_token_is_given_up_and_withdrawn():
    coordinator = disaggregated(queue_timeout_s=5.0)
    coordinator.on(Arrived(make_turn("a", [1])), 1.0)
    coordinator.on(Arrived(make_turn("b", [1])), 1.0)
    coordinator.on(prefilled("b"), 2.0)
    assert coordinator.on(Tick(), 5.9) == []
    actions = coordinator.on(Tick(), 6.0)
    assert rejection(actions) == "queue_timeout"
    assert [a.message for a in actions if isinstance(a, ToWorker)] == [Cancel(task("a"))] * 2
    assert coordinator.on(Tick(), 100.0) == []


def test_a_turn_id_that_is_live_cannot_be_used_again():
    coordinator = colocated()
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    with pytest.raises(ValueError, match="live already"):
        coordinator.on(Arrived(make_turn("a", [1])), 0.0)


def test_without_decode_workers_a_turn_fails_at_once():
    coordinator = started(Shape(), (P0, Role.PREFILL))
    failed = outcome(coordinator.on(Arrived(make_turn("a", [1])), 0.0))
    assert isinstance(failed, Failed)
    assert failed.code == "no_decode_capacity"


def test_the_prefill_worker_is_told_before_the_owner():
    actions = disaggregated().on(Arrived(make_turn("a", [1, 2])), 3.0)
    messages = [action for action in actions if isinstance(action, ToWorker)]
    turn = make_turn("a", [1, 2])
    first = messages[0].message
    assert isinstance(first, Prefill)
    expected = first.task
    assert (expected.id, expected.turn, expected.tokens) == (task("a"), turn, (1, 2))
    assert (expected.replied, expected.arrived) == (0, 3.0)
    assert messages == [
        ToWorker(P0, Prefill(expected, D0, pull=True, reuse=True)),
        ToWorker(D0, Decode(expected, P0, move=None, reuse=True)),
    ]


def test_tokens_that_overtake_the_first_one_wait_for_it():
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1], max_tokens=3)), 0.0)
    assert coordinator.on(Tokens(D0, [task("a")], [sample(1)]), 0.0) == []
    assert coordinator.on(Tokens(D0, [task("a")], [sample(2)]), 0.0) == []
    assert coordinator.on(Finished(D0, task("a"), FinishReason.LENGTH, 3), 0.0) == []
    actions = coordinator.on(prefilled("a"), 0.0)
    assert emitted(actions) == [("a", 0), ("a", 1), ("a", 2)]
    assert outcome(actions) == Completed(FinishReason.LENGTH)
    assert isinstance(actions[-1], End), "the end comes after the tokens"


def test_one_step_of_many_turns_is_one_emit():
    coordinator = colocated()
    for name in "abc":
        coordinator.on(Arrived(make_turn(name, [1])), 0.0)
        coordinator.on(prefilled(name, by=D0), 0.0)
    tasks = [task(name) for name in "abc"]
    actions = coordinator.on(Tokens(D0, tasks, [sample(1, t) for t in (4, 5, 6)]), 0.0)
    assert actions == [Emit(list("abc"), [sample(1, t) for t in (4, 5, 6)])]  # type: ignore[arg-type]


def test_a_preempted_turn_goes_on_from_what_was_emitted():
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1, 2])), 1.0)
    coordinator.on(prefilled("a"), 1.0)
    coordinator.on(Tokens(D0, [task("a")], [sample(1, 9)]), 1.0)
    actions = coordinator.on(Refused(D0, task("a"), "preempted"), 2.0)
    again = [a.message for a in actions if isinstance(a, ToWorker) and a.worker == P0][-1]
    assert isinstance(again, Prefill)
    assert (again.task.id, again.task.tokens) == (task("a", 1), (1, 2, 7, 9))
    assert (again.task.replied, again.task.arrived) == (2, 1.0)
    assert coordinator.on(Tokens(D0, [task("a")], [sample(2)]), 2.0) == [], "the former attempt"
    assert emitted(coordinator.on(prefilled("a", attempt=1, index=2), 2.0)) == [("a", 2)]


def test_preemption_is_no_failure_but_broken_transfers_are_given_up():
    coordinator = disaggregated(max_attempts=3)
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    attempt = 0
    for _ in range(10):
        coordinator.on(Refused(D0, task("a", attempt), "preempted"), 0.0)
        attempt += 1
    for _ in range(2):
        coordinator.on(Refused(P0, task("a", attempt), "transfer_failed"), 0.0)
        attempt += 1
    actions = coordinator.on(Refused(P0, task("a", attempt), "transfer_failed"), 0.0)
    failed = outcome(actions)
    assert isinstance(failed, Failed)
    assert failed.code == "engine_dead"
    assert sent(actions) == [(P0, "Cancel"), (D0, "Cancel")]
    assert coordinator.live_turns == 0


def test_the_loss_of_an_owner_restarts_its_turns_elsewhere():
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    coordinator.on(prefilled("a"), 0.0)
    actions = coordinator.on(WorkerLost(D0), 1.0)
    assert (D1, "Decode") in sent(actions)
    assert not any(worker == D0 for worker, _ in sent(actions))
    assert ToWorker(P0, WorkerLost(D0)) in actions
    assert ToWorker(D1, WorkerLost(D0)) in actions


@pytest.mark.parametrize(("overdue_s", "reason"), [(None, "broke"), (300.5, "step_overdue")])
def test_a_loss_is_written_down_before_what_follows_from_it(overdue_s: float | None, reason: str):
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    first, *rest = coordinator.on(WorkerLost(D0, overdue_s), 1.0)
    details = {"worker": D0, "overdue_s": overdue_s}
    assert first == Decision("worker_lost", None, None, "", reason, details)
    assert [d.reason for d in rest if isinstance(d, Decision) and d.kind == "retry"] == [
        "worker_lost"
    ]


def test_a_whole_reply_whose_end_was_lost_with_its_worker_is_complete():
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1], max_tokens=2)), 0.0)
    coordinator.on(prefilled("a"), 0.0)
    coordinator.on(Tokens(D0, [task("a")], [sample(1)]), 0.0)
    assert outcome(coordinator.on(WorkerLost(D0), 1.0)) == Completed(FinishReason.LENGTH)


def test_an_end_of_a_former_attempt_does_not_end_the_next():
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1], max_tokens=9, stop_ids=(5,))), 0.0)
    coordinator.on(Finished(D0, task("a"), FinishReason.STOP, 2), 0.0)
    coordinator.on(WorkerLost(P0), 1.0)
    coordinator.on(prefilled("a", attempt=1, by=D0), 2.0)
    actions = coordinator.on(Tokens(D0, [task("a", 1)], [sample(1)]), 2.0)
    assert emitted(actions) == [("a", 1)]
    assert coordinator.live_turns == 1


def test_early_tokens_of_a_former_attempt_are_forgotten():
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    coordinator.on(Tokens(D0, [task("a")], [sample(1, 40)]), 0.0)
    coordinator.on(WorkerLost(P0), 1.0)
    assert emitted(coordinator.on(prefilled("a", attempt=1, by=D0), 2.0)) == [("a", 0)]


def test_a_turn_with_no_decode_worker_left_fails():
    coordinator = colocated()
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    assert isinstance(outcome(coordinator.on(WorkerLost(D0), 1.0)), Failed)


def test_a_cancelled_turn_ends_once_and_is_withdrawn_everywhere():
    coordinator = disaggregated()
    coordinator.on(Arrived(make_turn("a", [1])), 0.0)
    actions = coordinator.on(Cancelled(TurnId("a"), "client_left", 0), 0.0)
    assert outcome(actions) == Dropped("client_left")
    assert sent(actions) == [(P0, "Cancel"), (D0, "Cancel")]
    assert coordinator.on(Cancelled(TurnId("a"), "client_left", 0), 0.0) == []
    assert coordinator.on(prefilled("a"), 0.0) == []


def test_a_lost_worker_may_join_again_and_a_live_one_not():
    coordinator = colocated()
    with pytest.raises(ValueError, match="joined already"):
        coordinator.on(WorkerJoined(D0, Role.BOTH, 10), 0.0)
    coordinator.on(WorkerLost(D0), 0.0)
    coordinator.on(WorkerJoined(D0, Role.BOTH, 10), 0.0)
    assert sent(coordinator.on(Arrived(make_turn("a", [1])), 0.0)) == [(D0, "Prefill")]


def test_a_report_is_kept_for_whoever_asks():
    coordinator = colocated()
    report = LoadReport(D0, 1, 2, 3, 4, 5, 6, 7, 8)
    assert coordinator.on(report, 0.0) == []
    assert coordinator.fleet.workers[D0].report == report
    assert coordinator.on(replace(report, worker=D1), 0.0) == []


# ---- sessions, placement and routing at this level ----------------------------------------------


SYSTEM = list(range(32))


def place_of(actions: list[Action]) -> WorkerId:
    messages = [action for action in actions if isinstance(action, ToWorker)]
    return next(a.worker for a in messages if a.worker in (D0, D1))


def finish(coordinator: Coordinator, turn: Turn) -> WorkerId:
    """Run a turn of one token through; returns its owner."""
    owner = place_of(coordinator.on(Arrived(turn), 0.0))
    done = PrefillDone(P0, task(turn.id), sample(0), 1, None, FinishReason.LENGTH, 0.0)
    outcome(coordinator.on(done, 0.0))
    return owner


def test_a_thousand_conversations_at_once_with_one_system_prompt_spread():
    coordinator = disaggregated(max_sessions=1000)
    turns = [make_turn(f"t{i}", [*SYSTEM, 100 + i], max_tokens=1) for i in range(1000)]
    owners = [place_of(coordinator.on(Arrived(turn), 0.0)) for turn in turns]
    assert owners.count(D0) == owners.count(D1) == 500
    assert len(coordinator.sessions) == 1000


def test_conversations_one_after_another_with_one_system_prompt_spread():
    coordinator = disaggregated(max_sessions=1000)
    turns = [make_turn(f"t{i}", [*SYSTEM, 100 + i], max_tokens=1) for i in range(100)]
    owners = [finish(coordinator, turn) for turn in turns]
    assert owners.count(D0) == owners.count(D1) == 50
    assert len(coordinator.sessions) == 100


def test_a_long_conversation_outweighs_many_short_ones():
    coordinator = disaggregated(max_model_len=1000)
    assert place_of(coordinator.on(Arrived(make_turn("long", range(500))), 0.0)) == D0
    short = [make_turn(f"s{i}", [i] * 4) for i in range(10)]
    assert {place_of(coordinator.on(Arrived(turn), 0.0)) for turn in short} == {D1}


def test_two_first_turns_with_one_key_have_one_owner():
    coordinator = disaggregated()
    first = coordinator.on(Arrived(make_turn("a", [1], session="k")), 0.0)
    second = coordinator.on(Arrived(make_turn("b", [2], session="k")), 0.0)
    other = coordinator.on(Arrived(make_turn("c", [1])), 0.0)
    assert place_of(first) == place_of(second) == D0
    assert place_of(other) == D1


def test_prefill_workers_share_a_uniform_load():
    workers = ((P0, Role.PREFILL), (P1, Role.PREFILL), (D0, Role.DECODE))
    coordinator = started(Shape(), *workers)
    chosen: list[WorkerId] = []
    for i in range(100):
        actions = coordinator.on(Arrived(make_turn(f"t{i}", [i % 50] * 10)), 0.0)
        chosen += [w for w, kind in sent(actions) if kind == "Prefill"]
    assert chosen.count(P0) == chosen.count(P1) == 50


def test_a_prefill_worker_that_is_done_gets_the_next_turn():
    workers = ((P0, Role.PREFILL), (P1, Role.PREFILL), (D0, Role.DECODE))
    coordinator = started(Shape(), *workers)
    for name in "ab":
        coordinator.on(Arrived(make_turn(name, [1] * 10)), 0.0)
    coordinator.on(prefilled("b", by=P1), 0.0)
    assert (P1, "Prefill") in sent(coordinator.on(Arrived(make_turn("c", [2] * 10)), 0.0))


def test_every_decision_names_its_reason():
    coordinator = disaggregated()
    first = coordinator.on(Arrived(make_turn("a", [1], session="k")), 0.0)
    second = coordinator.on(Arrived(make_turn("b", [1], session="k")), 0.0)
    reasons = [(a.kind, a.reason) for a in first + second if isinstance(a, Decision)]
    assert reasons == [
        ("place", "least_load"),
        ("route", "always_remote"),
        ("place", "session_owner"),
        ("route", "always_remote"),
    ]
