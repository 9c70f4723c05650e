"""The compiled step against the slow oracle: same tokens, however they are cut into steps."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from model.attention.backend import Backend
from model.attention.paged import BLOCKED
from model.generate import Sampling, generate, prompt_logits
from model.parameters import init_params
from model.sharding import DECODE, PREFILL, TENSOR, param_shardings
from serving.core.plan import LoadSlot
from serving.engine import slots
from serving.engine.buckets import Bucket, Buckets
from serving.engine.executor import JaxExecutor
from serving.engine.programs import Moves, Programs, Site, page_bytes
from serving.messages import Role
from tests.model.test_sharding import CONFIG
from tests.support.compiles import no_compiles
from tests.support.one_executor import (
    MAX_PAGES,
    PAGE,
    PARAMS,
    SIZES,
    decode,
    ids,
    make,
    pages,
    prefill,
    prompt,
    run,
)
from tests.support.plans import NEUTRAL, chunk, plan, row


@pytest.fixture
def whole(whole_executor):
    """One device that does everything."""
    return whole_executor


@pytest.fixture
def split(split_executor):
    """Two devices that decode."""
    return split_executor


@pytest.mark.parametrize("cut", [16, 7, 1])
def test_greedy_tokens_equal_the_oracle_for_any_chunking(whole, cut):
    tokens = prompt(19)
    wanted = generate(PARAMS, CONFIG, tokens, Sampling(), 30).tokens
    first = prefill(whole, 0, tokens, pages(1), cut=cut).chunk_ids
    assert first + ids(decode(whole, 0, 19, pages(1), 29)) == list(wanted)
    assert len(set(wanted)) > 5, "the model must say something"


def test_rows_and_chunks_of_different_turns_share_steps(whole):
    a, b, c = prompt(5, 1), prompt(33, 2), prompt(11, 3)
    wanted = [list(generate(PARAMS, CONFIG, t, Sampling(), 4).tokens) for t in (a, b, c)]
    for slot, tokens in enumerate((a, b)):
        whole.load_slot(LoadSlot(slot, NEUTRAL, tuple(tokens), (), 0))
    at = [pages(1), pages(17), pages(33)]
    results = run(
        whole,
        ((), [chunk(0, 0, a, at[0]), chunk(1, 0, b[:9], at[1], sample=False)]),
        ([row(0, 5, at[0], reply_index=1)], [chunk(1, 9, b[9:25], at[1], sample=False)]),
        ([row(0, 6, at[0], reply_index=2)], [chunk(1, 25, b[25:], at[1])]),
        ([row(1, 33, at[1], reply_index=1), row(0, 7, at[0], reply_index=3)], ()),
    )
    assert [results[0].chunk_ids[0], results[1].decode_ids[0], results[2].decode_ids[0]] == (
        wanted[0][:3]
    )
    assert results[3].decode_ids == [wanted[1][1], wanted[0][3]]
    whole.load_slot(LoadSlot(0, NEUTRAL, tuple(c), (), 0))  # a slot's next row starts afresh
    last = run(
        whole,
        ([row(1, 34, at[1], reply_index=2)], [chunk(0, 0, c, at[2])]),
        ([row(1, 35, at[1], reply_index=3), row(0, 11, at[2], reply_index=1)], ()),
    )
    assert [last[0].decode_ids[0], last[1].decode_ids[0]] == wanted[1][2:]
    assert [last[0].chunk_ids[0], last[1].decode_ids[1]] == wanted[2][:2]


SAMPLED = replace(
    NEUTRAL,
    temperature=0.9,
    top_k=20,
    top_p=0.95,
    min_p=0.01,
    repetition_penalty=1.2,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    logit_bias=((3, 4.0), (5, -50.0)),
    allowed_ids=tuple(range(1, 40)),
    stop_ids=(7, 9),
    min_tokens=10,
    seed=-9007199254740991,
)


def oracle_sampling(wanted):
    names = Sampling.__dataclass_fields__.keys() - {"allowed_next"}
    values = {name: getattr(wanted, name) for name in names}
    # The oracle would stop at a stop id; the executor leaves that to the batcher.
    return Sampling(**values)


@pytest.mark.parametrize(
    "sampling",
    [
        replace(NEUTRAL, temperature=1.3, seed=2**40 + 5),
        replace(NEUTRAL, temperature=0.8, top_p=0.7, seed=3),
        SAMPLED,
    ],
    ids=["temperature", "top-p", "everything"],
)
def test_sampled_tokens_and_logprobs_equal_the_oracle(whole, sampling):
    tokens = prompt(12, 4)
    wanted = generate(PARAMS, CONFIG, tokens, oracle_sampling(sampling), 16)
    first = prefill(whole, 1, tokens, pages(1), sampling=sampling, logprobs=True)
    later = decode(whole, 1, 12, pages(1), len(wanted.tokens) - 1, logprobs=True)
    assert first.chunk_ids + ids(later) == list(wanted.tokens)
    scored = first.chunk_logprobs + [result.decode_logprobs[0] for result in later]
    np.testing.assert_allclose([s.chosen for s in scored], wanted.logprobs, atol=1e-4)
    assert [[i for i, _ in s.top] for s in scored] == [[i for i, _ in t] for t in wanted.top]


def test_a_row_resumes_from_its_history(whole):
    """What preemption and hand-off need: history in `LoadSlot`, the fed token from the host."""
    tokens = prompt(12, 4)
    wanted = generate(PARAMS, CONFIG, tokens, oracle_sampling(SAMPLED), 12).tokens
    known = [*tokens, *wanted[:5]]
    whole.load_slot(LoadSlot(0, SAMPLED, tuple(tokens), wanted[:5], 0))
    run(whole, ((), [chunk(0, 0, known[:-1][:16], pages(1), sample=False)]))
    steps = [([row(0, 16, pages(1), reply_index=5, token=known[-1])], ())]
    steps += [
        ([row(0, 16 + i, pages(1), reply_index=5 + i)], ()) for i in range(1, len(wanted) - 5)
    ]
    assert ids(run(whole, *steps)) == list(wanted[5:])


def test_targets_are_scored_by_the_prompts_own_distribution(whole):
    tokens = prompt(13, 6)
    whole.load_slot(LoadSlot(0, NEUTRAL, tuple(tokens), (), 0))
    scored = chunk(0, 0, tokens[:-1], pages(1), sample=False, targets=tokens[1:])
    other = chunk(1, 0, tokens[:4], pages(17), sample=False)
    (result,) = run(whole, ((), [other, scored]))
    wanted = jax.nn.log_softmax(prompt_logits(PARAMS, CONFIG, tokens)[:-1])
    assert list(result.prompt_logprobs) == [1]
    got = [entry.chosen for entry in result.prompt_logprobs[1]]
    np.testing.assert_allclose(got, wanted[np.arange(12), tokens[1:]], atol=1e-4)
    best = [entry.top[0][0] for entry in result.prompt_logprobs[1]]
    assert best == jnp.argmax(wanted, axis=-1).tolist()


def test_two_devices_sample_what_one_samples(whole, split):
    tokens = prompt(23, 8)
    first, second = (
        prefill(executor, 0, tokens, pages(1), sampling=SAMPLED).chunk_ids
        + ids(decode(executor, 0, 23, pages(1), 12))
        for executor in (whole, split)
    )
    assert first == second


def test_pages_move_to_a_mesh_of_another_degree(split):
    prefiller = make(Role.PREFILL, 4, 4, PREFILL)
    tokens = prompt(21, 9)
    wanted = list(generate(PARAMS, CONFIG, tokens, Sampling(), 9).tokens)
    first = prefill(prefiller, 0, tokens, pages(5)).chunk_ids
    payload = prefiller.gather(range(5, 11))
    assert payload.shape[1] == 16, "padded to a bucket"
    split.scatter(jax.device_put(payload, split.payload_sharding), range(30, 36))
    split.load_slot(LoadSlot(1, NEUTRAL, tuple(tokens), tuple(first), 0))
    steps = [([row(1, 21, pages(30), reply_index=1, token=first[0])], ())]
    steps += [([row(1, 21 + i, pages(30), reply_index=1 + i)], ()) for i in range(1, 8)]
    assert first + ids(run(split, *steps)) == wanted


def test_without_a_length_head_a_row_takes_nothing_but_pages_along(whole):
    assert whole.read_trace(0) is None


def test_a_step_keeps_the_pool_in_place(split):
    before = split._pool
    pointers = [shard.data.unsafe_buffer_pointer() for shard in before.addressable_shards]
    prefill(split, 0, prompt(9), pages(1))
    decode(split, 0, 9, pages(1), 3)
    split.scatter(split.gather([3]), [4])
    assert before.is_deleted()
    after = [shard.data.unsafe_buffer_pointer() for shard in split._pool.addressable_shards]
    assert after == pointers


def check_that_a_step_copies_no_pool(device, config, backend: Backend):
    """Compiled for a pool that would dwarf everything else; it is never allocated."""
    bucket = Bucket(2, 16, 2)
    mesh = Mesh(np.array([device]), (TENSOR,))
    site = Site(config, mesh, DECODE, replace(SIZES, num_pages=2**16), backend)
    programs = Programs(site, Buckets((bucket,), ()), constrains=False, offloads=False)
    programs.compile(lambda done: None)
    memory = programs.step[bucket].memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 2**16 * page_bytes(backend, config, PAGE) / 50


def test_a_step_makes_no_copy_of_the_pool_in_between():
    check_that_a_step_copies_no_pool(jax.devices()[0], CONFIG, BLOCKED)


def test_steps_of_every_size_are_timed_as_it_warms_up(whole, split):
    for executor in (whole, split):
        assert set(executor.padding_s) == set(executor.buckets.steps)
        assert all(seconds > 0 for took in executor.padding_s.values() for seconds in took)


def test_nothing_compiles_after_warm_up(whole, split):
    for executor in (whole, split):
        with no_compiles():
            for rows in range(3):
                for tokens in range(0, 17, 2):
                    if rows + tokens == 0:
                        continue
                    chunks = [chunk(0, 0, [1] * tokens, pages(1))] if tokens else []
                    at = [row(i, 3, pages(1 + i), reply_index=1) for i in range(rows)]
                    run(executor, (at, chunks), logprobs=bool(tokens % 4))
            for sampling in (NEUTRAL, SAMPLED):
                executor.load_slot(LoadSlot(0, sampling, (1, 2), (3,), 0))
    with no_compiles():
        for count in range(1, MAX_PAGES + 1):
            split.scatter(split.gather(range(1, 1 + count)), range(17, 17 + count))


def test_a_plan_may_be_overwritten_once_it_is_launched(whole):
    """Even when its arrays are aligned as JAX likes, so that it would not copy them."""

    def aligned(values):
        raw = np.zeros(values.nbytes + 64, np.uint8)
        start = -raw.ctypes.data % 64
        out = raw[start : start + values.nbytes].view(values.dtype).reshape(values.shape)
        out[...] = values
        return out

    tokens = prompt(10, 2)
    wanted = list(generate(PARAMS, CONFIG, tokens, Sampling(), 12).tokens)
    got = prefill(whole, 0, tokens, pages(1)).chunk_ids
    for i in range(11):
        made = plan([row(0, 10 + i, pages(1), reply_index=1 + i)], max_pages=MAX_PAGES)
        names = ("slot", "position", "token", "from_host", "reply_index", "pages")
        arrays = {name: aligned(getattr(made.decode, name)) for name in names}
        pending = whole.launch(made._replace(decode=made.decode._replace(**arrays)))
        for array in arrays.values():
            array[...] = 1
        got += whole.collect(pending).decode_ids
    assert got == wanted


@pytest.mark.slow
def test_a_sliding_window_in_bfloat16_equals_the_oracle():
    config = replace(CONFIG, dtype="bfloat16", sliding_window=9)
    params = init_params(config, jax.random.key(0))
    params["head"] = params["head"] * 40
    mesh = Mesh(np.array(jax.devices()[:1]), (TENSOR,))
    there = jax.device_put(params, param_shardings(config, mesh, DECODE))
    site = Site(config, mesh, DECODE, SIZES, BLOCKED)
    executor = JaxExecutor(there, site, Role.BOTH, moves=Moves.TO_WORKERS)
    executor.warm_up(lambda done: None)
    tokens = prompt(20)
    first = prefill(executor, 1, tokens, pages(1), cut=13).chunk_ids
    wanted = generate(params, config, tokens, Sampling(), 31).tokens
    assert first + ids(decode(executor, 1, 20, pages(1), 30)) == list(wanted)


def test_a_slot_that_holds_what_is_loaded_is_not_written_again(whole, monkeypatch):
    writes: list[int] = []
    load = whole._programs.slot[slots.load_scalars]

    def counted(settings, packed):
        writes.append(int(packed[0]))
        return load(settings, packed)

    monkeypatch.setitem(whole._programs.slot, slots.load_scalars, counted)
    warm, cool = (replace(SAMPLED, seed=99, temperature=t) for t in (0.9, 0.1))
    for slot, sampling in ((0, warm), (0, warm), (1, warm), (0, cool), (0, warm)):
        whole.load_slot(LoadSlot(slot, sampling, (1, 2), (3,), 0))
    assert writes == [0, 1, 0, 0]


def test_a_step_that_was_read_has_run(whole):
    whole.load_slot(LoadSlot(0, NEUTRAL, tuple(prompt(5)), (), 0))
    pending = whole.launch(plan((), [chunk(0, 0, prompt(5), pages(1))], max_pages=MAX_PAGES))
    whole.collect(pending)
    assert whole.has_run(pending)
