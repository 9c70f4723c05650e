"""Warm executors of a tiny model on four mesh configurations, compiled once for all tests."""

from pathlib import Path

import pytest

from serving.config import MeshConfig
from serving.engine.compile_cache import keep_compiled
from serving.engine.executor import JaxExecutor
from serving.messages import Role
from tests.support.one_executor import make
from tests.support.tiny_cluster import Cluster
from tests.support.tiny_head import head_spec


@pytest.fixture(scope="session", autouse=True)
def kept_programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clusters of equal sizes compile what they share once, as a server does."""
    directory = tmp_path_factory.mktemp("compiled")
    keep_compiled(directory, least_seconds=0.0)
    return directory


@pytest.fixture(scope="session")
def colocated(kept_programs: Path) -> Cluster:
    return Cluster(MeshConfig(prefill_workers=0, decode_workers=1))


@pytest.fixture(scope="session")
def split(kept_programs: Path) -> Cluster:
    """Different degrees on the two sides: every transfer reshards."""
    return Cluster(MeshConfig(prefill_workers=1, decode_workers=2, prefill_tp=2, decode_tp=1))


@pytest.fixture(scope="session")
def peers(kept_programs: Path) -> Cluster:
    """Workers that do both, and can prefill for each other."""
    return Cluster(MeshConfig(prefill_workers=0, decode_workers=3))


@pytest.fixture(scope="session")
def wide_decode(kept_programs: Path) -> Cluster:
    """Two workers of different degrees with a length head, either of which could be the other."""
    mesh = MeshConfig(prefill_workers=1, decode_workers=1, prefill_tp=1, decode_tp=2)
    return Cluster(mesh, any_role=True, head=head_spec())


@pytest.fixture(scope="session")
def whole_executor(kept_programs: Path) -> JaxExecutor:
    """One device that does everything, without a batcher."""
    return make(Role.BOTH, 0, 1)


@pytest.fixture(scope="session")
def split_executor(kept_programs: Path) -> JaxExecutor:
    """Two devices that decode, without a batcher."""
    return make(Role.DECODE, 2, 2)
