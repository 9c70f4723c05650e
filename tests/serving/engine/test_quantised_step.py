"""Steps with quantised weights say what the oracle says with them, on one device and on two."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from model.attention.paged import BLOCKED
from model.generate import Sampling, generate, prompt_logits
from model.parameters import init_params
from model.sharding import DECODE, TENSOR, param_shardings
from predictor.saved import HeadSpec
from serving.core.plan import LoadSlot
from serving.engine.buckets import Bucket, Buckets
from serving.engine.executor import JaxExecutor
from serving.engine.probe import Probe
from serving.engine.programs import ExecutorSizes, Moves, Programs, Site, of_head
from serving.messages import Role
from tests.model.test_sharding import CONFIG
from tests.support.plans import NEUTRAL, chunk, plan, row, table

PAGE, MAX_PAGES = 4, 8
SIZES = ExecutorSizes(
    num_pages=20,
    page_size=PAGE,
    max_model_len=PAGE * MAX_PAGES,
    max_rows=2,
    max_chunk_tokens=8,
    max_chunk_rows=1,
)
TOKENS = [5, 9, 40, 3, 3, 17, 41, 2]
PAGES = table(range(1, 3), MAX_PAGES)


def site(config, degree, probe=None):
    mesh = Mesh(np.array(jax.devices()[4 : 4 + degree]), (TENSOR,))
    return Site(config, mesh, DECODE, SIZES, BLOCKED, probe)


def chunk_scores(config, params, degree):
    """Run one compiled step over `TOKENS`; return the log-probability of each but the first."""
    where, bucket = site(config, degree), Bucket(0, 8, 1)
    programs = Programs(where, Buckets((bucket,), ()), constrains=False, offloads=False)
    programs.compile(lambda done: None)
    there = jax.device_put(params, param_shardings(config, where.mesh, DECODE))
    step = plan((), [chunk(0, 0, TOKENS, PAGES)], max_pages=MAX_PAGES)
    pool = jax.device_put(jnp.zeros(where.pool_shape), where.pool_sharding)
    state = jax.device_put(where.empty_slots(), where.replicated)
    packed = where.layout(bucket).pack(step)
    _, _, output = programs.step[bucket](pool, state[0], there, {}, state[1], packed)
    targets = np.array([*TOKENS[1:], 0], np.int32)
    scored = programs.targets[bucket.tokens](of_head(there), output.hidden, targets)
    return np.asarray(scored)[:-1, 0].view(np.float32)


@pytest.mark.slow
def test_one_device_and_two_give_the_scores_of_the_quantised_weights():
    config = replace(CONFIG, quantize="int8")
    params = init_params(config, jax.random.key(7))
    one, two = (chunk_scores(config, params, degree) for degree in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)
    scores = jax.nn.log_softmax(prompt_logits(params, config, TOKENS))
    wanted = np.asarray(scores)[range(len(TOKENS) - 1), TOKENS[1:]]
    np.testing.assert_allclose(one, wanted, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["int8", "fp8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tokens_equal_the_oracle_beside_a_length_head(form, dtype):
    config = replace(CONFIG, quantize=form, dtype=dtype)
    params = init_params(config, jax.random.key(7))
    params["head"] = params["head"] * 40  # so that the model says something
    spec = HeadSpec("hazard", (8,), 256, (1,), config.hidden_size, "weights", "tokens", 4)
    head = spec.build().init(jax.random.key(3), spec.num_features)
    where = site(config, 2, Probe(spec))
    there = jax.device_put(params, param_shardings(config, where.mesh, DECODE))
    executor = JaxExecutor(there, where, Role.BOTH, moves=Moves.NOWHERE, head_weights=head)
    executor.warm_up(lambda done: None)
    executor.load_slot(LoadSlot(0, NEUTRAL, tuple(TOKENS), (), 0))
    pages = table(range(1, 1 + MAX_PAGES), MAX_PAGES)

    def run(rows, chunks):
        step = plan(rows, chunks, max_pages=MAX_PAGES, reads=True)
        return executor.collect(executor.launch(step))

    found = run((), [chunk(0, 0, TOKENS, pages)]).chunk_ids
    for i in range(19):
        result = run([row(0, len(TOKENS) + i, pages, reply_index=1 + i)], ())
        found += result.decode_ids
        assert result.decode_readings is not None
        assert np.isfinite(result.decode_readings).all()
    assert tuple(found) == generate(params, config, TOKENS, Sampling(), 20).tokens
    assert len(set(found)) > 3
