"""Payloads between meshes of any two degrees: the same bytes, and no host that waits for them."""

from collections.abc import Callable
from threading import Event as Signal
from threading import Thread
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from model import kv_pages
from model.sharding import DECODE, PREFILL, TENSOR, partition
from serving.engine.connectors.connector import Payload
from serving.engine.connectors.copies import Copies
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.probe import Trace
from serving.messages import TransferId, WorkerId
from tests.support.compiles import no_compiles

P0, D0 = WorkerId("p0"), WorkerId("d0")
FIRST = TransferId(P0, 1)
SHAPE = (2, 3, 2, 4, 5, 8)  # [L, n, 2, K, page_size, H]
CUT, WHOLE = partition(kv_pages.AXES, PREFILL), P()
DEGREES = (1, 2, 4)
WAYS = [(own, to) for own in DEGREES for to in DEGREES]
SPECS = {"cut": CUT, "whole": WHOLE}


def mesh(start: int, degree: int) -> Mesh:
    return Mesh(np.array(jax.devices()[start : start + degree]), (TENSOR,))


def pages_on(sharding: NamedSharding, seed: int = 0) -> jax.Array:
    values = np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)
    return jax.device_put(values, sharding)


def trace_on(whole: NamedSharding) -> Trace:
    mean, glanced = np.arange(6, dtype=np.float32).reshape(2, 3), np.arange(5, dtype=np.float32)
    return jax.device_put(Trace(mean, np.int32(3), glanced), whole)  # type: ignore[arg-type]


def test_pages_are_cut_alike_by_prefill_and_decode_workers():
    assert partition(kv_pages.AXES, DECODE) == CUT


@pytest.mark.parametrize("lies", SPECS)
@pytest.mark.parametrize("wanted", SPECS)
@pytest.mark.parametrize(("own", "to"), WAYS)
def test_the_same_bytes_lie_as_the_receiver_wants_them(own: int, to: int, lies: str, wanted: str):
    """Heads that a mesh does not cut lie whole on each of its devices."""
    sender, receiver = mesh(0, own), mesh(4, to)
    lying = NamedSharding(sender, SPECS[lies])
    pages, trace = pages_on(lying), trace_on(NamedSharding(sender, WHOLE))
    sharding = NamedSharding(receiver, SPECS[wanted])
    arrived = Copies([lying, sharding]).start(Payload(pages, trace), sharding)
    assert arrived.pages.sharding == sharding
    np.testing.assert_array_equal(np.asarray(arrived.pages), np.asarray(pages))
    for shard in arrived.pages.addressable_shards:
        np.testing.assert_array_equal(shard.data, np.asarray(pages)[shard.index])
    assert arrived.trace is not None
    for leaf, there in zip(trace, arrived.trace, strict=True):
        assert there.sharding == NamedSharding(receiver, WHOLE)
        np.testing.assert_array_equal(np.asarray(there), np.asarray(leaf))


@pytest.mark.parametrize(("own", "to"), WAYS)
def test_a_mesh_sends_to_its_own_devices_as_well(own: int, to: int):
    """One that prefills for itself would, and warming up does."""
    lying, wanted = NamedSharding(mesh(0, own), CUT), NamedSharding(mesh(0, to), CUT)
    pages = pages_on(lying)
    arrived = Copies([lying, wanted]).start(Payload(pages, None), wanted)
    np.testing.assert_array_equal(np.asarray(arrived.pages), np.asarray(pages))
    assert arrived.trace is None


class Step:
    """A program of a mesh that ends when the test says so."""

    def __init__(self, sharding: NamedSharding) -> None:
        self._over = Signal()
        self._over.set()

        def wait(values: np.ndarray) -> np.ndarray:
            assert self._over.wait(60)
            return values

        def of_a_device(part: jax.Array) -> jax.Array:
            return jax.pure_callback(wait, jax.ShapeDtypeStruct(part.shape, part.dtype), part)

        spec = sharding.spec
        self._run: Callable[[jax.Array], jax.Array] = jax.jit(
            jax.shard_map(of_a_device, mesh=sharding.mesh, in_specs=spec, out_specs=spec)
        )

    def warm_up(self, pages: jax.Array) -> None:
        jax.block_until_ready(self._run(pages))

    def launch(self, pages: jax.Array) -> jax.Array:
        self._over.clear()
        return self._run(pages)

    def end(self) -> None:
        self._over.set()


# A program of one device that calls back is run as it is launched: there is no step to wait for.
@pytest.mark.parametrize(("own", "to"), [way for way in WAYS if way[0] > 1])
def test_a_copy_is_started_while_the_step_that_computes_it_runs(own: int, to: int):
    sharding, wanted = NamedSharding(mesh(0, own), CUT), NamedSharding(mesh(4, to), CUT)
    pages = pages_on(sharding)
    whole = Step(NamedSharding(mesh(0, own), WHOLE))
    step, mean = Step(sharding), jax.device_put(np.ones(3, np.float32), whole_on(sharding))
    connector = InProcessConnector({P0: sharding, D0: wanted})
    step.warm_up(pages)
    whole.warm_up(mean)
    connector.warm_up([Payload(pages, Trace(mean, mean, mean))])
    computed, trace = step.launch(pages), whole.launch(mean)
    started = Signal()

    def send() -> None:
        connector.send(FIRST, Payload(computed, Trace(trace, trace, trace)), D0)
        started.set()

    sender = Thread(target=send)
    try:
        sender.start()
        assert started.wait(30), "the sender waits for its own step"
        under_way: Any = computed  # the public type does not name what every array has
        assert not under_way.is_ready()
    finally:
        step.end()
        whole.end()
        sender.join()
    arrived = connector.take(FIRST)
    np.testing.assert_array_equal(np.asarray(arrived.pages), np.asarray(pages))
    assert arrived.trace is not None
    assert np.asarray(arrived.trace.mean).tolist() == [1, 1, 1]


def whole_on(sharding: NamedSharding) -> NamedSharding:
    return NamedSharding(sharding.mesh, WHOLE)


@pytest.mark.parametrize(("own", "to"), [way for way in WAYS if way[0] != way[1]])
def test_nothing_compiles_once_it_is_warm(own: int, to: int):
    sharding, wanted = NamedSharding(mesh(0, own), CUT), NamedSharding(mesh(4, to), CUT)
    connector = InProcessConnector({P0: sharding, D0: wanted})
    warm, trace = pages_on(sharding), trace_on(whole_on(sharding))
    connector.warm_up([Payload(warm, trace)])
    pages = pages_on(sharding, seed=1)
    with no_compiles():
        connector.send(FIRST, Payload(pages, trace), D0)
        arrived = connector.take(FIRST)
    np.testing.assert_array_equal(np.asarray(arrived.pages), np.asarray(pages))


@pytest.mark.parametrize("degree", DEGREES)
def test_shard_goes_to_shard_between_meshes_of_one_degree_without_a_program(degree: int):
    sender, receiver = mesh(0, degree), mesh(4, degree)
    values = np.arange(12 * 23, dtype=np.float32).reshape(12, 23)  # no other test sends its like
    lying, wanted = NamedSharding(sender, P(TENSOR)), NamedSharding(receiver, P(TENSOR))
    array = jax.device_put(values, lying)
    with no_compiles():
        arrived = Copies([lying, wanted]).start(Payload(array, None), wanted)
    np.testing.assert_array_equal(np.asarray(arrived.pages), values)
