"""Rows with grammars beside others, with real steps: each says what the oracle says."""

import pytest

from serving.messages import DEAD_END, Completed, Failed
from serving.request import FinishReason, Grammar, GrammarKind
from tests.support.compiles import no_compiles
from tests.support.local_fleet import sampling, turn
from tests.support.tiny_cluster import Cluster, oracle, prompt
from tests.support.tiny_grammar import END, LIST, LONG, allowed_after, text_of

CLUSTERS = ["colocated", "split", "peers", "wide_decode"]
FREE = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"temperature": 0.7, "repetition_penalty": 1.3, "logit_bias": ((3, 4.0),), "seed": 4},
    {"allowed_ids": (1, 2, 3, 50)},
]


def constrained(max_tokens: int, **changes):
    return sampling(max_tokens, **{"grammar": LIST, "stop_ids": (END,), **changes})


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_neighbours_with_and_without_grammars_do_not_change_each_other(request, cluster: str):
    fleet = request.getfixturevalue(cluster).fleet()
    wanted = [
        way(12, **how, **more)
        for i, how in enumerate(FREE[:3])
        for way, more in ((sampling, {}), (constrained, {"logit_bias": LONG} if i < 2 else {}))
    ]
    wanted += [sampling(9, **FREE[3]), constrained(1), constrained(2, temperature=1.0)]
    prompts = [prompt(5 + 3 * i, seed=i) for i in range(len(wanted))]
    with no_compiles():
        answers = [
            fleet.submit(turn(f"t{i}", tokens, how))
            for i, (tokens, how) in enumerate(zip(prompts, wanted, strict=True))
        ]
        fleet.run()
    for answer, tokens, how in zip(answers, prompts, wanted, strict=True):
        assert answer.tokens == oracle(tokens, how)


def test_a_reply_ends_where_its_grammar_is_complete_or_is_cut(colocated: Cluster):
    fleet = colocated.fleet()
    ended = set()
    for seed in range(8):
        longer = {"logit_bias": LONG} if seed % 2 else {}
        how = constrained(20, temperature=1.0, seed=seed, **longer)
        answer = fleet.ask(turn(f"t{seed}", prompt(4, seed=seed), how))
        (end,) = answer.ends
        assert isinstance(end.outcome, Completed)
        ended.add(end.outcome.reason)
        if end.outcome.reason is FinishReason.STOP:
            assert answer.tokens[-1] == END
            assert allowed_after(answer.tokens) == [END]
            assert text_of(answer.tokens).endswith("]")
        else:
            assert len(answer.tokens) == 20
            assert END not in answer.tokens
    assert ended == {FinishReason.STOP, FinishReason.LENGTH}


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_a_reply_that_cannot_go_on_ends_alone(request, cluster: str):
    """The third token, which only a decode step samples; and the first, which a chunk does."""
    fleet = request.getfixturevalue(cluster).fleet()
    late = constrained(9, grammar=Grammar(GrammarKind.REGEX, "aab"), allowed_ids=(0, END))
    first = constrained(9, allowed_ids=(0, END))
    with no_compiles():
        stuck = [fleet.submit(turn("late", prompt(9), late))]
        stuck.append(fleet.submit(turn("first", prompt(6), first)))
        free = fleet.submit(turn("free", prompt(7), sampling(10)))
        fleet.run()
    assert free.tokens == oracle(prompt(7), sampling(10))
    assert [answer.tokens for answer in stuck] == [(0, 0), ()]
    for answer in stuck:
        (end,) = answer.ends
        assert isinstance(end.outcome, Failed)
        assert end.outcome.code == DEAD_END
    reports = [worker.batcher.report() for worker in fleet.workers.values()]
    assert all(report.pages_used == report.running == report.waiting == 0 for report in reports)


def test_a_reply_may_be_shorter_than_min_tokens_where_the_grammar_is_complete(colocated: Cluster):
    how = constrained(9, grammar=Grammar(GrammarKind.REGEX, "a{1,2}"), min_tokens=7)
    answer = colocated.fleet().ask(turn("t", prompt(5), how))
    assert text_of(answer.tokens) == "aa"
    assert answer.tokens[-1] == END
