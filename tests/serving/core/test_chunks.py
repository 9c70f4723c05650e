from dataclasses import replace

import numpy as np

from serving.core.chunks import plan_chunk, prompt_scores
from serving.core.worker_task import WorkerTask, open_task
from serving.request import TokenLogprobs
from tests.support.one_worker import prefill, task

PAGES = np.array([5, 6, 7], np.int32)
SCORE = TokenLogprobs(-1.0, ())


def opened(**more) -> WorkerTask:
    entry = open_task(prefill(task("a", range(10, 20), **more)), 4)
    entry.slot = 2
    return entry


def test_a_chunk_runs_the_tokens_behind_what_is_held():
    entry = opened()
    entry.kv_len = 3
    chunk = plan_chunk(entry, 4, PAGES)
    assert (chunk.slot, chunk.start, chunk.tokens.tolist()) == (2, 3, [13, 14, 15, 16])
    assert (chunk.sample, chunk.targets) == (False, None)
    assert chunk.pages is PAGES


def test_only_the_chunk_that_ends_the_prompt_samples():
    entry = opened()
    entry.kv_len = 6
    assert plan_chunk(entry, 4, PAGES).sample
    assert not plan_chunk(entry, 3, PAGES).sample


def test_a_retry_samples_the_token_behind_what_was_said():
    entry = opened(reply=(7, 8))
    chunk = plan_chunk(entry, 12, PAGES)
    assert (chunk.tokens.tolist()[-2:], chunk.reply_index, chunk.sample) == ([7, 8], 2, True)


def test_targets_are_the_successors_and_the_last_has_none():
    entry = opened(prompt_logprobs=0)
    first = plan_chunk(entry, 6, PAGES)
    entry.kv_len = 6
    last = plan_chunk(entry, 4, PAGES)
    assert first.targets is not None
    assert last.targets is not None
    assert first.targets.tolist() == [11, 12, 13, 14, 15, 16]
    assert last.targets.tolist() == [17, 18, 19, 0]


def test_the_first_prompt_token_has_no_score_and_what_followed_the_last_is_no_prompt():
    entry = opened(prompt_logprobs=0)
    entry.prompt_logprobs = [SCORE] * 9 + [replace(SCORE, chosen=-9.0)]
    assert prompt_scores(entry) == (None, *[SCORE] * 9)


def test_a_prompt_is_scored_once_and_only_if_it_was_asked_for():
    assert prompt_scores(opened()) is None
    assert prompt_scores(opened(prompt_logprobs=0, reply=(7,))) is None
