"""What steps of padding took speaks for every size that is padded to them."""

import time

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from model.sharding import DECODE, TENSOR
from serving.costs.correction import Corrected, Correction
from serving.costs.padded import Padded
from serving.engine.buckets import Bucket, make_buckets
from serving.engine.build import ColdWorker, assemble
from serving.engine.meshes import WorkerMesh
from serving.engine.warm_times import warm_times
from serving.messages import Role, WorkerId
from tests.support.fake_costs import LinearCosts
from tests.support.one_executor import make
from tests.support.rules import batcher_rules
from tests.support.tiny_cluster import LIMITS

SIZES = {"min_rows": 1, "max_rows": 48, "max_tokens": 512, "max_chunks": 4, "max_pages": 0}
DESCRIBED = LinearCosts(base_s=0.001, new_s=1e-5, row_s=1e-4)


def took(bucket: Bucket) -> float:
    """Not what is described, and not by one factor for all."""
    return 0.003 + 2e-5 * bucket.tokens + 1.5e-4 * bucket.rows


@pytest.mark.parametrize("role", list(Role))
def test_every_size_is_predicted_as_its_program_was_timed(role: Role):
    buckets = make_buckets(role, **SIZES)
    costs = Padded(DESCRIBED, buckets.pad)
    correction = Correction()
    correction.observe_all(
        warm_times(costs, buckets, {bucket: [took(bucket)] for bucket in buckets.steps})
    )
    corrected = Corrected(costs, correction)
    own_rows = [0] if role is Role.PREFILL else [1, 2, 3, 13, 20, 48]
    for rows in own_rows:
        for tokens in (0, 1, 20, 32, 40, 256, 300, 512):
            if rows + tokens == 0 or (role is Role.DECODE and not rows and tokens > 32):
                continue  # a decode worker has rows beside all but its smallest chunks
            seconds = corrected.mixed(rows, rows, tokens, 0).seconds
            if not tokens:
                seconds = corrected.decode(rows, rows).seconds
            elif not rows:
                seconds = corrected.prefill(tokens, 0).seconds
            bucket = buckets.fit(rows=rows, tokens=tokens, chunks=min(tokens, 1))
            assert seconds == pytest.approx(took(bucket)), (rows, tokens)


def test_what_repeats_differ_by_is_the_error_that_is_left():
    buckets = make_buckets(Role.PREFILL, **SIZES)
    costs = Padded(DESCRIBED, buckets.pad)

    def error(*seconds: float) -> float:
        correction = Correction()
        padding_s = dict.fromkeys(buckets.steps, seconds)
        correction.observe_all(warm_times(costs, buckets, padding_s))
        return Corrected(costs, correction).prefill(512, 0).error

    assert error(0.01) == 0.0
    assert 0.05 < error(0.009, 0.01, 0.011) < 0.15


def test_workers_are_assembled_with_the_times_of_their_own_programs():
    executor = make(Role.BOTH, 0, 1)
    mesh = WorkerMesh(
        WorkerId("w"), Role.BOTH, Mesh(np.array(jax.devices()[:1]), (TENSOR,)), DECODE
    )
    cold = ColdWorker(mesh, LIMITS, batcher_rules(), executor)
    (warm,) = assemble([cold], lambda leaving: None, time.monotonic)
    costs = cold.rules.costs
    assert list(warm.timed) == warm_times(costs, executor.buckets, executor.padding_s)
    told = Correction()
    told.observe_all(warm.timed)
    known = warm.worker.batcher._state.clock.corrected
    assert known.decode(1, 1) == Corrected(costs, told).decode(1, 1) != costs.decode(1, 1)
