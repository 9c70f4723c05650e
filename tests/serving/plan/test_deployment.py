"""Deployments in words, in part, and as settings."""

import pytest

from serving.plan.deployment import Deployment, configure, shrink
from tests.serving.plan.requests import ask


def deployment(prefills: int, decodes: int, *, prefill_tp: int = 1) -> Deployment:
    return Deployment(
        prefill_workers=prefills,
        prefill_tp=prefill_tp,
        decode_workers=decodes,
        decode_tp=2,
        max_num_seqs=48,
        max_num_batched_tokens=1024,
        prefill_pages=0,
        decode_pages=10,
        kv_tokens=1000.0,
        row_tokens=300.0,
        token_s=0.01,
    )


def test_names():
    assert str(deployment(2, 3, prefill_tp=4)) == "2 x TP4 prefill + 3 x TP2 decode"
    assert str(deployment(0, 3)) == "3 x TP2 colocated"
    assert deployment(2, 3, prefill_tp=4).gpus == 14


def test_room_beside_the_rows():
    assert deployment(0, 1).idle_room(2.0) == 400.0
    assert deployment(0, 1).idle_room(20.0) == 0.0


@pytest.mark.parametrize(
    ("whole", "part", "times"),
    [
        pytest.param((2, 2), (2, 2), 1.0, id="small enough"),
        pytest.param((0, 20), (0, 4), 5.0, id="colocated"),
        pytest.param((10, 30), (1, 3), 10.0, id="a divisor"),
        pytest.param((20, 20), (2, 2), 10.0, id="the largest divisor"),
        pytest.param((11, 30), (1, 3), 10.0, id="what is left over"),
        pytest.param((1, 30), (1, 3), 1.0, id="one that cannot be divided"),
    ],
)
def test_slices(whole: tuple[int, int], part: tuple[int, int], times: float):
    small, how_often = shrink(deployment(*whole), 4)
    assert (small.prefill_workers, small.decode_workers) == part
    assert how_often == times


def test_settings_of_a_deployment():
    base = ask().config
    server = configure(base, deployment(2, 3, prefill_tp=4)).server
    assert (server.mesh.prefill_workers, server.mesh.decode_workers) == (2, 3)
    assert (server.mesh.prefill_tp, server.mesh.decode_tp) == (4, 2)
    assert (server.batch.max_num_seqs, server.batch.max_num_batched_tokens) == (48, 1024)
    assert server.batch.min_prefill_tokens == base.server.batch.min_prefill_tokens
