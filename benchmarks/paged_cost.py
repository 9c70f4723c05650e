"""What do pages cost a decode step on a CPU? Against dense caches, in turns, in one process.

`python -m benchmarks.paged_cost --out FILE` times one decode step of a model of 3 million
parameters, 16 rows that have attended to 512 positions each, greedy, float32: over pages as the
engine attends (`blocked`), and over two dense head-major caches that no server could use, because
every row has its longest context reserved. `dense` has arrays of its own per layer and unrolled
layers, so that nothing is copied: the fastest there is. `dense scanned` stacks its layers and scans
them as the engine does. A round runs each once, in an order that turns; its ratios to `dense` are
the figures, by the clock and by the time that the process computed on all cores.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

import click
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from benchmarks.machine import describe_code, describe_machine
from model.attention.inputs import StepInputs, places
from model.attention.paged import BLOCKED
from model.config import ModelConfig, RopeConfig
from model.head import logits
from model.layers import embed, gated_mlp, reduced, rms_norm
from model.parameters import Params, init_params
from model.rope import rotate, rotation
from model.transformer import forward

ROWS, CONTEXT, PAGE_SIZE = 16, 512, 16
MAX_PAGES = 64  # of a page table: a context of 1,024
STEPS, ROUNDS, WARM = 20, 31, 2
CONFIG = ModelConfig(
    family="llama",
    vocab_size=512,
    num_layers=4,
    hidden_size=256,
    intermediate_size=688,
    num_heads=8,
    num_kv_heads=4,
    head_dim=32,
    rope=RopeConfig(theta=10_000.0, scaling=None),
    norm_eps=1e-5,
    tie_embeddings=False,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    qk_norm=False,
    sliding_window=None,
    max_position=MAX_PAGES * PAGE_SIZE,
    dtype="float32",
    eos_ids=(),
    bos_id=None,
)
DENSE = (ROWS, CONFIG.num_kv_heads, CONTEXT, CONFIG.head_dim)

Cache = tuple[jax.Array, jax.Array]  # keys and values
Step = Callable[[], jax.Array]  # runs one step; returns its tokens


class Took(NamedTuple):
    """Seconds of one step: by the clock, and of computing on all cores."""

    wall: float
    cpu: float


def best(params: Params, hidden: jax.Array) -> jax.Array:
    """Return the most likely tokens [B]."""
    return jnp.argmax(logits(params, hidden, config=CONFIG, axis=None), axis=-1)


def attended(q: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array) -> jax.Array:
    """Attend from q [B, K, G, H] to dense keys and values [B, K, S, H]."""
    scores = jnp.einsum("bkgh,bksh->bkgs", q * CONFIG.head_dim**-0.5, keys)
    seen = jnp.arange(CONTEXT) <= position[:, None]
    weights = jax.nn.softmax(jnp.where(seen[:, None, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("bkgs,bksh->bkgh", weights, values)


def put(cache: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
    """Write new [B, K, H] at each row's position of a cache [B, K, S, H]."""

    def one(row: jax.Array, new: jax.Array, position: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice(row, new[:, None], (0, position, 0))

    return jax.vmap(one)(cache, new, position)


def dense(params: Params) -> Step:
    """Make the step over a cache of two arrays a layer; layers are unrolled."""

    @partial(jax.jit, donate_argnums=0)
    def step(
        caches: list[Cache], tokens: jax.Array, position: jax.Array
    ) -> tuple[list[Cache], jax.Array]:
        x = embed(tokens, params["embed"], axis=None)
        cos, sin = rotation(position, CONFIG.rope, CONFIG.head_dim)
        after: list[Cache] = []
        for number, (keys, values) in enumerate(caches):
            layer = jax.tree.map(lambda leaf, i=number: leaf[i], params["layers"])
            normed = rms_norm(x, layer["attn_norm"], eps=CONFIG.norm_eps)
            merged = jnp.einsum("bd,dkgh->bkgh", normed, layer["qkv"])
            keys = put(keys, rotate(merged[:, :, -2], cos, sin), position)
            values = put(values, merged[:, :, -1], position)
            out = attended(rotate(merged[:, :, :-2], cos, sin), keys, values, position)
            x = x + reduced("bkgh,kghd->bd", out, layer["o"], None, axis=None)
            normed = rms_norm(x, layer["mlp_norm"], eps=CONFIG.norm_eps)
            x = x + gated_mlp(normed, layer, axis=None)
            after.append((keys, values))
        return after, best(params, rms_norm(x, params["final_norm"], eps=CONFIG.norm_eps))

    caches = [(jnp.zeros(DENSE), jnp.zeros(DENSE)) for _ in range(CONFIG.num_layers)]
    return _stepping(step, caches)


def dense_scanned(params: Params) -> Step:
    """Make the step over a cache of two arrays [L, B, K, S, H], in the engine's decoder."""

    @partial(jax.jit, donate_argnums=0)
    def step(cache: Cache, tokens: jax.Array, position: jax.Array) -> tuple[Cache, jax.Array]:
        def attend(
            cache: Cache, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
        ) -> tuple[Cache, jax.Array]:
            rows = jnp.arange(ROWS)
            keys, values = (
                whole.at[layer, rows, :, position].set(new)
                for whole, new in zip(cache, (k, v), strict=True)
            )
            return (keys, values), attended(q, keys[layer], values[layer], position)

        hidden, cache = forward(params, tokens, position, cache, attend, config=CONFIG, axis=None)
        return cache, best(params, hidden)

    shape = (CONFIG.num_layers, *DENSE)
    return _stepping(step, (jnp.zeros(shape), jnp.zeros(shape)))


def paged(params: Params) -> Step:
    """Make the step over pages, in no order, as the engine's default backend attends."""
    used = ROWS * CONTEXT // PAGE_SIZE
    tables = np.zeros((ROWS, MAX_PAGES), np.int32)
    order = 1 + np.random.default_rng(0).permutation(used)
    tables[:, : CONTEXT // PAGE_SIZE] = order.reshape(ROWS, -1)

    @partial(jax.jit, donate_argnums=0)
    def step(
        pool: jax.Array, tokens: jax.Array, position: jax.Array, tables: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        none = jnp.zeros(0, jnp.int32)
        inputs = StepInputs(position, tables, none, none, jnp.zeros((0, MAX_PAGES), jnp.int32))
        place = places(inputs, num_chunk_tokens=0, page_size=PAGE_SIZE)
        attention = BLOCKED.over(pool, inputs, place, group=CONFIG.queries_per_kv, window=None)
        hidden, kv = forward(
            params, tokens, position, attention.kv, attention.attend, config=CONFIG, axis=None
        )
        return attention.store(kv), best(params, hidden)

    pool = jnp.zeros(BLOCKED.pool_shape(CONFIG, num_pages=1 + used, page_size=PAGE_SIZE))
    return _stepping(lambda pool, *rows: step(pool, *rows, tables), pool)


def _stepping(step: Callable[..., tuple[Any, jax.Array]], state: Any) -> Step:
    """Run `step` again and again on its own state, always at the last position."""
    held = [state]
    tokens = np.zeros(ROWS, np.int32)
    position = np.full(ROWS, CONTEXT - 1, np.int32)

    def run() -> jax.Array:
        held[0], sampled = step(held[0], tokens, position)
        return sampled

    return run


def timed(run: Step) -> Took:
    """Time steps one after the other, each with its tokens read."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(STEPS):
        np.asarray(run())
    return Took((time.perf_counter() - wall) / STEPS, (time.process_time() - cpu) / STEPS)


def measure() -> dict[str, Any]:
    """Measure all of them in turns."""
    params = init_params(CONFIG, jax.random.key(0))
    makers = {"dense": dense, "dense scanned": dense_scanned, "paged": paged}
    runs = {name: make(params) for name, make in makers.items()}
    took: dict[str, list[Took]] = {name: [] for name in runs}
    for number in tqdm(range(ROUNDS + WARM), unit="round", desc="measuring"):
        turned = list(runs) if number % 2 else list(reversed(runs))
        found = {name: timed(runs[name]) for name in turned}
        if number >= WARM:
            for name, one in found.items():
                took[name].append(one)
    return {
        "rows": ROWS,
        "context": CONTEXT,
        "rounds": ROUNDS,
        "step_ms": {name: 1e3 * median(one.wall for one in all_) for name, all_ in took.items()},
        "ratio_to_dense": {
            name: {
                "wall": _spread([a.wall / b.wall for a, b in _pairs(took, name)]),
                "cpu": _spread([a.cpu / b.cpu for a, b in _pairs(took, name)]),
            }
            for name in ("dense scanned", "paged")
        },
    }


def _pairs(took: dict[str, list[Took]], name: str) -> list[tuple[Took, Took]]:
    return list(zip(took[name], took["dense"], strict=True))


def _spread(ratios: list[float]) -> dict[str, Any]:
    low, *_, high = quantiles(ratios, n=4)
    return {"median": median(ratios), "quartiles": [low, high]}


@click.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(out: Path) -> None:
    """Measure what pages cost."""
    jax.config.update("jax_platforms", "cpu")
    found = {"machine": describe_machine(), "code": describe_code(Path.cwd()), **measure()}
    out.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps({key: found[key] for key in ("step_ms", "ratio_to_dense")}, indent=2))


if __name__ == "__main__":
    main()
