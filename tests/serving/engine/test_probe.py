"""What a step reads of the length head is what training saw of the same text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from model.attention.paged import BLOCKED
from model.sharding import DECODE, TENSOR, param_shardings
from predictor.features import features
from predictor.glance import Glance, look
from predictor.head import Weights
from predictor.saved import HeadSpec
from predictor.states import Text, Wanted, recompute
from serving.core.plan import LoadSlot
from serving.engine.executor import JaxExecutor
from serving.engine.probe import LONG_ENOUGH, Probe
from serving.engine.programs import ExecutorSizes, Moves, Site
from serving.messages import Role
from tests.support.plans import NEUTRAL, chunk, plan, row, table
from tests.support.tiny_cluster import MODEL, PARAMS
from tests.support.tiny_head import GLANCE, REACH, head_spec, head_weights

PAGE, MAX_PAGES = 4, 16
SIZES = ExecutorSizes(
    num_pages=40,
    page_size=PAGE,
    max_model_len=PAGE * MAX_PAGES,
    max_rows=2,
    max_chunk_tokens=8,
    max_chunk_rows=1,
)


def make(one: HeadSpec, devices: int = 1) -> JaxExecutor:
    mesh = Mesh(np.array(jax.devices()[:devices]), (TENSOR,))
    params = jax.device_put(PARAMS, param_shardings(MODEL, mesh, DECODE))
    site = Site(MODEL, mesh, DECODE, SIZES, BLOCKED, Probe(one))
    weights = head_weights(one)
    executor = JaxExecutor(params, site, Role.BOTH, moves=Moves.TO_WORKERS, head_weights=weights)
    executor.warm_up(lambda done: None)
    return executor


@pytest.fixture(scope="module")
def executor():
    return make(head_spec())


def prompt(length: int, seed: int = 0) -> list[int]:
    return np.random.default_rng(seed).integers(0, MODEL.vocab_size, length).tolist()


def pages(first: int):
    return table(range(first, first + MAX_PAGES), MAX_PAGES)


def run(executor: JaxExecutor, rows=(), chunks=(), *, reads: bool):
    return executor.collect(executor.launch(plan(rows, chunks, max_pages=MAX_PAGES, reads=reads)))


def at(readings: np.ndarray | None, index: int) -> np.ndarray:
    """One row's reading in a step that was read."""
    assert readings is not None
    return readings[index]


def prefill(executor: JaxExecutor, slot: int, tokens: list[int], where, *, turn: int):
    """Prefill in chunks of 8; returns the first token and the reading."""
    executor.load_slot(LoadSlot(slot, NEUTRAL, tuple(tokens), (), turn))
    results = [
        run(
            executor,
            chunks=[chunk(slot, i, tokens[i : i + 8], where, sample=i + 8 >= len(tokens))],
            reads=False,
        )
        for i in range(0, len(tokens), 8)
    ]
    assert all(result.chunk_readings is None for result in results[:-1])
    return results[-1].chunk_ids[0], at(results[-1].chunk_readings, 0)


def wanted(
    one: HeadSpec, tokens: list[int], prompt_len: int, generated: int, turn: int, begun: int
) -> np.ndarray:
    """The curve that training computes of a text, at the state that samples its next token."""
    text = Text(tuple(tokens), begun + 1, [len(tokens) - 1])
    (had,) = recompute(PARAMS, [text], Wanted(one.layers, one.reach), config=MODEL)
    counts = [jnp.array([value]) for value in (generated, prompt_len, turn)]
    weights = head_weights(one)
    glanced = None if one.glance is None else looked_up(one.glance, weights, tokens[:prompt_len])
    seen = features(jnp.asarray(had.states), counts[0], counts[1], counts[2], glanced)
    return np.asarray(one.build().alive(weights, seen))[0]


def looked_up(how: Glance, weights: Weights, tokens: list[int]) -> jax.Array:
    asked = Wanted((1,), prompt_layer=how.layer, window=how.window)
    (had,) = recompute(PARAMS, [Text(tuple(tokens), len(tokens), [])], asked, config=MODEL)
    keys, values = jnp.asarray(had.kv)[None, :, 0], jnp.asarray(had.kv)[None, :, 1]
    return look(weights["glance"], keys, values, jnp.ones(keys.shape[:2], bool), None)


def follow(executor: JaxExecutor, one: HeadSpec, turn: int = 3):
    """Serve one reply of a few tokens; every reading beside what training computes."""
    tokens = prompt(13)
    first, reading = prefill(executor, 0, tokens, pages(1), turn=turn)
    pairs = [(reading, wanted(one, tokens, 13, 0, turn, 12))]
    text = [*tokens, first]
    for i in range(1, 9):
        result = run(executor, [row(0, 12 + i, pages(1), reply_index=i)], reads=True)
        pairs.append((at(result.decode_readings, 0), wanted(one, text, 13, i, turn, 12)))
        text.append(result.decode_ids[0])
    return pairs


def test_readings_are_those_of_training_at_every_place(executor: JaxExecutor):
    pairs = follow(executor, head_spec())
    for read, trained in pairs:
        assert read == pytest.approx(trained, abs=3e-3)
    curves = np.array([trained for _, trained in pairs])
    assert np.abs(np.diff(curves, axis=0)).max(axis=1).min() > 0.01, "curves must differ"


@pytest.mark.slow
@pytest.mark.parametrize(("reach", "glance"), [(None, None), (None, GLANCE), (4, None)])
def test_a_head_without_recent_means_or_without_a_glance(reach: int | None, glance: Glance | None):
    one = head_spec(reach, glance)
    for read, trained in follow(make(one), one):
        assert read == pytest.approx(trained, abs=3e-3)


@pytest.mark.slow
def test_a_mesh_of_two_devices_reads_the_same():
    for read, trained in follow(make(head_spec(), 2), head_spec()):
        assert read == pytest.approx(trained, abs=3e-3)


def test_unread_steps_count_and_neighbours_do_not(executor: JaxExecutor):
    """A row's recent mean grows in steps that nobody reads, whoever else is in them."""
    a, b = prompt(9, 1), prompt(6, 2)
    text, other = [*a], [*b]
    text.append(prefill(executor, 0, a, pages(1), turn=0)[0])
    other.append(prefill(executor, 1, b, pages(17), turn=1)[0])
    known: list[list[int]] = []
    readings = None
    for i in range(1, 7):
        rows = [
            row(1, 5 + i, pages(17), reply_index=i),
            row(0, 8 + i, pages(1), reply_index=i),
        ]
        result = run(executor, rows, reads=i == 6)
        assert (result.decode_readings is None) == (i < 6)
        known, readings = [list(other), list(text)], result.decode_readings
        other.append(result.decode_ids[0])
        text.append(result.decode_ids[1])
    assert at(readings, 0) == pytest.approx(wanted(head_spec(), known[0], 6, 6, 1, 5), abs=3e-3)
    assert at(readings, 1) == pytest.approx(wanted(head_spec(), known[1], 9, 6, 0, 8), abs=3e-3)


def test_a_step_that_ends_a_prompt_reads_no_row_that_was_not_asked_for(executor: JaxExecutor):
    tokens, other = prompt(9, 8), prompt(3, 9)
    prefill(executor, 0, tokens, pages(1), turn=0)
    executor.load_slot(LoadSlot(1, NEUTRAL, tuple(other), (), 0))
    decoding, ending = row(0, 9, pages(1), reply_index=1), chunk(1, 0, other, pages(17))
    result = run(executor, [decoding], [ending], reads=False)
    assert result.decode_readings is None
    read = at(result.chunk_readings, 0)
    assert read == pytest.approx(wanted(head_spec(), other, 3, 0, 0, 2), abs=3e-3)


def test_a_row_from_elsewhere_goes_on_with_its_mean(executor: JaxExecutor):
    """Begun in one slot, it goes on in another that somebody else has just left."""
    tokens = prompt(9, 4)
    prefill(executor, 1, prompt(7, 5), pages(17), turn=0)
    text = [*tokens, prefill(executor, 0, tokens, pages(1), turn=0)[0]]
    for i in range(1, 7):
        slot = 0 if i < 3 else 1
        if i == 3:
            executor.load_slot(LoadSlot(1, NEUTRAL, tuple(tokens), tuple(text[9:]), 0))
            trace = executor.read_trace(0)
            assert trace is not None
            executor.write_trace(1, trace)
        came = row(slot, 8 + i, pages(1), reply_index=i, token=text[-1] if i == 3 else None)
        result = run(executor, [came], reads=True)
        read = at(result.decode_readings, 0)
        assert read == pytest.approx(wanted(head_spec(), text, 9, i, 0, 8), abs=3e-3)
        text.append(result.decode_ids[0])


def test_a_head_without_means_and_glances_has_nothing_to_take_along():
    assert Probe(head_spec(None, None)).empty(3) is None
    assert Probe(head_spec(None)).empty(3) is not None


def test_a_prompt_shorter_than_the_window_is_seen_whole(executor: JaxExecutor):
    tokens = prompt(4, 6)
    _, reading = prefill(executor, 0, tokens, pages(1), turn=0)
    assert reading == pytest.approx(wanted(head_spec(), tokens, 4, 0, 0, 3), abs=3e-3)


def test_a_resumed_reply_is_no_part_of_its_prompt_and_is_read_once_its_mean_is_long_enough(
    executor: JaxExecutor,
):
    """Whoever was preempted comes back with its prompt and reply in one, and without its mean."""
    tokens = prompt(4, 6)
    whole = [*tokens, *prompt(3, 7)]
    executor.load_slot(LoadSlot(1, NEUTRAL, tuple(tokens), tuple(whole[4:]), 0))
    resumed = chunk(1, 0, whole, pages(17), sample=True, reply_index=3)
    result = run(executor, chunks=[resumed], reads=False)
    readings, last = [at(result.chunk_readings, 0)], whole
    text = [*whole, result.chunk_ids[0]]
    trace = executor.read_trace(1)
    assert trace is not None
    mine, all_of_it = (looked_up(GLANCE, head_weights(head_spec()), of) for of in (tokens, whole))
    assert trace.glanced == pytest.approx(np.asarray(mine)[0], abs=3e-3)
    assert np.abs(mine - all_of_it).max() > 0.1, "the reply must have been there to be seen"
    for i in range(1, LONG_ENOUGH * REACH):
        result = run(executor, [row(1, 6 + i, pages(17), reply_index=3 + i)], reads=True)
        readings.append(at(result.decode_readings, 0))
        last, text = text, [*text, result.decode_ids[0]]
    assert [reading.any() for reading in readings] == [False] * (len(readings) - 1) + [True]
    place = len(last) - 4
    assert readings[-1] == pytest.approx(wanted(head_spec(), last, 4, place, 0, 6), abs=3e-3)
