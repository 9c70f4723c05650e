from serving.core.plan import StepResult
from serving.core.samples import take_decoded, take_first
from serving.core.worker_task import Stage, WorkerTask, open_task
from serving.messages import Finished, SampledToken, WorkerId
from serving.request import FinishReason, TokenLogprobs
from tests.support.one_worker import prefill, task

W = WorkerId("w")
SCORES = [TokenLogprobs(-float(i), ()) for i in range(4)]


def row(name: str, **more) -> WorkerTask:
    entry = open_task(prefill(task(name, range(5), reply=(8,), **more)), 4)
    entry.stage = Stage.DECODE
    return entry


def result(*ids: int) -> StepResult:
    return StepResult(list(ids), [], SCORES[: len(ids)], None, {})


def test_each_row_gets_its_token_at_its_place():
    a, b = row("a"), row("b", logprobs=0)
    tokens, ended = take_decoded(W, [a, b], result(30, 31), [])
    assert tokens is not None
    assert (tokens.worker, list(tokens.tasks)) == (W, [a.task.id, b.task.id])
    assert list(tokens.samples) == [SampledToken(1, 30, None), SampledToken(1, 31, SCORES[1])]
    assert ended == []
    assert (a.tokens[-1], a.kv_len, a.replied) == (30, 6, 2)


def test_a_row_that_has_left_since_the_launch_is_skipped():
    a, b, c = row("a"), row("b"), row("c")
    b.stage = Stage.GONE
    tokens, _ = take_decoded(W, [a, b, c], result(30, 31, 32), [])
    assert tokens is not None
    assert [sample.token for sample in tokens.samples] == [30, 32]
    assert b.replied == 1


def test_if_all_rows_have_left_nothing_is_told():
    a = row("a")
    a.stage = Stage.GONE
    assert take_decoded(W, [a], result(30), []) == (None, [])


def test_rows_end_at_a_stop_token_or_their_limit():
    stopped, full, going = row("a", stop_ids=(30,)), row("b", max_tokens=2), row("c")
    _, ended = take_decoded(W, [stopped, full, going], result(30, 31, 32), [])
    assert ended == [
        (stopped, Finished(W, stopped.task.id, FinishReason.STOP, 2)),
        (full, Finished(W, full.task.id, FinishReason.LENGTH, 2)),
    ]


def test_a_first_token_comes_with_what_was_computed_for_it():
    entry = row("a", logprobs=0)
    entry.computed, entry.started_at = 4, 2.0
    done, reason = take_first(W, entry, 30, SCORES[1], 2.5)
    assert (done.first, done.computed) == (SampledToken(1, 30, SCORES[1]), 4)
    assert done.prefill_s == 0.5
    assert (done.prompt_logprobs, done.finish, reason) == (None, None, None)
    assert entry.tokens[-1] == 30


def test_a_reply_may_be_over_with_its_first_token():
    done, reason = take_first(W, row("a", max_tokens=2), 30, None, 0.0)
    assert done.finish is reason is FinishReason.LENGTH


def test_scores_nobody_asked_for_are_left_out():
    done, _ = take_first(W, row("a"), 30, SCORES[1], 0.0)
    assert done.first.logprobs is None
