"""One worker's executor of a tiny model without any scheduler: steps by hand.

Its head is untied from its embedding, so that a token may be unreadable and still be scored.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from model.apart import apart
from model.attention.backend import Backend
from model.attention.paged import BLOCKED
from model.parameters import init_params
from model.sharding import DECODE, TENSOR, param_shardings
from serving.core.plan import LoadSlot
from serving.engine.executor import JaxExecutor
from serving.engine.programs import ExecutorSizes, Moves, Site
from tests.model.test_sharding import CONFIG
from tests.support.plans import NEUTRAL, chunk, plan, row, table

PAGE, MAX_PAGES = 4, 16
SIZES = ExecutorSizes(
    num_pages=64,
    page_size=PAGE,
    max_model_len=PAGE * MAX_PAGES,
    max_rows=2,
    max_chunk_tokens=16,
    max_chunk_rows=2,
)
PARAMS = init_params(CONFIG, jax.random.key(0))
# Larger than life, so that the most likely token changes from place to place.
PARAMS["head"] = PARAMS["head"] * 40


def make(role, first_device, degree, table=DECODE, backend: Backend = BLOCKED):
    mesh = Mesh(np.array(jax.devices()[first_device : first_device + degree]), (TENSOR,))
    site = Site(CONFIG, mesh, table, SIZES, backend)
    executor = JaxExecutor(
        placed(PARAMS, site),
        site,
        role,
        moves=Moves.TO_HOST,
    )
    executor.warm_up(lambda done: None)
    return executor


def placed(params, site):
    """Copy parameters to a site's mesh, as its executor wants them."""
    there = jax.device_put(params, param_shardings(site.config, site.mesh, site.table))
    return apart(jax.tree.map(jnp.copy, there)) if site.unrolls else there


def prompt(length, seed=0):
    return np.random.default_rng(seed).integers(0, CONFIG.vocab_size, length).tolist()


def pages(first, count=MAX_PAGES):
    return table(range(first, first + count), MAX_PAGES)


def run(executor, *steps, logprobs=False):
    """Launch steps without waiting in between, then collect them all."""
    made = [plan(*step, max_pages=MAX_PAGES, logprobs=logprobs) for step in steps]
    return [executor.collect(pending) for pending in [executor.launch(one) for one in made]]


def prefill(executor, slot, tokens, where, *, cut=16, sampling=NEUTRAL, logprobs=False):
    """Prefill in chunks of `cut`; returns the last step's result."""
    executor.load_slot(LoadSlot(slot, sampling, tuple(tokens), (), 0))
    steps = [
        ((), [chunk(slot, i, tokens[i : i + cut], where, sample=i + cut >= len(tokens))])
        for i in range(0, len(tokens), cut)
    ]
    return run(executor, *steps, logprobs=logprobs)[-1]


def decode(executor, slot, position, where, count, *, reply_index=1, logprobs=False):
    steps = [
        ([row(slot, position + i, where, reply_index=reply_index + i)], ()) for i in range(count)
    ]
    return run(executor, *steps, logprobs=logprobs)


def ids(results):
    return [result.decode_ids[0] for result in results]
