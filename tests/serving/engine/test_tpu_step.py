"""The engine's whole step on a TPU: it lowers without one, and says what other backends say."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from model.attention.tpu import RAGGED
from model.generate import Sampling, generate
from model.parameters import abstract_params, init_params
from model.sharding import DECODE, TENSOR, param_partitions, param_shardings, partition
from serving.core.plan import LoadSlot
from serving.engine import slots
from serving.engine.buckets import Bucket
from serving.engine.executor import JaxExecutor
from serving.engine.layout import StepLayout
from serving.engine.programs import ExecutorSizes, Moves, Site
from serving.engine.steps import Step
from serving.messages import Role
from tests.model.attention.test_tpu import STAND_IN
from tests.model.test_sharding import CONFIG
from tests.support import tpus
from tests.support.plans import NEUTRAL, chunk, plan, row, table

WIDE = replace(CONFIG, head_dim=128, dtype="bfloat16", sliding_window=100)
NUM_SLOTS, PAGE, PAGES = 9, 16, 20


@pytest.mark.parametrize("kind", tpus.KINDS)
@pytest.mark.parametrize(
    ("bucket", "devices", "quantize"),
    [
        (Bucket(8, 32, 2), 2, "int8"),
        pytest.param(Bucket(8, 0, 0), 1, None, marks=pytest.mark.slow),
        pytest.param(Bucket(0, 32, 2), 4, "fp8", marks=pytest.mark.slow),
    ],
    ids=["mixed", "decode", "prefill"],
)
def test_a_whole_step_lowers_for_tpus(kind, bucket, devices, quantize):
    config = replace(WIDE, quantize=quantize)
    layout = StepLayout(bucket, max_pages=8, scratch_slot=NUM_SLOTS - 1)
    step = Step(config, layout, PAGE, RAGGED, TENSOR, unroll=False, probe=None)
    shape = RAGGED.pool_shape(config, num_pages=PAGES, page_size=PAGE)
    pool = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    history, settings = jax.eval_shape(lambda: slots.empty(NUM_SLOTS, config.vocab_size, None))
    packed = jax.ShapeDtypeStruct((layout.size,), jnp.int32)
    mesh = tpus.mesh(kind, devices)
    pool_spec = partition(RAGGED.pool_axes, DECODE)
    program = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(pool_spec, P(), param_partitions(config, DECODE), P(), P(), P()),
        out_specs=(pool_spec, P(), P()),
        check_vma=False,
    )
    arguments = (pool, history, abstract_params(config), {}, settings, packed)
    text = tpus.lowered(jax.jit(program, donate_argnums=(0, 1)), *arguments, on=mesh)
    assert text.count("tpu_custom_call") == 1  # all layers run the same loop
    assert ("xi8>" in text, "xf8E4M3FN>" in text) == (quantize == "int8", quantize == "fp8")


@pytest.mark.slow
def test_tokens_equal_the_oracle_and_pages_can_move():
    """With JAX's reference in the kernel's place, on a CPU."""
    sizes = ExecutorSizes(
        num_pages=33,
        page_size=4,
        max_model_len=64,
        max_rows=2,
        max_chunk_tokens=16,
        max_chunk_rows=2,
    )
    config = replace(CONFIG, sliding_window=9)
    params = init_params(config, jax.random.key(0))
    params["head"] = params["head"] * 40  # so that the model says something
    mesh = Mesh(np.array(jax.devices()[:1]), (TENSOR,))
    there = jax.device_put(params, param_shardings(config, mesh, DECODE))
    site = Site(config, mesh, DECODE, sizes, STAND_IN)
    executor = JaxExecutor(there, site, Role.BOTH, moves=Moves.TO_WORKERS)
    executor.warm_up(lambda done: None)  # steps of padding alone among them

    def run(rows, chunks):
        return executor.collect(executor.launch(plan(rows, chunks, max_pages=16)))

    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4]
    executor.load_slot(LoadSlot(0, NEUTRAL, tuple(prompt), (), 0))
    one, other = (table(range(first, first + 16), 16) for first in (1, 17))
    run((), [chunk(0, 0, prompt[:13], one, sample=False)])
    found = run((), [chunk(0, 13, prompt[13:], one)]).chunk_ids
    executor.scatter(executor.gather(one[:5].tolist()), other[:5].tolist())
    for i in range(20):
        found += run([row(0, 20 + i, other, reply_index=1 + i)], ()).decode_ids
    assert tuple(found) == generate(params, config, prompt, Sampling(), 21).tokens
    assert len(set(found)) > 5
