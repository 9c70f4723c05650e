"""What a step reads of the length head is what training saw of the same text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from model.attention.paged import BLOCKED
from model.sharding import DECODE, TENSOR, param_shardings
from predictor.features import features
from predictor.saved import HeadSpec
from predictor.states import hidden_states
from serving.core.plan import LoadSlot
from serving.engine.executor import JaxExecutor
from serving.engine.probe import Probe
from serving.engine.programs import ExecutorSizes, Site
from serving.messages import Role
from tests.support.plans import NEUTRAL, chunk, plan, row, table
from tests.support.tiny_cluster import MODEL, PARAMS

PAGE, MAX_PAGES = 4, 16
SIZES = ExecutorSizes(
    num_pages=40,
    page_size=PAGE,
    max_model_len=PAGE * MAX_PAGES,
    max_rows=2,
    max_chunk_tokens=8,
    max_chunk_rows=1,
)
REACH = 4
LAYERS = (2, 1)


def spec(reach: int | None = REACH) -> HeadSpec:
    return HeadSpec("hazard", (8,), 256, LAYERS, MODEL.hidden_size, "weights", "tokens", reach)


def weights_of(one: HeadSpec):
    """A head as training may leave it, so that curves differ from place to place."""
    drawn = one.build().init(jax.random.key(3), one.num_features)
    return jax.tree.map(lambda leaf: leaf * 2 + 0.05, drawn)


def make(one: HeadSpec, devices: int = 1) -> JaxExecutor:
    mesh = Mesh(np.array(jax.devices()[:devices]), (TENSOR,))
    params = jax.device_put(PARAMS, param_shardings(MODEL, mesh, DECODE))
    site = Site(MODEL, mesh, DECODE, SIZES, BLOCKED, Probe(one))
    executor = JaxExecutor(params, site, Role.BOTH, moves_pages=False, head_weights=weights_of(one))
    executor.warm_up(lambda done: None)
    return executor


@pytest.fixture(scope="module")
def executor():
    return make(spec())


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
    (states,) = hidden_states(
        PARAMS,
        [tokens],
        [[len(tokens) - 1]],
        config=MODEL,
        layers=one.layers,
        starts=None if one.reach is None else [begun],
        reach=one.reach or 1,
    )
    row_of = (jnp.array([value]) for value in (generated, prompt_len, turn))
    return np.asarray(one.build().alive(weights_of(one), features(jnp.asarray(states), *row_of)))[0]


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
    pairs = follow(executor, spec())
    for read, trained in pairs:
        assert read == pytest.approx(trained, abs=3e-3)
    curves = np.array([trained for _, trained in pairs])
    assert np.abs(np.diff(curves, axis=0)).max(axis=1).min() > 0.01, "curves must differ"


@pytest.mark.slow
def test_a_head_without_recent_means():
    one = spec(None)
    for read, trained in follow(make(one), one):
        assert read == pytest.approx(trained, abs=3e-3)


@pytest.mark.slow
def test_a_mesh_of_two_devices_reads_the_same():
    for read, trained in follow(make(spec(), 2), spec()):
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
    assert at(readings, 0) == pytest.approx(wanted(spec(), known[0], 6, 6, 1, 5), abs=3e-3)
    assert at(readings, 1) == pytest.approx(wanted(spec(), known[1], 9, 6, 0, 8), abs=3e-3)


def test_a_row_from_elsewhere_begins_its_mean_anew(executor: JaxExecutor):
    tokens = prompt(12, 4)
    prefill(executor, 0, tokens[:9], pages(1), turn=0)
    executor.load_slot(LoadSlot(1, NEUTRAL, tuple(tokens[:9]), tuple(tokens[9:]), 0))
    for i, token in enumerate(tokens[9:]):
        arrives = row(1, 9 + i, pages(1), reply_index=1 + i, token=token)
        result = run(executor, [arrives], reads=True)
        read = at(result.decode_readings, 0)
        assert read == pytest.approx(wanted(spec(), tokens[: 10 + i], 9, 1 + i, 0, 9 + i), abs=3e-3)
