"""The tokens of a reply do not depend on how it was scheduled (invariant 1), with real steps.

Every case runs the real coordinator, batchers and executors on a tiny random model and compares
each reply with `model.generate`, which knows neither pages nor batches nor workers.
"""

import pytest

from model.generate import Sampling, generate
from serving.messages import Completed, WorkerLost
from serving.request import FinishReason, Slo
from tests.support.compiles import no_compiles
from tests.support.local_fleet import sampling, turn
from tests.support.tiny_cluster import MODEL, PARAMS, oracle, prompt
from tests.support.tiny_grammar import END, LIST, LONG

SAMPLED = {"temperature": 1.0, "top_p": 0.9, "seed": -(2**62) - 5}
PENALISED = {
    "temperature": 0.7,
    "repetition_penalty": 1.3,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.4,
    "logit_bias": ((3, 4.0), (5, -50.0)),
    "min_tokens": 1,
    "stop_ids": (9, 10, 11, 12),
    "seed": 2**40 + 1,
}
CONSTRAINED = {"temperature": 1.0, "seed": 11, "grammar": LIST, "stop_ids": (END,)}
WAYS = {"greedy": {}, "sampled": SAMPLED, "penalised": PENALISED, "constrained": CONSTRAINED}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("cluster", ["colocated", "split", "wide_decode"])
def test_every_mesh_and_chunking_says_what_the_oracle_says(request, cluster, way):
    wanted = sampling(12, **WAYS[way])
    prompts = [prompt(length) for length in (1, 3, 4, 5, 16, 17, 40)]
    expected = [oracle(tokens, wanted) for tokens in prompts]
    for chunk_tokens, chunk_rows in ((16, 2), (3, 1)):
        fleet = request.getfixturevalue(cluster).fleet(
            max_chunk_tokens=chunk_tokens, max_chunk_rows=chunk_rows
        )
        answers = [fleet.submit(turn(f"t{i}", tokens, wanted)) for i, tokens in enumerate(prompts)]
        fleet.run()  # all at once: neighbours, queueing and mixed steps
        assert [answer.tokens for answer in answers] == expected
        assert all(len(answer.ends) == 1 for answer in answers)


@pytest.mark.parametrize("cluster", ["colocated", "split"])
def test_a_conversation_computes_only_what_is_new_and_says_what_the_oracle_says(request, cluster):
    fleet = request.getfixturevalue(cluster).fleet()
    wanted, history, known = sampling(6), prompt(9), 0
    for number in range(6):
        answer = fleet.ask(turn(f"t{number}", history, wanted))
        assert answer.tokens == oracle(history, wanted)
        assert answer.ends[0].cached_len == known
        known = len(history) + len(answer.tokens) - 1
        history = [*history, *answer.tokens, *prompt(3, seed=number)]
    assert fleet.coordinator.live_turns == 0


@pytest.mark.parametrize("cluster", ["colocated", "split"])
def test_a_shared_prefix_is_computed_once_and_changes_nothing(request, cluster):
    fleet = request.getfixturevalue(cluster).fleet()
    wanted, system = sampling(8, **SAMPLED), prompt(24)
    for number in range(5):
        tokens = [*system, *prompt(5, seed=number)]
        answer = fleet.ask(turn(f"t{number}", tokens, wanted))
        assert answer.tokens == oracle(tokens, wanted)
        assert answer.ends[0].cached_len == (24 if number else 0)


@pytest.mark.parametrize("cluster", ["colocated", "split"])
@pytest.mark.parametrize("way", ["greedy", "penalised", "constrained"])
def test_preempted_turns_say_what_the_oracle_says(request, cluster, way):
    # Four rows grow to 17 pages each and promise nothing, in a pool of 48: some must be stopped.
    fleet = request.getfixturevalue(cluster).fleet(forecast=0)
    longer = {"logit_bias": LONG} if way == "constrained" else {"stop_ids": (), "min_tokens": 0}
    wanted = sampling(60, **{**WAYS[way], **longer})
    prompts = [prompt(7, seed=i) for i in range(8)]
    answers = [fleet.submit(turn(f"t{i}", tokens, wanted)) for i, tokens in enumerate(prompts)]
    fleet.run()
    assert [answer.tokens for answer in answers] == [oracle(p, wanted) for p in prompts]
    assert any(one.kind == "retry" and one.reason == "preempted" for one in fleet.decisions)


@pytest.mark.parametrize("cluster", ["colocated", "split"])
@pytest.mark.parametrize("way", ["greedy", "penalised", "constrained"])
def test_rows_that_stand_aside_say_what_the_oracle_says(request, cluster, way):
    # A round is a second: rows have two seconds a token to spare, and late prompts ask for room.
    fleet = request.getfixturevalue(cluster).fleet(forecast=0, slo=Slo(10.0, 3.0))
    longer = {"logit_bias": LONG} if way == "constrained" else {"stop_ids": (), "min_tokens": 0}
    wanted = sampling(40, **{**WAYS[way], **longer})
    prompts = [prompt(20, seed=i) for i in range(16)]
    answers = [fleet.submit(turn(f"t{i}", tokens, wanted)) for i, tokens in enumerate(prompts)]
    fleet.run()
    assert [answer.tokens for answer in answers] == [oracle(p, wanted) for p in prompts]
    assert any(one.kind == "retry" and one.reason == "stood_aside" for one in fleet.decisions)


@pytest.mark.parametrize("way", ["sampled", "constrained"])
def test_turns_of_a_lost_worker_go_on_elsewhere_with_the_same_tokens(split, way):
    fleet = split.fleet()
    wanted = sampling(30, **WAYS[way])
    prompts = [prompt(10, seed=i) for i in range(4)]
    answers = [fleet.submit(turn(f"t{i}", tokens, wanted)) for i, tokens in enumerate(prompts)]

    def lose() -> None:
        if fleet.now == 12.0:
            lost = next(name for name in fleet.workers if name.startswith("decode"))
            del fleet.workers[lost]
            fleet.give(WorkerLost(lost))

    fleet.run(lose)
    assert [answer.tokens for answer in answers] == [oracle(p, wanted) for p in prompts]


def test_cancelling_frees_every_page_at_once(split):
    fleet = split.fleet()
    answers = [fleet.submit(turn(f"t{i}", prompt(20, i), sampling(50))) for i in range(4)]

    def leave() -> None:
        if fleet.now == 8.0:
            for name in list(fleet.answers):
                fleet.cancel(name)

    fleet.run(leave)
    assert all(len(answer.ends) == 1 for answer in answers)
    assert all(len(answer.tokens) < 50 for answer in answers)
    assert [worker.batcher.report().pages_used for worker in fleet.workers.values()] == [0, 0, 0]
    assert len(split.connector) == 0


def test_log_probabilities_are_the_oracles(colocated, split):
    tokens = prompt(11)
    expected = generate(PARAMS, MODEL, tokens, Sampling(), 5)
    for cluster in (colocated, split):
        answer = cluster.fleet().ask(turn("t", tokens, sampling(5, logprobs=3, prompt_logprobs=0)))
        assert answer.tokens == expected.tokens
        for sample, chosen, top in zip(
            answer.samples, expected.logprobs, expected.top, strict=True
        ):
            assert sample.logprobs is not None
            assert sample.logprobs.chosen == pytest.approx(chosen, abs=1e-4)
            assert [i for i, _ in sample.logprobs.top[:3]] == [i for i, _ in top[:3]]
        assert answer.prompt_logprobs is not None
        assert answer.prompt_logprobs[0] is None
        assert len(answer.prompt_logprobs) == len(tokens)
        again = generate(PARAMS, MODEL, tokens[:10], Sampling(logit_bias=((tokens[10], 1e9),)), 1)
        last = answer.prompt_logprobs[-1]
        assert last is not None
        assert last.chosen == pytest.approx(again.logprobs[0], abs=1e-4)


def test_a_stop_token_ends_the_reply_and_is_its_last_token(split):
    tokens = prompt(6)
    free = oracle(tokens, sampling(20))
    stop = free[4]
    first = free.index(stop)
    answer = split.fleet().ask(turn("t", tokens, sampling(20, stop_ids=(stop,))))
    assert answer.tokens == free[: first + 1]
    assert answer.ends[0].outcome == Completed(FinishReason.STOP)


@pytest.mark.parametrize("cluster", ["colocated", "split"])
def test_nothing_compiles_after_warm_up_whatever_the_mixture(request, cluster):
    fleet = request.getfixturevalue(cluster).fleet()
    ways = [*WAYS.values(), {"logprobs": 2, "prompt_logprobs": 1}]
    with no_compiles():
        for i in range(24):
            tokens, wanted = prompt(1 + 3 * i, seed=i), sampling(1 + i, **ways[i % len(ways)])
            fleet.submit(turn(f"t{i}", tokens, wanted))
        fleet.run()
