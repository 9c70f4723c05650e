"""What one worker does with its own tasks, message by message."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.limits import BatcherLimits
from serving.core.plan import (
    LoadSlot,
)
from serving.costs.correction import HIGHEST, LEAST
from serving.messages import (
    Ack,
    Cancel,
    DropCached,
    Finished,
    Granted,
    PrefillDone,
    PullRequested,
    Refused,
    SampledToken,
    StepTime,
    TaskId,
    Tick,
    Tokens,
    TransferFailed,
    TransferId,
    WorkerLost,
)
from serving.request import FinishReason, TurnId
from tests.support.one_worker import (
    D0,
    LIMITS,
    P0,
    Worker,
    at,
    kinds,
    launched,
    prefill,
    task,
)
from tests.support.rules import COSTS
from tests.support.sharp_lengths import sharp


def test_a_prompt_is_run_in_chunks_and_then_decoded_with_the_token_on_the_device():
    worker = Worker(max_chunk_tokens=4)
    worker.on(prefill(task("a", range(6), max_tokens=3), None))
    first = worker.step()
    assert kinds(first) == ["LoadSlot", "Launch"]
    chunk = launched(first).chunks[0]
    assert (chunk.start, chunk.tokens.tolist(), chunk.sample) == (0, [0, 1, 2, 3], False)
    plan = worker.launch()
    chunk = plan.chunks[0]
    assert (chunk.start, chunk.tokens.tolist(), chunk.sample) == (4, [4, 5], True)
    ahead = worker.launch()
    assert ahead.decode.position.tolist() == [6]
    assert ahead.decode.from_host.tolist() == [False]
    assert ahead.decode.reply_index.tolist() == [1]
    worker.complete(launched(first), -1)
    done = at(worker.complete(plan, 40), 0, PrefillDone)
    assert (done.first.token, done.computed, done.finish) == (40, 6, None)
    worker.launch()
    assert worker.step() == [], "the last of three tokens is planned"
    tokens = at(worker.complete(ahead, 41), 0, Tokens)
    assert tokens.samples == [SampledToken(1, 41, None)]


def test_what_a_row_samples_after_its_stop_token_is_dropped():
    worker = Worker()
    worker.on(prefill(task("a", [1, 2], stop_ids=(9,)), None))
    prompt, second, third = worker.launch(), worker.launch(), worker.launch()
    worker.complete(prompt, 5)
    outputs = worker.complete(second, 9)
    assert kinds(outputs) == ["Tokens", "Finished"]
    assert outputs[1] == Finished(P0, TaskId(TurnId("a"), 0), FinishReason.STOP, 2)
    assert worker.is_empty()
    assert worker.complete(third, 7) == []
    assert worker.step() == []


@pytest.mark.parametrize("sampling", [{"max_tokens": 1}, {"stop_ids": (5,)}])
def test_a_reply_that_ends_with_its_first_token_holds_nothing(sampling: dict[str, Any]):
    worker = Worker()
    worker.on(prefill(task("a", [1, 2], **sampling), None))
    plan = worker.launch()
    ahead = [launched(out) for out in [worker.step()] if out]
    outputs = worker.complete(plan, 5)
    assert kinds(outputs) == ["PrefillDone"]
    assert at(outputs, 0, PrefillDone).finish == FinishReason(
        "length" if "max_tokens" in sampling else "stop"
    )
    assert worker.is_empty()
    for plan in ahead:
        assert worker.complete(plan, 7) == []


def test_a_retried_task_goes_on_at_its_place_in_the_reply():
    worker = Worker()
    worker.on(prefill(task("a", [1, 2], reply=(7, 8), max_tokens=3), None))
    outputs = worker.step()
    load = at(outputs, 0, LoadSlot)
    assert (load.prompt, load.reply) == ((1, 2), (7, 8))
    plan = launched(outputs)
    assert (plan.chunks[0].reply_index, plan.chunks[0].tokens.tolist()) == (2, [1, 2, 7, 8])
    done = at(worker.complete(plan, 9), 0, PrefillDone)
    assert (done.first, done.finish) == (SampledToken(2, 9, None), FinishReason.LENGTH)


def test_the_youngest_row_gives_its_page_and_says_so():
    worker = Worker(num_pages=5, max_model_len=16)
    worker.on(prefill(task("old", range(6), max_tokens=10, forecast=0), None))
    young = replace(task("young", range(20, 26), max_tokens=10, forecast=0), arrived=1.0)
    worker.on(prefill(young, None))
    plans = [worker.launch()]
    for entry in worker.batcher.holdings.tasks.values():
        entry.task = replace(entry.task, remaining=sharp(10))  # neither is about to end
    plans += [worker.launch() for _ in range(2)]
    worker.complete(plans[0], 1, 2)
    worker.complete(plans[1], 3, 4)
    outputs = worker.step()
    plans.append(launched(outputs))
    assert outputs[0] == Refused(P0, young.id, "preempted", computed=6)
    assert [id.turn for id in plans[-1].decode_tasks] == ["old"]
    late = at(worker.complete(plans[2], 5, 6), 0, Tokens)
    assert [id.turn for id in late.tasks] == ["old"], "the victim's last samples are dropped"


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_cancelled_task_frees_all_it_holds_at_once_in_every_stage(steps: int):
    worker = Worker(max_chunk_tokens=2)
    worker.on(prefill(task("a", range(4)), None))
    plans = [worker.launch() for _ in range(steps)]
    worker.on(Cancel(TaskId(TurnId("a"), 0)))
    assert worker.is_empty()
    for plan in plans:
        assert worker.complete(plan, 7) == []
    assert worker.step() == []


def test_messages_about_a_task_that_is_gone_change_nothing():
    worker = Worker()
    gone = task("a", [1])
    transfer = TransferId(D0, 1)
    assert worker.on(Cancel(gone.id)) == []
    assert worker.on(PullRequested(gone.id, D0, 0, 1)) == []
    assert worker.on(Ack(D0, gone.id, transfer)) == []
    assert worker.on(TransferFailed(gone.id, transfer, "x")) == []
    assert worker.on(Granted(gone.id, D0, 0, None)) == []
    assert worker.on(WorkerLost(D0)) == []
    assert worker.on(Tick()) == []
    assert worker.step() == []


def test_a_pool_that_cannot_hold_one_conversation_is_an_error_that_names_both_sizes():
    with pytest.raises(ValueError, match=r"16 KV pages of 4 .* 64 tokens.*--kv-pages"):
        replace(LIMITS, num_pages=16)
    assert isinstance(replace(LIMITS, num_pages=17), BatcherLimits)


def test_older_prompts_are_run_first_whatever_the_order_of_arrival_here():
    worker = Worker(max_chunk_tokens=4)
    for name, arrived, priority in (("c", 3.0, 0), ("a", 1.0, 0), ("b", 0.0, 1)):
        work = replace(task(name, [ord(name)] * 4, priority=priority), arrived=arrived)
        worker.on(prefill(work, None))
    order = [worker.launch().chunk_tasks[0].turn for _ in range(3)]
    assert order == ["a", "c", "b"]


def test_log_probabilities_are_read_back_only_for_steps_that_want_them():
    worker = Worker()
    worker.on(prefill(task("a", [1], logprobs=0, max_tokens=2), None))
    worker.on(prefill(task("b", [2], max_tokens=9), None))
    wants = [worker.launch().logprobs for _ in range(4)]
    assert wants == [True, True, False, False]


def test_a_report_counts_what_the_worker_holds():
    worker = Worker(max_rows=1)
    worker.on(prefill(task("a", range(6)), None))
    worker.on(prefill(task("b", range(7)), None))
    worker.on(prefill(task("c", range(8)), D0))
    worker.step()
    report = worker.batcher.report()
    assert (report.worker, report.waiting, report.running) == (P0, 2, 1)
    assert (report.pages_used, report.pages_cached, report.pages_free) == (2, 0, 30)
    assert report.waiting_tokens == 7
    assert report.page_loss_s == 0
    worker.batcher.holdings.idle.page_loss_s = 0.5
    assert worker.batcher.report().page_loss_s == 0.5


def test_cached_pages_are_dropped_on_demand_and_held_ones_are_not():
    worker = Worker()
    worker.on(prefill(task("a", range(9), max_tokens=1), None))
    worker.complete(worker.launch(), 0)
    worker.complete(worker.launch(), 0)
    worker.on(prefill(task("b", range(50, 56)), None))
    worker.launch()
    assert (worker.num_held, worker.batcher.report().pages_cached) == (2, 3)
    assert worker.on(DropCached()) == []
    assert (worker.num_held, worker.batcher.report().pages_cached) == (2, 0)


def weighed(worker: Worker, took_s: float) -> tuple[float, float]:
    """Seconds to compute a prompt that could be fetched: as weighed, and by uncorrected costs.

    `took_s`: what each step takes until then; of one that takes no time nothing is learnt.
    """

    def run(name: str, tokens: range) -> None:
        worker.on(prefill(task(name, tokens, max_tokens=1), None))
        while outputs := worker.step():
            worker.now += took_s
            worker.complete(launched(outputs), 1)

    run("first", range(16))
    for i in range(9):
        run(str(i), range(100 * i + 100, 100 * i + 108))
    worker.on(prefill(task("again", range(18), max_tokens=1), None))
    worker.step()
    (restore,) = (one for one in worker.decisions if one.kind == "restore")
    tokens, compute_s = restore.details["tokens"], restore.details["compute_s"]
    assert isinstance(tokens, int)
    assert isinstance(compute_s, float)
    return compute_s, COSTS.prefill(tokens, 16 - tokens).seconds


def test_what_steps_took_elsewhere_corrects_what_fetching_is_weighed_against():
    worker = Worker(num_pages=17, host_pages=20)
    worker.batcher.correct([StepTime(0, n, 0, 1.0, 3.0) for n in range(1, 19)] * LEAST)
    compute_s, bare_s = weighed(worker, took_s=0.0)
    assert compute_s == pytest.approx(3 * bare_s)


def test_what_steps_took_corrects_what_fetching_is_weighed_against():
    """They take 10 s, where two milliseconds were predicted."""
    compute_s, bare_s = weighed(Worker(num_pages=17, host_pages=20), took_s=10.0)
    assert compute_s == HIGHEST * bare_s
