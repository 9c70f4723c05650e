from serving.core.prefix import chain
from serving.core.worker_task import Stage, open_task
from serving.messages import Prefill
from tests.support.one_worker import D0, P0, decode, prefill, task


def test_a_task_to_be_decoded_elsewhere_knows_its_owner():
    entry = open_task(Prefill(task("a", range(5)), D0, pull=False, reuse=False), 4)
    assert (entry.owner, entry.source, entry.decodes_here) == (D0, None, False)
    assert (entry.pull, entry.reuse, entry.stage) == (False, False, Stage.EXPECTING)


def test_a_task_that_comes_knows_its_source_and_its_move():
    entry = open_task(decode(task("a", range(5)), P0, move=4), 4)
    assert (entry.owner, entry.source, entry.move) == (None, P0, 4)
    assert entry.decodes_here
    assert open_task(prefill(task("a", range(5))), 4).move is None


def test_the_reply_so_far_counts_as_such():
    entry = open_task(prefill(task("a", range(5), reply=(7, 8))), 4)
    assert (entry.prompt_len, entry.replied, entry.tokens) == (5, 2, [0, 1, 2, 3, 4, 7, 8])


def test_pages_are_named_as_they_fill():
    entry = open_task(prefill(task("a", range(5), salt="x")), 4)
    entry.tokens += range(5, 13)
    names = chain("x", range(13), 4)
    assert entry.name_of_page(2, 4) == names[3]
    assert entry.name_of_page(0, 4) == names[1]


def test_a_prompt_is_scored_until_its_first_token_is_out():
    scored = task("a", range(5), prompt_logprobs=0)
    assert open_task(prefill(scored), 4).scores_prompt
    assert not open_task(
        prefill(task("a", range(5), prompt_logprobs=0, reply=(7,))), 4
    ).scores_prompt
    assert not open_task(prefill(task("a", range(5))), 4).scores_prompt
