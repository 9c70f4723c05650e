"""How are many replies generated at once, for measuring a model?

A plain batched decoder over a dense cache that doubles when it is full and sheds finished rows.
It serves nobody: no sampling parameters but the temperature, no streaming. Knows no task.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from model.config import ModelConfig
from model.head import logits
from model.parameters import Params
from model.transformer import forward

STEPS = 32  # decode steps per dispatch
LEAST_CAPACITY = 128


@dataclass(frozen=True)
class Decoding:
    """How replies are drawn: greedily at temperature 0, else from `seed`."""

    temperature: float
    seed: int
    rows: int
    max_total: int


class Cache(NamedTuple):
    """Rotated keys, and values, of every layer and row: [L,B,K,S,H] each."""

    keys: jax.Array
    values: jax.Array


class Rows(NamedTuple):
    """The state of the rows being decoded; all leading axes are B.

    `lengths` counts the cached positions; `token` is the last one drawn, not yet cached.
    """

    token: jax.Array
    lengths: jax.Array
    done: jax.Array
    cache: Cache


def decode(
    params: Params, config: ModelConfig, prompts: list[list[int]], how: Decoding
) -> list[list[int]]:
    """Return the reply of each prompt without its end token; cut where the total is reached.

    Prompts that need the same cache are batched in the order in which they come: it is quickest
    when neighbours have replies of like length.
    """
    replies: list[list[int]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda index: _capacity(prompts[index]))
    for first in range(0, len(order), how.rows):
        batch = order[first : first + how.rows]
        key = jax.random.fold_in(jax.random.key(how.seed), first)
        decoded = _decode_batch(params, config, [prompts[index] for index in batch], how, key)
        for index, reply in zip(batch, decoded, strict=True):
            replies[index] = reply
    return replies


def _decode_batch(
    params: Params, config: ModelConfig, prompts: list[list[int]], how: Decoding, key: jax.Array
) -> list[list[int]]:
    """Decode one batch; `owners` says which prompt each of the remaining rows belongs to."""
    replies: list[list[int]] = [[] for _ in prompts]
    owners = np.arange(len(prompts))
    capacity = max(_capacity(prompt) for prompt in prompts)
    tokens = np.zeros((how.rows, capacity), np.int32)
    lengths = np.ones(how.rows, np.int32)
    for row, prompt in enumerate(prompts):
        tokens[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    key, own = jax.random.split(key)
    rows = _prefill(params, tokens, lengths, own, config=config, temperature=how.temperature)
    rows = rows._replace(done=rows.done | (jnp.arange(how.rows) >= len(prompts)))
    _collect(replies, owners, np.asarray(rows.token)[:, None], config)
    while True:
        alive = np.flatnonzero(~np.asarray(rows.done))
        cached = int(np.asarray(rows.lengths)[alive].max(initial=0))
        if not len(alive) or cached + STEPS > how.max_total:
            return replies
        rows, owners = _shed(rows, owners, alive)
        if cached + STEPS > rows.cache.keys.shape[3]:
            rows = rows._replace(cache=_grown(rows.cache))
        key, own = jax.random.split(key)
        rows, drawn = _advance(params, rows, own, config=config, temperature=how.temperature)
        _collect(replies, owners, np.asarray(drawn), config)


def _capacity(prompt: list[int]) -> int:
    """Return the positions of the cache that a prompt starts with: a power of two."""
    return max(LEAST_CAPACITY, 1 << (len(prompt) + STEPS - 1).bit_length())


def _collect(
    replies: list[list[int]], owners: np.ndarray, drawn: np.ndarray, config: ModelConfig
) -> None:
    """Append drawn tokens [B, steps]; rows that ended draw only end tokens from then on."""
    for row, owner in enumerate(owners):
        replies[owner] += [int(token) for token in drawn[row] if token not in config.eos_ids]


def _shed(rows: Rows, owners: np.ndarray, alive: np.ndarray) -> tuple[Rows, np.ndarray]:
    """Keep a quarter of the rows when no more are alive; repeated rows fill up and are done."""
    count = len(rows.token)
    while len(alive) * 4 <= count:
        count //= 4
    if count == len(rows.token):
        return rows, owners
    kept = np.resize(alive, count)
    done = jnp.arange(count) >= len(alive)
    cache = Cache(rows.cache.keys[:, kept], rows.cache.values[:, kept])
    shed = Rows(rows.token[kept], rows.lengths[kept], done, cache)
    return shed, owners[alive]


def _grown(cache: Cache) -> Cache:
    """Double the number of positions."""
    return Cache(*(jnp.concatenate([part, jnp.zeros_like(part)], axis=3) for part in cache))


def _draw(
    params: Params, hidden: jax.Array, key: jax.Array, *, config: ModelConfig, temperature: float
) -> jax.Array:
    """Draw the next token of each hidden state [B, D]."""
    scores = logits(params, hidden, config=config, axis=None)
    if temperature == 0:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, scores / temperature).astype(jnp.int32)


def _ended(token: jax.Array, config: ModelConfig) -> jax.Array:
    return jnp.isin(token, jnp.array(config.eos_ids))


@partial(jax.jit, static_argnames=("config", "temperature"))
def _prefill(
    params: Params,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, " B"],
    key: jax.Array,
    *,
    config: ModelConfig,
    temperature: float,
) -> Rows:
    """Run padded prompts; what stands behind a row's length is overwritten before it is seen."""
    count, length = tokens.shape
    shape = (config.num_layers, count, config.num_kv_heads, length, config.head_dim)
    empty = Cache(jnp.zeros(shape), jnp.zeros(shape))
    causal = jnp.tril(jnp.ones((length, length), bool))

    def attend(
        cache: Cache, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[Cache, jax.Array]:
        stored = Cache(
            cache.keys.at[layer].set(k.transpose(0, 2, 1, 3)),
            cache.values.at[layer].set(v.transpose(0, 2, 1, 3)),
        )
        return stored, jax.lax.map(row, (q, k, v))

    def row(qkv: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        """Attend within one row: the scores of all rows at once would not fit in memory."""
        q, k, v = qkv
        scores = jnp.einsum("tkgh,skh->kgts", q * q.shape[-1] ** -0.5, k)
        weights = jax.nn.softmax(jnp.where(causal, scores, -1e30))
        return jnp.einsum("kgts,skh->tkgh", weights, v)

    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    hidden, cache = forward(params, tokens, positions, empty, attend, config=config, axis=None)
    last = hidden[jnp.arange(count), lengths - 1]
    token = _draw(params, last, key, config=config, temperature=temperature)
    return Rows(token, lengths, _ended(token, config), cache)


@partial(jax.jit, static_argnames=("config", "temperature"), donate_argnames="rows")
def _advance(
    params: Params, rows: Rows, key: jax.Array, *, config: ModelConfig, temperature: float
) -> tuple[Rows, Int[Array, "B steps"]]:
    """Decode STEPS tokens of every row. Donates `rows`."""

    def attend(
        state: tuple[Cache, jax.Array],
        layer: jax.Array,
        q: Float[Array, "B K G H"],
        k: Float[Array, "B K H"],
        v: Float[Array, "B K H"],
    ) -> tuple[tuple[Cache, jax.Array], Float[Array, "B K G H"]]:
        cache, lengths = state
        place = (layer, jnp.arange(len(lengths)), slice(None), lengths)
        cache = Cache(cache.keys.at[place].set(k), cache.values.at[place].set(v))
        visible: Bool[Array, "B S"] = jnp.arange(cache.keys.shape[3]) <= lengths[:, None]
        scores = jnp.einsum("bkgh,bksh->bkgs", q * q.shape[-1] ** -0.5, cache.keys[layer])
        weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, -1e30))
        out = jnp.einsum("bkgs,bksh->bkgh", weights, cache.values[layer])
        return (cache, lengths), out

    def step(rows: Rows, key: jax.Array) -> tuple[Rows, jax.Array]:
        hidden, (cache, _) = forward(
            params,
            rows.token,
            rows.lengths,
            (rows.cache, rows.lengths),
            attend,
            config=config,
            axis=None,
        )
        drawn = _draw(params, hidden, key, config=config, temperature=temperature)
        token = jnp.where(rows.done, config.eos_ids[0], drawn)
        lengths = rows.lengths + ~rows.done
        return Rows(token, lengths, rows.done | _ended(token, config), cache), token

    rows, drawn = jax.lax.scan(step, rows, jax.random.split(key, STEPS))
    return rows, drawn.T
