from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.id_masks import mask_words
from model.sampling import (
    MAX_LOGPROBS,
    SamplingRows,
    empty_planes,
    filtered,
    logprobs,
    penalise,
    sample,
    seed_halves,
)

V = 12
FILTERED = jax.jit(partial(filtered, unroll=False))  # one compile for all examples
UNROLLED = jax.jit(partial(filtered, unroll=True))
SAMPLE = jax.jit(partial(sample, unroll=False))
NEUTRAL = {
    "temperature": 1.0,
    "top_k": V,
    "top_p": 1.0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "min_tokens": 0,
    "seed": 0,
    "uses_planes": False,
    "reply_index": 0,
}
DTYPES = {"top_k": np.int32, "min_tokens": np.int32, "reply_index": np.int32, "uses_planes": bool}


def rows(*overrides, **common):
    each = [NEUTRAL | common | one for one in overrides or ({},)]
    columns = {
        name: np.array([row[name] for row in each], DTYPES.get(name, np.float32))
        for name in NEUTRAL
        if name != "seed"
    }
    seeds = np.array([seed_halves(row["seed"]) for row in each], np.int32)
    return SamplingRows(**{k: jnp.array(v) for k, v in columns.items()}, seed=jnp.array(seeds))


def pick(logits, sampling, planes=None):
    logits = jnp.array(np.atleast_2d(np.asarray(logits, np.float32)))
    planes = planes or empty_planes(len(logits), logits.shape[1])
    return np.array(SAMPLE(logits, sampling, planes, jnp.arange(len(logits))))


def kept_by_brute_force(scores, top_k, top_p, min_p):
    """Ids that survive: sort by falling score, then rising id, and cut three times."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    order = [i for i in order if np.exp(scores[i] - scores[order[0]]) >= min_p - 1e-7][:top_k]
    weights = np.exp(np.asarray([scores[i] for i in order], np.float64))
    reached = np.cumsum(weights) / weights.sum()
    if top_p < 1:
        order = order[: int(np.sum(reached < top_p - 1e-6)) + 1]
    return set(order)


SCORES = st.lists(st.integers(-6, 6).map(lambda n: n * 0.37), min_size=V, max_size=V)


@pytest.mark.parametrize("vocab_size", [V, 1000])
def test_without_loops_the_filters_keep_the_same(vocab_size):
    """Of equal scores too, and where nothing or all is kept."""
    random = np.random.default_rng(3)
    scores = np.round(random.normal(size=(8, vocab_size)) * 3, 1).astype(np.float32)
    scores[6] = 0.0
    tempered = jnp.array(scores - scores.max(axis=1, keepdims=True))
    top_k = [1, 3, vocab_size, vocab_size, 5, 2, 4, vocab_size]
    top_p = [1.0, 0.4, 0.9, 1.0, 0.01, 0.97, 0.999, 0.5]
    asked = rows(*({"top_k": k, "top_p": p} for k, p in zip(top_k, top_p, strict=True)))
    wanted = np.array(FILTERED(tempered, asked))
    assert len(set(np.isfinite(wanted).sum(axis=1))) > 2
    np.testing.assert_array_equal(UNROLLED(tempered, asked), wanted)


def test_without_loops_there_is_none():
    shapes = (jax.ShapeDtypeStruct((2, V), np.float32), rows({}, {}), empty_planes(2, V))
    slot = jnp.arange(2)
    program = partial(sample, unroll=True)
    assert "stablehlo.while" not in jax.jit(program).lower(*shapes, slot).as_text()
    assert "stablehlo.while" in SAMPLE.lower(*shapes, slot).as_text()


@settings(max_examples=60, deadline=None)
@given(SCORES, st.integers(1, V), st.sampled_from([0.13, 0.5, 0.83, 0.97, 1.0]), st.booleans())
def test_filters_keep_what_sorting_and_cutting_keeps(scores, top_k, top_p, with_min_p):
    min_p = 0.2 if with_min_p else 0.0
    tempered = np.asarray(scores, np.float32) - np.float32(max(scores))
    kept = np.array(
        FILTERED(jnp.array(tempered[None]), rows(top_k=top_k, top_p=top_p, min_p=min_p))
    )[0]
    assert set(np.flatnonzero(np.isfinite(kept))) == kept_by_brute_force(
        tempered, top_k, top_p, min_p
    )
    assert all(kept[i] == tempered[i] for i in np.flatnonzero(np.isfinite(kept)))


def test_temperature_zero_takes_the_best_and_the_lowest_id_of_equals():
    scores = np.zeros((2, V))
    scores[0, [7, 3]] = 5.0
    scores[1, 9] = 1.0
    assert pick(scores, rows({}, {}, temperature=0.0, top_p=0.1, top_k=1)).tolist() == [3, 9]


def test_tiny_temperature_is_greedy_without_overflow():
    scores = np.linspace(-1e4, 1e4, V)
    assert pick(scores, rows(temperature=1e-38)).tolist() == [V - 1]


def test_penalties_look_at_prompt_and_reply():
    planes = empty_planes(1, V)._replace(
        counts=jnp.zeros((1, V), jnp.int32).at[0, 2].set(3).at[0, 4].set(1),
        in_prompt=jnp.zeros((1, V), jnp.bool_).at[0, 5].set(True).at[0, 6].set(True),
        bias=jnp.zeros((1, V)).at[0, 7].set(2.5).at[0, 8].set(-jnp.inf),
    )
    scores = np.ones((1, V), np.float32)
    scores[0, [4, 6]] = -1.0
    wanted = scores.copy()
    wanted[0, 2] = 1 / 2 - 3 * 0.25 - 0.5
    wanted[0, 4] = -1 * 2 - 0.25 - 0.5
    wanted[0, 5], wanted[0, 6] = 1 / 2, -2
    wanted[0, 7], wanted[0, 8] = 3.5, -np.inf
    sampling = rows(repetition_penalty=2.0, presence_penalty=0.5, frequency_penalty=0.25)
    np.testing.assert_allclose(penalise(jnp.array(scores), sampling, planes), wanted, rtol=1e-6)


def test_stop_ids_are_banned_until_the_minimum_length_is_reached():
    planes = empty_planes(1, V)._replace(stops=jnp.zeros((1, V), jnp.bool_).at[0, 3].set(True))
    scores = np.zeros(V)
    scores[3], scores[5] = 9.0, 4.0
    greedy = {"temperature": 0.0, "min_tokens": 2, "uses_planes": True}
    drawn = [pick(scores, rows(reply_index=i, **greedy), planes)[0] for i in range(4)]
    assert drawn == [5, 5, 3, 3]


@pytest.mark.parametrize("size", [31, 32, 33, 70])
def test_a_mask_leaves_just_the_ids_whose_bits_are_set(size: int):
    allowed = np.random.default_rng(size).random(size) < 0.4
    allowed[size - 1] = True
    bits = np.pad(np.packbits(allowed, bitorder="little"), (0, 8))
    words = bits[: 4 * mask_words(size)].view("<u4")
    planes = empty_planes(1, size)._replace(allowed=jnp.array(words[None]))
    scores = jnp.linspace(-1, 1, size)[None]
    left = penalise(scores, rows(uses_planes=True), planes)
    np.testing.assert_array_equal(np.isfinite(left[0]), allowed)
    np.testing.assert_allclose(left[0][allowed], scores[0][allowed])
    assert bool(jnp.all(penalise(scores, rows(), empty_planes(1, size)) == scores))


def test_rows_read_the_planes_of_their_place_and_only_if_they_use_them():
    planes = empty_planes(3, V)._replace(bias=jnp.zeros((3, V)).at[2, 4].set(50.0))
    scores = jnp.zeros((3, V)).at[:, 1].set(1.0)
    sampling = rows({"uses_planes": True}, {"uses_planes": True}, {}, temperature=0.0)
    assert SAMPLE(scores, sampling, planes, jnp.array([2, 0, 2])).tolist() == [4, 1, 1]


@pytest.mark.parametrize("seed", [0, -1, 2**31, 2**63 - 1, -(2**63), -9007199254740991])
def test_seed_halves_keep_all_64_bits(seed):
    low, high = seed_halves(seed)
    assert (high << 32) + (low & 0xFFFFFFFF) == seed


def test_noise_depends_on_every_bit_of_the_seed_and_on_the_place_alone():
    scores = np.zeros((8, 200))
    seeds = [5, 5, 5 + 2**32, 5 - 2**63, 6, -9007199254740991, -9007199254740991 + 2**40, 5]
    sampling = rows(*({"seed": s} for s in seeds), top_k=200)
    sampling = sampling._replace(reply_index=sampling.reply_index.at[7].set(1))
    drawn = pick(scores, sampling).tolist()
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) >= 6
    alone = [pick(scores[:1], rows(seed=s, top_k=200))[0] for s in seeds[:7]]
    assert alone == drawn[:7]


def test_a_row_does_not_depend_on_what_its_neighbours_ask_for():
    scores = np.array(jax.random.normal(jax.random.key(1), (1, V)))
    plain = {"seed": 77, "temperature": 0.9}
    neighbour = {"top_k": 2, "top_p": 0.3, "min_p": 0.1, "uses_planes": True, "temperature": 0.0}
    for index in range(20):
        alone = pick(scores, rows(plain, reply_index=index))
        beside = pick(np.repeat(scores, 2, 0), rows(plain, neighbour, reply_index=index))
        assert alone[0] == beside[0]


def test_draws_follow_the_tempered_and_filtered_distribution():
    """Chi-square with 4000 seeds; 0.999 quantile of 4 degrees of freedom is 18.47."""
    n = 4000
    scores = np.tile(np.array([2.0, 1.5, 1.0, 0.5, 0.0, -1.0, -1.5, -2.0], np.float32), (n, 1))
    overrides = ({"seed": seed * 7919} for seed in range(n))
    drawn = pick(scores, rows(*overrides, temperature=0.7, top_k=5))
    observed = np.bincount(drawn, minlength=8)
    weights = np.exp(scores[0, :5] / 0.7)
    expected = n * weights / weights.sum()
    assert observed[5:].sum() == 0
    assert ((observed[:5] - expected) ** 2 / expected).sum() < 18.47


def test_logprobs_are_of_the_raw_distribution_with_the_lowest_ids_first_on_ties():
    scores = jnp.zeros((1, 40)).at[0, 30].set(3.0)
    chosen = jnp.array([12])
    own, top, ids = logprobs(scores, chosen)
    total = np.log(39 + np.exp(3.0))
    assert ids.tolist() == [[30, *range(MAX_LOGPROBS - 1)]]
    np.testing.assert_allclose(top[0, :2], [3 - total, -total], rtol=1e-6)
    np.testing.assert_allclose(own, [-total], rtol=1e-6)


def test_logprobs_of_a_small_vocabulary_list_all_of_it():
    assert logprobs(jnp.zeros((2, 5)), jnp.array([0, 1])).top_ids.shape == (2, 5)
