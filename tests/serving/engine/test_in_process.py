"""What the connector inside one process keeps, and for whom."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from serving.engine.connectors.in_process import InProcessConnector
from serving.messages import TransferId, WorkerId
from tests.support.compiles import no_compiles

P0, D0, D1 = WorkerId("p0"), WorkerId("d0"), WorkerId("d1")
FIRST, SECOND = TransferId(P0, 1), TransferId(P0, 2)


@pytest.fixture
def connector() -> InProcessConnector:
    def on(device: int) -> NamedSharding:
        return NamedSharding(Mesh(np.array(jax.devices()[device : device + 1]), ("x",)), spec)

    spec = PartitionSpec()
    return InProcessConnector({P0: on(0), D0: on(1), D1: on(2)})


def test_a_payload_arrives_on_its_receivers_devices_and_is_taken_once(connector):
    assert connector.send(FIRST, jnp.arange(3), D1) == 12
    taken = connector.take(FIRST)
    assert taken.devices() == {jax.devices()[2]}
    assert taken.tolist() == [0, 1, 2]
    with pytest.raises(KeyError):
        connector.take(FIRST)


def test_what_was_sent_to_a_lost_worker_is_let_go_and_what_its_peers_wait_for_is_not(connector):
    connector.send(FIRST, jnp.arange(3), D0)
    connector.send(SECOND, jnp.arange(3), D1)
    connector.lose(D0)
    assert len(connector) == 1
    assert connector.take(SECOND).tolist() == [0, 1, 2]


def test_nothing_is_kept_for_a_worker_that_was_lost_before(connector):
    connector.lose(D0)
    with pytest.raises(KeyError):
        connector.send(FIRST, jnp.arange(3), D0)
    assert len(connector) == 0


def test_a_copy_to_a_mesh_of_another_degree_compiles_nothing_once_it_is_warm():
    one = NamedSharding(Mesh(np.array(jax.devices()[4:5]), ("x",)), PartitionSpec())
    two = NamedSharding(Mesh(np.array(jax.devices()[5:7]), ("x",)), PartitionSpec("x"))
    connector = InProcessConnector({P0: one, D0: two})
    payload = jax.device_put(np.arange(26.0), one)  # of a size that no other test sends
    connector.warm_up([payload])
    with no_compiles():
        connector.send(FIRST, payload, D0)
        taken = connector.take(FIRST)
    assert taken.sharding == two
    assert taken.tolist() == list(range(26))
