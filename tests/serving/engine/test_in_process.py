"""What the connector inside one process keeps, and for whom, and when it says that it is here."""

import time
import weakref
from collections.abc import Callable
from functools import partial
from threading import Event as Signal
from threading import Thread

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from serving.engine.connectors.connector import Payload
from serving.engine.connectors.copies import Copies
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.probe import Trace
from serving.messages import TransferId, WorkerId
from tests.support.compiles import no_compiles
from tests.support.underway import Underway

P0, D0, D1 = WorkerId("p0"), WorkerId("d0"), WorkerId("d1")
FIRST, SECOND = TransferId(P0, 1), TransferId(P0, 2)
PAGES = Payload(jnp.arange(3, dtype=jnp.int32), None)


@pytest.fixture
def connector() -> InProcessConnector:
    def on(device: int) -> NamedSharding:
        return NamedSharding(Mesh(np.array(jax.devices()[device : device + 1]), ("x",)), spec)

    spec = PartitionSpec()
    return InProcessConnector({P0: on(0), D0: on(1), D1: on(2)})


def test_a_payload_arrives_on_its_receivers_devices_and_is_taken_once(connector):
    assert connector.send(FIRST, PAGES, D1) == 12
    taken = connector.take(FIRST)
    assert taken.pages.devices() == {jax.devices()[2]}
    assert taken.pages.tolist() == [0, 1, 2]
    assert taken.trace is None
    with pytest.raises(KeyError):
        connector.take(FIRST)


def test_what_was_sent_to_a_lost_worker_is_let_go_and_what_its_peers_wait_for_is_not(connector):
    connector.send(FIRST, PAGES, D0)
    connector.send(SECOND, PAGES, D1)
    connector.lose(D0)
    assert len(connector) == 1
    assert connector.take(SECOND).pages.tolist() == [0, 1, 2]


def test_nothing_is_kept_for_a_worker_that_was_lost_before(connector):
    connector.lose(D0)
    with pytest.raises(KeyError):
        connector.send(FIRST, PAGES, D0)
    assert len(connector) == 0


@pytest.fixture
def uncopied(monkeypatch) -> None:
    """What is sent is what arrives: an array that is under way until the test says otherwise."""
    monkeypatch.setattr(Copies, "start", lambda copies, payload, sharding: payload)


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(3000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def under_way() -> tuple[Underway, Payload]:
    pages = Underway()
    return pages, Payload(pages, None)  # type: ignore[arg-type]


def test_a_payload_is_here_when_it_has_been_computed_and_nobody_waits_for_that(uncopied, connector):
    (pages, payload), here = under_way(), Signal()
    connector.send(FIRST, payload, D0)
    connector.when_here(FIRST, here.set, computed=False)
    assert not here.is_set()
    pages.ends()
    assert here.wait(30)
    assert connector.take(FIRST).pages is pages


@pytest.mark.parametrize("breaks", [False, True])
def test_who_takes_what_was_told_early_waits_for_it_and_hears_what_broke_it(
    uncopied, connector, breaks: bool
):
    (pages, payload), told, taken = under_way(), [], []
    connector.send(FIRST, payload, D0)
    connector.when_here(FIRST, partial(told.append, FIRST), computed=True)
    assert told == [FIRST]

    def take() -> None:
        try:
            taken.append(connector.take(FIRST).pages)
        except RuntimeError as error:
            taken.append(error)

    taker = Thread(target=take)
    taker.start()
    taker.join(0.05)
    assert taken == []
    error = RuntimeError("the copy has broken") if breaks else None
    pages.ends(error)
    taker.join(30)
    assert taken == [error or pages]
    assert len(connector) == 0


def test_what_is_told_early_is_told_behind_what_is_under_way(uncopied, connector):
    (pages, payload), told, over = under_way(), [], Signal()
    connector.send(FIRST, payload, D0)
    connector.send(SECOND, PAGES, D0)
    connector.when_here(FIRST, partial(told.append, FIRST), computed=False)
    connector.when_here(SECOND, lambda: (told.append(SECOND), over.set()), computed=True)
    assert told == []
    pages.ends()
    assert over.wait(30)
    assert told == [FIRST, SECOND]


def test_what_a_device_has_yet_to_compute_and_copy_is_here_once_it_is(connector):
    big = jax.device_put(jnp.ones((1000, 1000)), jax.devices()[0])
    told, here = [], Signal()
    connector.send(FIRST, Payload(jax.jit(lambda x: x @ x @ x)(big), None), D0)

    def note() -> None:
        arrived = connector.take(FIRST).pages
        told.append(arrived.is_ready() and float(arrived[0, 0]) == 1e6)
        here.set()

    connector.when_here(FIRST, note, computed=False)
    assert here.wait(30)
    assert told == [True]


def test_payloads_of_one_way_are_told_in_turn_and_those_of_another_before(uncopied, connector):
    (pages, payload), told, over = under_way(), [], Signal()
    other = TransferId(D1, 1)
    connector.send(FIRST, payload, D0)
    connector.send(SECOND, PAGES, D0)
    connector.send(other, PAGES, D0)
    connector.when_here(FIRST, lambda: told.append(FIRST), computed=False)
    connector.when_here(SECOND, lambda: (told.append(SECOND), over.set()), computed=False)
    jax.block_until_ready(PAGES.pages)
    there = Signal()
    connector.when_here(other, lambda: (told.append(other), there.set()), computed=False)
    assert there.wait(30)
    assert told == [other]
    pages.ends()
    assert over.wait(30)
    assert told == [other, FIRST, SECOND]


def test_what_is_unknown_is_told_at_once_and_cannot_be_taken(connector):
    here = Signal()
    connector.when_here(FIRST, here.set, computed=False)
    assert here.is_set()
    with pytest.raises(KeyError):
        connector.take(FIRST)


def test_a_payload_whose_step_breaks_is_told_and_taking_it_says_why(uncopied, connector):
    (pages, payload), here = under_way(), Signal()
    connector.send(FIRST, payload, D0)
    connector.when_here(FIRST, here.set, computed=False)
    pages.ends(RuntimeError("the step has broken"))
    assert here.wait(30)
    with pytest.raises(RuntimeError, match="the step has broken"):
        connector.take(FIRST)
    assert len(connector) == 0


@pytest.mark.parametrize("let_go", ["dropped", "its receiver is lost"])
def test_a_payload_that_is_let_go_while_it_is_under_way_leaves_nothing(
    uncopied, connector, let_go: str
):
    (pages, payload), here = under_way(), Signal()
    connector.send(FIRST, payload, D0)
    connector.when_here(FIRST, here.set, computed=False)
    if let_go == "dropped":
        connector.drop(FIRST)
    else:
        connector.lose(D0)
    pages.ends(RuntimeError("the step has broken"))
    assert here.wait(30), "who asked is told all the same"
    assert len(connector) == 0
    with pytest.raises(KeyError):
        connector.take(FIRST)


def test_nothing_is_kept_of_what_has_yet_to_come_from_a_lost_worker(uncopied, connector):
    """Its device may never answer; what it has sent before is there, and is taken."""
    (pages, payload), told, there = under_way(), [], TransferId(P0, 3)
    (other, others), own = under_way(), TransferId(D1, 1)
    connector.send(FIRST, payload, D0)
    connector.send(SECOND, PAGES, D0)
    connector.send(there, PAGES, D1)
    connector.send(own, others, D0)
    jax.block_until_ready(PAGES.pages)
    for transfer in (FIRST, SECOND, there, own):
        connector.when_here(
            transfer, lambda transfer=transfer: told.append(transfer), computed=False
        )
    left = weakref.ref(payload.pages)
    connector.lose(P0)
    assert told == [there]
    assert connector.take(there).pages.tolist() == [0, 1, 2]
    assert len(connector) == 1, "what others send is still to come"
    other.ends()
    pages.ends()
    wait_until(lambda: told[1:] in ([own, FIRST], [FIRST, own]))
    assert connector.take(own).pages is other
    del pages, payload
    wait_until(lambda: left() is None)
    assert told.count(SECOND) == 0, "all are told of the loss, and nobody of it"
    assert len(connector) == 0


@pytest.mark.parametrize("way", ["1-to-2", "2-to-1"])
def test_a_copy_to_a_mesh_of_another_degree_compiles_nothing_once_it_is_warm(way: str):
    """Pages are cut as the receiver cuts them, what the length head remembers lies whole."""
    devices = np.array(jax.devices()[4:7])
    meshes = [Mesh(some, ("x",)) for some in (devices[:1], devices[1:])]
    one, two = meshes if way == "1-to-2" else reversed(meshes)
    whole = NamedSharding(one, PartitionSpec())
    cut, wanted = (NamedSharding(mesh, PartitionSpec("x")) for mesh in (one, two))
    connector = InProcessConnector({P0: cut, D0: wanted})
    mean = np.arange(22, dtype=np.float32).reshape(2, 11)  # of sizes that no other test sends
    glanced = np.arange(23, dtype=np.float32)
    trace = jax.device_put(Trace(mean, np.int32(3), glanced), whole)  # type: ignore[arg-type]
    payload = Payload(jax.device_put(np.arange(26.0), cut), trace)
    connector.warm_up([payload])
    with no_compiles():
        assert connector.send(FIRST, payload, D0) == payload.pages.nbytes + 22 * 4 + 4 + 23 * 4
        pages, arrived = connector.take(FIRST)
    assert pages.sharding == wanted
    assert pages.tolist() == list(range(26))
    assert arrived is not None
    assert arrived.mean.sharding == arrived.num.sharding == NamedSharding(two, PartitionSpec())
    assert (arrived.mean.tolist(), int(arrived.num)) == (mean.tolist(), 3)
    assert arrived.glanced.tolist() == glanced.tolist()
