"""Does the device compute what it should, before anybody looks at how fast? Against the reference.

Attention over ragged rows in the model's dtype, against the reference in float32 on the same
values; and greedy tokens of a small model, from the engine's steps and from the oracle, both in
float32 without shortcuts in its matmuls. What is compared with is computed on the processor: there
it depends on nothing that is in question, and compiles in no time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.h200.part import alone
from benchmarks.h200.rig import PAGE_SIZE, DisagreementError, Rig
from model.apart import apart
from model.attention.backend import Backend
from model.attention.contained import contained
from model.attention.inputs import StepInputs, places
from model.attention.paged import REFERENCE
from model.config import ModelConfig
from model.generate import Sampling, generate
from model.parameters import init_params
from model.sharding import DECODE, param_shardings
from serving.engine import raw_loop
from serving.engine.buckets import Bucket, Buckets
from serving.engine.executor import JaxExecutor
from serving.engine.programs import ExecutorSizes, Moves, Site
from serving.messages import Role

PASTS = (0, 1, 15, 16, 17, 300)
CHUNKS = ((0, 1), (16, 40), (250, 33))  # past and new tokens
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.03}
"""Most that an output may differ, of values around 1 and below: bfloat16 keeps 8 bits of each."""
PROMPT_LEN, REPLY_LEN = 21, 24
SMALL = {"num_layers": 2, "hidden_size": 256, "intermediate_size": 512, "vocab_size": 512}


def _agreement(rig: Rig) -> dict[str, Any]:
    """Compare with the reference; raises DisagreementError if they differ."""
    rig.say("attention")
    errors = {
        str(window): _attention_error(rig.config, rig.attention, window)
        for window in dict.fromkeys((None, 64, rig.config.sliding_window))
    }
    most = TOLERANCE[rig.config.dtype]
    if max(errors.values()) > most:
        raise DisagreementError(
            f"attention {rig.attention.name}: {max(errors.values()):.2g} off the reference,"
            f" more than {most:g}"
        )
    rig.say("greedy tokens")
    with _exact_matmuls():
        got, wanted = _tokens(rig)
    if got != wanted:
        place = next(i for i, (a, b) in enumerate(zip(got, wanted, strict=True)) if a != b)
        raise DisagreementError(
            f"attention {rig.attention.name}: token {place} of a greedy reply is {got[place]}, the"
            f" oracle says {wanted[place]}"
        )
    return {"attention_error_by_window": errors, "tolerance": most, "tokens": len(got)}


def _attention_error(config: ModelConfig, backend: Backend, window: int | None) -> float:
    """Return the largest difference of any output from the reference's."""
    inputs = _ragged_rows()
    num_chunk_tokens = int(inputs.chunk_len.sum())
    total = len(PASTS) + num_chunk_tokens
    heads, group, size = config.num_kv_heads, config.queries_per_kv, config.head_dim
    num_pages = 1 + int(max(inputs.decode_pages.max(), inputs.chunk_pages.max()))
    one_layer = replace(config, num_layers=1)
    dtype = jnp.dtype(config.dtype)
    before = _pasts_as_chunks(inputs)

    def drawn(count: int, seed: int) -> list[np.ndarray]:
        """Draw queries, keys and values of so many tokens."""
        shapes = [(count, heads, group, size), (count, heads, size), (count, heads, size)]
        random = np.random.default_rng(seed)
        return [random.standard_normal(shape, np.float32).astype(dtype) for shape in shapes]

    @partial(jax.jit, static_argnums=(0, 1))
    def step(
        by: Backend, chunk_tokens: int, pool: jax.Array, inputs: StepInputs, *qkv: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Attend in one layer; returns the pool and what came out."""
        where = places(inputs, num_chunk_tokens=chunk_tokens, page_size=PAGE_SIZE)
        attention = by.over(pool, inputs, where, group=group, window=window)
        kv, out = contained(attention.attend)(attention.kv, jnp.int32(0), *qkv)
        return attention.store(kv), out.astype(jnp.float32)

    def attended(by: Backend, dtype: jnp.dtype) -> jax.Array:
        """Let the backend write the pasts in a step of its own, then attend over them."""
        shape = by.pool_shape(one_layer, num_pages=num_pages, page_size=PAGE_SIZE)
        kept_as = dtype if config.kept_as == config.dtype else jnp.dtype(config.kept_as)
        pool, past = jnp.zeros(shape, kept_as), int(before.chunk_len.sum())
        new = [jnp.asarray(x, dtype) for x in drawn(past, 1)]
        pool, _ = step(by, past, pool, before, *new)
        now = [jnp.asarray(x, dtype) for x in drawn(total, 2)]
        return step(by, num_chunk_tokens, pool, inputs, *now)[1]

    with _exact_matmuls(), jax.default_device(_processor()):
        wanted = np.asarray(attended(REFERENCE, jnp.dtype(jnp.float32)))
    return float(np.max(np.abs(np.asarray(attended(backend, dtype)) - wanted)))


def _pasts_as_chunks(inputs: StepInputs) -> StepInputs:
    """Return the step that writes what the rows and chunks of `inputs` have behind them."""
    lengths = np.concatenate([inputs.decode_position, inputs.chunk_start])
    tables = np.concatenate([inputs.decode_pages, inputs.chunk_pages])
    real = lengths > 0
    return _inputs(
        decode_position=[],
        decode_pages=np.zeros((0, tables.shape[1])),
        chunk_len=lengths[real],
        chunk_start=np.zeros(int(real.sum())),
        chunk_pages=tables[real],
    )


def _ragged_rows() -> StepInputs:
    """Rows and chunks of all lengths, each on pages of its own in no order."""
    lengths = [*(past + 1 for past in PASTS), *(past + new for past, new in CHUNKS)]
    counts = [-(-length // PAGE_SIZE) for length in lengths]
    shuffled = iter(np.random.default_rng(0).permutation(sum(counts)) + 1)
    tables = np.zeros((len(lengths), max(counts)), np.int32)
    for table, count in zip(tables, counts, strict=True):
        table[:count] = [next(shuffled) for _ in range(count)]
    rows = len(PASTS)
    return _inputs(
        decode_position=PASTS,
        decode_pages=tables[:rows],
        chunk_len=[new for _, new in CHUNKS],
        chunk_start=[past for past, _ in CHUNKS],
        chunk_pages=tables[rows:],
    )


def _inputs(**fields: Any) -> StepInputs:
    """Keep a step's numbers on the host: whichever device runs it takes them."""
    held: Any = {name: np.asarray(values, np.int32) for name, values in fields.items()}
    return StepInputs(**held)


def _processor() -> Any:
    """Return a CPU device; where JAX was told to leave them alone, what it runs on."""
    try:
        return jax.devices("cpu")[0]
    except RuntimeError:
        return jax.devices()[0]


def _tokens(rig: Rig) -> tuple[list[int], list[int]]:
    """Return a greedy reply by the engine's steps, and by the oracle."""
    config = replace(
        rig.config,
        **SMALL,
        dtype="float32",
        kv_dtype=None,
        quantize=None,
        eos_ids=(),
        bos_id=None,
    )
    prompt = np.random.default_rng(7).integers(0, config.vocab_size, PROMPT_LEN).tolist()
    with jax.default_device(_processor()):
        params = init_params(config, jax.random.key(7))
        wanted = generate(params, config, prompt, Sampling(), REPLY_LEN).tokens
    total = PROMPT_LEN + REPLY_LEN
    sizes = ExecutorSizes(
        num_pages=2 + total // PAGE_SIZE + 1,
        page_size=PAGE_SIZE,
        max_model_len=total,
        max_rows=1,
        max_chunk_tokens=16,
        max_chunk_rows=1,
    )
    there = jax.device_put(params, param_shardings(config, rig.mesh, DECODE))
    site = Site(config, rig.mesh, DECODE, sizes, rig.attention)
    if site.unrolls:
        there = apart(there)
    buckets = Buckets((Bucket(1, 0, 0), Bucket(0, 16, 1)), ())
    executor = JaxExecutor(there, site, Role.BOTH, moves=Moves.NOWHERE, buckets=buckets)
    executor.warm_up(lambda done: None)
    raw_loop.load_slots(executor, 1)
    return _replied(executor, prompt), list(wanted)


def _replied(executor: JaxExecutor, prompt: list[int]) -> list[int]:
    """Prefill a prompt in chunks and decode, by hand."""
    tables = raw_loop.own_pages(executor.sizes, [PROMPT_LEN + REPLY_LEN])
    got: list[int] = []
    for start in range(0, PROMPT_LEN, 16):
        tokens = np.array(prompt[start : start + 16], np.int32)
        chunk = raw_loop.make_chunk(tables[0], start, len(tokens))
        chunk.tokens[:] = tokens
        last = start + len(tokens) == PROMPT_LEN
        plan = raw_loop.make_plan(tables[:0], 0, 0, [replace(chunk, sample=last)])
        got = executor.collect(executor.launch(plan)).chunk_ids
    for index in range(1, REPLY_LEN):
        plan = raw_loop.make_plan(tables, PROMPT_LEN + index - 1, index, ())
        got += executor.collect(executor.launch(plan)).decode_ids
    return got


@contextmanager
def _exact_matmuls() -> Iterator[None]:
    """Let float32 matmuls be computed in float32, in whatever thread they are compiled."""
    config: Any = jax.config  # the public type does not name its options
    before = config.jax_default_matmul_precision
    jax.config.update("jax_default_matmul_precision", "highest")
    try:
        yield
    finally:
        jax.config.update("jax_default_matmul_precision", before)


AGREEMENT = alone(_agreement)
