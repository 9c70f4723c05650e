"""Warm executors of a tiny model on three mesh configurations, compiled once for all tests."""

import pytest

from serving.config import MeshConfig
from tests.support.tiny_cluster import Cluster


@pytest.fixture(scope="session")
def colocated() -> Cluster:
    return Cluster(MeshConfig(prefill_workers=0, decode_workers=1))


@pytest.fixture(scope="session")
def split() -> Cluster:
    """Different degrees on the two sides: every transfer reshards."""
    return Cluster(MeshConfig(prefill_workers=1, decode_workers=2, prefill_tp=2, decode_tp=1))


@pytest.fixture(scope="session")
def wide_decode() -> Cluster:
    """Two workers of different degrees, either of which could do the other's work."""
    mesh = MeshConfig(prefill_workers=1, decode_workers=1, prefill_tp=1, decode_tp=2)
    return Cluster(mesh, any_role=True)
