"""Which hidden states, keys and values did the model have? Recomputed, whole texts at a time.

The model is causal: its states at each position are those of the step that ran it, up to rounding
(tests/predictor compare them with the engine's own). Turns of one conversation begin alike, so most
texts are the beginning of another one: only the longest are run. Knows no records and no engine.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from numpy.typing import NDArray

from model.config import ModelConfig
from model.parameters import Params
from model.transformer import forward_keeping
from predictor.features import recent_mean

BLOCK = 128
"""Queries that attend at once; texts are padded to a few multiples of it."""
TOKENS_AT_ONCE = 2048
"""Positions of one pass, padding included (ours: a pass of few texts is not mostly padding)."""


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt of `prompt_len` tokens, 1 at least, and the reply to it; states are wanted at
    `places`.
    """

    tokens: tuple[int, ...]
    prompt_len: int
    places: Sequence[int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of every text.

    States of `layers`, counted from 1, and if `reach` is given recent means of so many of them
    (predictor/features), which begin at the prompt's last token. If `prompt_layer` is given, what
    its attention looks at over the last `window` tokens of the prompt.
    """

    layers: tuple[int, ...]
    reach: int | None = None
    prompt_layer: int | None = None
    window: int = 0


@dataclass(frozen=True, slots=True)
class Recomputed:
    """What the model had of one text.

    `states` f16 [n, L, D] at its places, L layers, not normed, `narrowed`; with recent means
    [n, 2L, D], which follow. `kv` f16 [t, 2, K, H]: keys, rotated, and values at the last tokens of
    the prompt; t is 0 if none were wanted.
    """

    states: NDArray[np.float16]
    kv: NDArray[np.float16]


def check_layers(layers: tuple[int, ...], config: ModelConfig) -> None:
    """Raise ValueError unless `layers` are layers of this model, counted from 1."""
    if not layers or any(not 1 <= layer <= config.num_layers for layer in layers):
        raise ValueError(f"layers {layers}: this model's layers are 1 to {config.num_layers}")


def recompute(
    params: Params, texts: Sequence[Text], wanted: Wanted, *, config: ModelConfig
) -> list[Recomputed]:
    """Run the texts; returns what is wanted of each. Raises ValueError for layers it lacks."""
    layers = wanted.layers
    check_layers((*layers, *([] if wanted.prompt_layer is None else [wanted.prompt_layer])), config)
    found: dict[int, Recomputed] = {}
    longest, run_with = _longest([text.tokens for text in texts])
    for batch, tokens in _batches(longest):
        states, kv = _pass(params, tokens, config=config, layers=layers, kv_of=wanted.prompt_layer)
        rows = {number: row for row, number in enumerate(batch)}
        own = [(rows[run], i) for i, run in enumerate(run_with) if run in rows]
        means = _means_of(states, own, texts, wanted.reach)
        states, kv = np.asarray(states), np.asarray(kv)
        for (row, i), mean in zip(own, means, strict=True):
            text = texts[i]
            at = list(text.places)
            both = np.concatenate([states[:, row, at], mean[:, at]])
            begin = max(0, text.prompt_len - wanted.window)
            found[i] = Recomputed(
                narrowed(both.transpose(1, 0, 2)),
                kv[row, begin : text.prompt_len].copy(),
            )
    return [found[i] for i in range(len(texts))]


def narrowed(states: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return states [*N, D] in float16; one that is too large for it is scaled down as a whole.

    Some models' states are (massive activations); heads do not see it (predictor/features scales
    all states alike).
    """
    largest = float(np.finfo(np.float16).max)
    states = states.astype(np.float32)
    most = np.abs(states).max(axis=-1, keepdims=True, initial=largest)
    return (states * (largest / most)).astype(np.float16)


def _longest(texts: Sequence[tuple[int, ...]]) -> tuple[list[tuple[int, ...]], list[int]]:
    """Return the texts that are not the beginning of another, and with which of them each runs."""
    # A text stands right before those that begin with it.
    order = sorted(range(len(texts)), key=lambda i: texts[i], reverse=True)
    longest: list[tuple[int, ...]] = []
    run_with = [0] * len(texts)
    for i in order:
        if not longest or longest[-1][: len(texts[i])] != texts[i]:
            longest.append(texts[i])
        run_with[i] = len(longest) - 1
    return longest, run_with


def _batches(
    texts: Sequence[tuple[int, ...]],
) -> Iterator[tuple[list[int], NDArray[np.int32]]]:
    """Yield numbers of texts, the longest first, and their tokens padded to few shapes [B, S]."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    while order:
        length = _padded(len(texts[order[0]]))
        rows = max(1, TOKENS_AT_ONCE // length)
        batch, order = order[:rows], order[rows:]
        tokens = np.zeros((rows, length), np.int32)
        for row, i in enumerate(batch):
            tokens[row, : len(texts[i])] = texts[i]
        yield batch, tokens


def _padded(length: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, ... blocks: at most a third of it is padding."""
    blocks = max(1, -(-length // BLOCK))
    power = 1 << (blocks - 1).bit_length()
    return BLOCK * (power * 3 // 4 if power >= 4 and blocks <= power * 3 // 4 else power)


def _means_of(
    states: Float[Array, "L B S D"],
    own: Sequence[tuple[int, int]],
    texts: Sequence[Text],
    reach: int | None,
) -> Iterator[NDArray[np.float32]]:
    """Yield the recent means [L, S, D] of texts, as (row of `states`, number); else no layers."""
    if reach is None:
        yield from [np.zeros((0, *states.shape[2:]), np.float32)] * len(own)
        return
    at_once = states.shape[1]
    for start in range(0, len(own), at_once):
        some = own[start : start + at_once]
        padding = [some[-1]] * (at_once - len(some))
        rows = np.array([row for row, _ in (*some, *padding)], np.int32)
        first = np.array([texts[i].prompt_len - 1 for _, i in (*some, *padding)], np.int32)
        means = np.asarray(_means(states, rows, first, reach=reach))
        yield from (means[:, place] for place in range(len(some)))


@partial(jax.jit, static_argnames="reach")
def _means(
    states: Float[Array, "L B S D"],
    rows: Int[Array, " B"],
    first: Int[Array, " B"],
    *,
    reach: int,
) -> Float[Array, "L B S D"]:
    states = states[:, rows]

    def one(mean: jax.Array, at: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        here, position = at
        count = jnp.maximum(position - first + 1, 1)[None, :, None]
        mean = recent_mean(mean, here, count, reach)
        return mean, mean

    places = jnp.arange(states.shape[2])
    _, means = jax.lax.scan(one, states[:, :, 0], (jnp.moveaxis(states, 2, 0), places))
    return jnp.moveaxis(means, 0, 2)


@partial(jax.jit, static_argnames=("config", "layers", "kv_of"))
def _pass(
    params: Params,
    tokens: Int[Array, "B S"],
    *,
    config: ModelConfig,
    layers: tuple[int, ...],
    kv_of: int | None,
) -> tuple[Float[Array, "L B S D"], Float[Array, "B t 2 K H"]]:
    """Run whole texts: the states of `layers`, and keys and values of layer `kv_of`."""
    length = tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    kept_len = 0 if kv_of is None else length
    shape = (tokens.shape[0], kept_len, 2, config.num_kv_heads, config.head_dim)

    def attend(
        kv: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        def some(start: jax.Array) -> jax.Array:
            queries = jax.lax.dynamic_slice_in_dim(q, start, BLOCK, axis=1)
            at = start + jnp.arange(BLOCK)[:, None]
            seen = jnp.arange(length)[None, :] <= at
            if config.sliding_window is not None:
                seen &= jnp.arange(length)[None, :] > at - config.sliding_window
            scores = jnp.einsum("btkgh,bskh->bkgts", queries * q.shape[-1] ** -0.5, k)
            scores = jnp.where(seen, scores.astype(jnp.float32), -jnp.inf)
            return jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores).astype(v.dtype), v)

        if kv_of is not None:
            own = jnp.stack([k, v], axis=2).astype(kv.dtype)
            kv = jnp.where(layer == kv_of - 1, own, kv)
        blocks = jax.lax.map(some, jnp.arange(0, length, BLOCK))
        return kv, jnp.moveaxis(blocks, 0, 1).reshape(q.shape)

    _, kv, states = forward_keeping(
        params,
        tokens,
        positions,
        jnp.zeros(shape, jnp.float16),
        attend,
        lambda x: x,
        config=config,
        axis=None,
    )
    return states[jnp.array([layer - 1 for layer in layers])], kv
