"""What the connector inside one process keeps, and for whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from serving.engine.connectors.connector import Payload
from serving.engine.connectors.in_process import InProcessConnector
from serving.engine.probe import Trace
from serving.messages import TransferId, WorkerId
from tests.support.compiles import no_compiles

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
