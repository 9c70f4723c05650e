"""Which hidden states, keys and values did the model have? Recomputed, whole texts at a time.

The model is causal: its states at each position are those of the step that ran it, up to rounding
(tests/predictor compare them with the engine's own). Knows no records and no engine.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from model.config import ModelConfig
from model.parameters import Params
from model.transformer import forward_keeping
from predictor.features import recent_mean

QUERY_BLOCK = 256
LEAST_LENGTH = 128
TOKENS_AT_ONCE = 8192
"""Positions of one pass, padding included (ours: keeps a demo-sized pass under 100 MB)."""


def check_layers(layers: tuple[int, ...], config: ModelConfig) -> None:
    """Raise ValueError unless `layers` are layers of this model, counted from 1."""
    if not layers or any(not 1 <= layer <= config.num_layers for layer in layers):
        raise ValueError(f"layers {layers}: this model's layers are 1 to {config.num_layers}")


def hidden_states(
    params: Params,
    sequences: list[list[int]],
    positions: list[list[int]],
    *,
    config: ModelConfig,
    layers: tuple[int, ...],
    starts: list[int] | None = None,
    reach: int = 1,
) -> list[NDArray[np.float16]]:
    """Return the states at `positions[i]` of `sequences[i]`, [n, L, D] each, L = len(layers).

    Layer l is the output of the first l layers, not normed. With `starts`, [n, 2L, D]: the recent
    means (predictor/features) of `reach` states follow, which begin at position `starts[i]`.
    Sequences of like length run together. Raises ValueError for layers that the model lacks.
    """
    check_layers(layers, config)
    out: list[NDArray[np.float16]] = [np.zeros(0, np.float16)] * len(sequences)
    for batch, tokens in _batches(sequences):
        states = _pass(params, tokens, config=config, layers=layers)
        if starts is not None:
            padding = [0] * (len(tokens) - len(batch))
            first = np.array([starts[i] for i in batch] + padding, np.int32)
            states = jnp.concatenate([states, _means(states, first, reach=reach)])
        states = np.asarray(states)
        for row, i in enumerate(batch):
            out[i] = states[:, row, positions[i]].transpose(1, 0, 2).astype(np.float16)
    return out


def keys_and_values(
    params: Params,
    sequences: list[list[int]],
    *,
    config: ModelConfig,
    layer: int,
    window: int,
) -> list[NDArray[np.float16]]:
    """Return keys, rotated, and values at the last `window` tokens of each, [n, 2, K, H].

    `layer` counts from 1: what its attention looks at. Raises ValueError if the model lacks it.
    """
    check_layers((layer,), config)
    out: list[NDArray[np.float16]] = [np.zeros(0, np.float16)] * len(sequences)
    for batch, tokens in _batches(sequences):
        kv = np.asarray(_keys_and_values(params, tokens, config=config, layer=layer))
        for row, i in enumerate(batch):
            length = len(sequences[i])
            out[i] = kv[row, max(0, length - window) : length].copy()
    return out


def _batches(sequences: list[list[int]]) -> Iterator[tuple[list[int], NDArray[np.int32]]]:
    """Yield numbers of sequences of like length, and their tokens padded to few shapes [B, S]."""
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    while order:
        length = max(LEAST_LENGTH, 1 << (len(sequences[order[0]]) - 1).bit_length())
        most = max(1, TOKENS_AT_ONCE // length)
        batch = [i for i in order[:most] if len(sequences[i]) <= length]
        order = order[len(batch) :]
        tokens = np.zeros((most, length), np.int32)
        for row, i in enumerate(batch):
            tokens[row, : len(sequences[i])] = sequences[i]
        yield batch, tokens


@partial(jax.jit, static_argnames="reach")
def _means(
    states: Float[Array, "L B S D"], first: Int[Array, " B"], *, reach: int
) -> Float[Array, "L B S D"]:
    def one(mean: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        here, position = at
        count = jnp.maximum(position - first + 1, 1)[None, :, None]
        mean = recent_mean(mean, here, count, reach)
        return mean, mean

    places = jnp.arange(states.shape[2])
    _, means = jax.lax.scan(one, states[:, :, 0], (jnp.moveaxis(states, 2, 0), places))
    return jnp.moveaxis(means, 0, 2)


@partial(jax.jit, static_argnames=("config", "layers"))
def _pass(
    params: Params, tokens: Int[Array, "B S"], *, config: ModelConfig, layers: tuple[int, ...]
) -> Float[Array, "L B S D"]:
    _, kept = _run(params, tokens, jnp.zeros(()), lambda kv, *_: kv, lambda x: x, config)
    return kept[jnp.array([layer - 1 for layer in layers])]


@partial(jax.jit, static_argnames=("config", "layer"))
def _keys_and_values(
    params: Params, tokens: Int[Array, "B S"], *, config: ModelConfig, layer: int
) -> Float[Array, "B S 2 K H"]:
    shape = (*tokens.shape, 2, config.num_kv_heads, config.head_dim)

    def collect(kv: jax.Array, index: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        return jnp.where(index == layer - 1, jnp.stack([k, v], axis=2).astype(kv.dtype), kv)

    kv, _ = _run(params, tokens, jnp.zeros(shape, jnp.float16), collect, lambda x: None, config)
    return kv


def _run(
    params: Params,
    tokens: Int[Array, "B S"],
    kv: jax.Array,
    collect: Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array],
    keep: Callable[[jax.Array], Any],
    config: ModelConfig,
) -> tuple[jax.Array, Any]:
    """Run the decoder over whole texts; `collect` is given every layer's keys and values."""
    length = tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    block = min(QUERY_BLOCK, length)

    def attend(
        kv: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def some(start: jax.Array) -> jax.Array:
            queries = jax.lax.dynamic_slice_in_dim(q, start, block, axis=1)
            at = start + jnp.arange(block)[:, None]
            seen = jnp.arange(length)[None, :] <= at
            if config.sliding_window is not None:
                seen &= jnp.arange(length)[None, :] > at - config.sliding_window
            scores = jnp.einsum("btkgh,bskh->bkgts", queries * q.shape[-1] ** -0.5, k)
            scores = jnp.where(seen, scores.astype(jnp.float32), -jnp.inf)
            return jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores).astype(v.dtype), v)

        blocks = jax.lax.map(some, jnp.arange(0, length, block))
        return collect(kv, layer, k, v), jnp.moveaxis(blocks, 0, 1).reshape(q.shape)

    _, kv, kept = forward_keeping(
        params, tokens, positions, kv, attend, keep, config=config, axis=None, unroll=False
    )
    return kv, kept
