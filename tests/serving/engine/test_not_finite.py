"""Real steps of a model that has no numbers for one token: its rows are marked, others unharmed."""

import jax
import jax.numpy as jnp
import pytest

from model.generate import Sampling, generate
from serving.core.limits import BatcherLimits
from serving.core.plan import LoadSlot
from serving.engine.connectors.in_process import InProcessConnector
from serving.messages import NOT_FINITE, Completed, Failed, Role, WorkerId
from tests.model.test_sharding import CONFIG
from tests.support.local_fleet import LocalFleet, turn
from tests.support.local_fleet import sampling as greedily
from tests.support.one_executor import MAX_PAGES, PAGE, PARAMS, pages, prompt, run
from tests.support.plans import NEUTRAL, chunk, row
from tests.support.rules import coordinator_rules

BAD = 40  # a token for which the model has no numbers


@pytest.fixture
def blinded(whole_executor, split_executor, monkeypatch):
    """Both executors, with a row of the embedding table that is NaN."""
    for executor in (whole_executor, split_executor):
        params = {**PARAMS, "embed": PARAMS["embed"].at[BAD].set(jnp.nan)}
        there = jax.device_put(
            params, jax.tree.map(lambda leaf: leaf.sharding, dict(executor._params))
        )
        monkeypatch.setattr(executor, "_params", there)
    return whole_executor, split_executor


def test_a_row_without_numbers_is_marked_and_touches_nobody(blinded):
    whole, _ = blinded
    tokens = [t for t in prompt(40, 5) if t != BAD]
    good, other = tokens[:5], tokens[5:16]
    wanted = [list(generate(PARAMS, CONFIG, t, Sampling(), 3).tokens) for t in (good, other)]
    for slot in (0, 1):
        whole.load_slot(LoadSlot(slot, NEUTRAL, (), (), 0))
    bad_at, good_at, other_at = pages(1), pages(17), pages(33)
    results = run(
        whole,
        ((), [chunk(0, 0, [1, BAD, 2], bad_at, sample=False), chunk(1, 0, good, good_at)]),
        # What the broken row wrote is part of its own past, and of nobody else's.
        ([row(1, 5, good_at, reply_index=1)], [chunk(0, 3, [3, 4], bad_at)]),
        ([row(1, 6, good_at, reply_index=2), row(0, 5, bad_at, reply_index=1, token=BAD)], ()),
        ((), [chunk(0, 0, other, other_at), chunk(1, 0, [BAD] * 5, bad_at)]),
    )
    assert [(r.broken_rows, r.broken_chunks) for r in results] == [
        ((), (0,)),
        ((), ()),
        ((1,), ()),
        ((), (1,)),
    ]
    assert [results[0].chunk_ids[1], results[1].decode_ids[0], results[2].decode_ids[0]] == (
        wanted[0]
    )
    assert results[3].chunk_ids[0] == wanted[1][0]
    assert bool(jnp.isfinite(whole._pool).all()), "what is no number is never stored"


def test_a_row_without_numbers_is_marked_on_every_shard(blinded):
    _, split = blinded
    tokens = [t for t in prompt(40, 5) if t != BAD][:4]
    wanted = list(generate(PARAMS, CONFIG, tokens, Sampling(), 2).tokens)
    for slot in (0, 1):
        split.load_slot(LoadSlot(slot, NEUTRAL, (), (), 0))
    fed = [[row(0, i, pages(1), reply_index=0, token=t)] for i, t in enumerate(tokens)]
    bad = row(1, 0, pages(17), reply_index=0, token=BAD)
    *_, last = results = run(split, *([[*rows, bad], ()] for rows in fed))
    assert [result.broken_rows for result in results] == [(1,)] * len(tokens)
    assert last.decode_ids[0] == wanted[0]


def test_a_score_that_is_no_number_is_noticed(whole_executor, monkeypatch):
    whole = whole_executor
    params = {**PARAMS, "head": PARAMS["head"].at[3].set(jnp.inf)}
    monkeypatch.setattr(whole, "_params", jax.device_put(params, jax.devices()[0]))
    (result,) = run(whole, ((), [chunk(0, 0, [1, 2], pages(1), sample=False)]))
    assert result.broken_chunks == (0,)


def test_turns_without_numbers_fail_alone(blinded):
    whole, _ = blinded
    limits = BatcherLimits(64, PAGE, PAGE * MAX_PAGES, 2, 16, 2, 1e6, 4, 0)
    connector = InProcessConnector({})
    fleet = LocalFleet(
        {WorkerId("both-0"): (Role.BOTH, whole)}, connector, limits, coordinator_rules(), 8
    )
    tokens = [t for t in prompt(40, 5) if t != BAD]
    greedy, bad = greedily(6), greedily(6, allowed_ids=(BAD,))
    cases = [
        ([*tokens[:20], BAD, 1], greedy, 0),  # in the second chunk of its prompt
        (tokens[:20], greedy, None),
        (tokens[20:26], bad, 1),  # says it, and then has to read it
        ([BAD], greedy, 0),
        (tokens[20:35], greedy, None),
        ([*tokens[:20], BAD, 1], greedy, 0),  # with what is cached
    ]
    answers = [
        fleet.submit(turn(f"t{i}", asked, wanted)) for i, (asked, wanted, _) in enumerate(cases)
    ]
    fleet.run()
    for (asked, _, told), answer in zip(cases, answers, strict=True):
        outcome = answer.ends[0].outcome
        if told is None:
            assert isinstance(outcome, Completed)
            assert answer.tokens == generate(PARAMS, CONFIG, asked, Sampling(), 6).tokens
        else:
            assert isinstance(outcome, Failed)
            assert outcome.code == NOT_FINITE
            assert answer.tokens == (BAD,) * told
    assert fleet.ask(turn("again", tokens[:24], greedy)).ends[0].cached_len == 20
