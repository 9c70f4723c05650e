import jax
import pytest

from serving.config import MeshConfig
from serving.engine.meshes import MeshError, make_meshes
from serving.messages import Role
from tests.model.test_sharding import CONFIG


def test_workers_get_disjoint_devices_prefill_first():
    config = MeshConfig(prefill_workers=2, decode_workers=1, prefill_tp=2, decode_tp=4)
    meshes = make_meshes(config, CONFIG, jax.devices())
    assert [mesh.worker for mesh in meshes] == ["prefill-0", "prefill-1", "decode-0"]
    assert [mesh.mesh.size for mesh in meshes] == [2, 2, 4]
    owned = [device.id for mesh in meshes for device in mesh.mesh.devices.flat]
    assert owned == list(range(8))


def test_without_prefill_workers_the_others_do_both():
    config = MeshConfig(prefill_workers=0, decode_workers=2)
    assert [mesh.role for mesh in make_meshes(config, CONFIG, jax.devices())] == [Role.BOTH] * 2


def test_too_few_devices_is_one_line_with_both_numbers():
    config = MeshConfig(prefill_workers=1, decode_workers=2, prefill_tp=1, decode_tp=4)
    with pytest.raises(MeshError, match=r"need 9 devices .* has 8$"):
        make_meshes(config, CONFIG, jax.devices())


def test_a_degree_that_does_not_fit_names_the_flag():
    with pytest.raises(MeshError, match=r"^--decode-tp 3: .* 4 key-value heads$"):
        make_meshes(MeshConfig(decode_workers=1, decode_tp=3), CONFIG, jax.devices())
    config = MeshConfig(prefill_workers=1, decode_workers=1, prefill_tp=8)
    with pytest.raises(MeshError, match=r"^--prefill-tp 8: "):
        make_meshes(config, CONFIG, jax.devices())
