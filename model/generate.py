"""What would the model say, computed the slow and obvious way? The oracle of the engine's tests.

One prompt at a time over a dense cache, one token a step, no pages, no batching, no reuse. Shares
the decoder and the sampling function with the engine, and nothing else: attention is written out
here. Knows nothing of text.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from model import sampling as sampler
from model.config import ModelConfig
from model.head import logits
from model.kv_pages import kept
from model.parameters import Params
from model.sampling import Planes, SamplingRows
from model.transformer import forward

Cache = tuple[jax.Array, jax.Array]  # keys and values, each [L, S, K, H]


@dataclass(frozen=True)
class Sampling:
    """How a reply is sampled; the meanings are those of `model.sampling`.

    `temperature` 0 is greedy. `top_k` None keeps the whole vocabulary. `allowed_ids` None forbids
    nothing. A token of `stop_ids` ends the reply as its last token; pass the config's `eos_ids`
    there. `seed` is a signed 64-bit number. `allowed_next` returns the ids that may follow a reply
    so far, at least one; None forbids nothing.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_ids: tuple[int, ...] | None = None
    min_tokens: int = 0
    stop_ids: tuple[int, ...] = ()
    seed: int = 0
    allowed_next: Callable[[Sequence[int]], Collection[int]] | None = None


@dataclass(frozen=True)
class Generated:
    """A reply. Entry i of each tuple belongs to its i-th token.

    `logprobs` are the chosen tokens' log-probabilities under the model's own distribution, `top`
    the most likely (token id, log-probability) pairs, best first, as many as
    `model.sampling.MAX_LOGPROBS`. `stopped` tells whether a stop id ended the reply.
    """

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    stopped: bool


def generate(
    params: Params,
    config: ModelConfig,
    prompt_ids: Sequence[int],
    sampling: Sampling,
    max_new_tokens: int,
) -> Generated:
    """Sample a reply of at most `max_new_tokens` tokens to one prompt.

    Compiles once per power of two of the prompt's length and of the context's. Raises ValueError
    for an empty prompt, an id outside the vocabulary and a `max_new_tokens` below 1.
    """
    prompt = _checked(prompt_ids, config)
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}")
    cache = _empty_cache(params, config, _power_of_two(len(prompt) + max_new_tokens))
    scores, cache = _advance(params, _padded(prompt), jnp.int32(0), cache, config=config)
    scores = scores[len(prompt) - 1]

    replied: list[int] = []
    logprobs: list[float] = []
    top: list[tuple[tuple[int, float], ...]] = []
    while True:
        token = _sample(scores, prompt, replied, sampling)
        found = sampler.logprobs(scores[None], jnp.asarray([token], jnp.int32))
        replied.append(token)
        logprobs.append(float(found.chosen[0]))
        ids, values = found.top_ids[0].tolist(), found.top[0].tolist()
        top.append(tuple(zip(ids, values, strict=True)))
        stopped = token in sampling.stop_ids
        if stopped or len(replied) == max_new_tokens:
            return Generated(tuple(replied), tuple(logprobs), tuple(top), stopped)
        position = jnp.int32(len(prompt) + len(replied) - 1)
        tokens = jnp.asarray([token], jnp.int32)
        scores, cache = _advance(params, tokens, position, cache, config=config)
        scores = scores[0]


def prompt_logits(
    params: Params, config: ModelConfig, prompt_ids: Sequence[int]
) -> Float[Array, "T V"]:
    """Return float32 scores [T, V] of the token after each prefix of a prompt.

    Raises ValueError for an empty prompt and an id outside the vocabulary.
    """
    prompt = _checked(prompt_ids, config)
    tokens = _padded(prompt)
    cache = _empty_cache(params, config, len(tokens))
    return _advance(params, tokens, jnp.int32(0), cache, config=config)[0][: len(prompt)]


@partial(jax.jit, static_argnames="config", donate_argnames="cache")
def _advance(
    params: Params, tokens: Int[Array, " T"], start: jax.Array, cache: Cache, *, config: ModelConfig
) -> tuple[Float[Array, "T V"], Cache]:
    """Run tokens at positions start, start + 1, ... and return their scores and the new cache."""
    positions = start + jnp.arange(tokens.shape[0], dtype=jnp.int32)

    def attend(
        cache: Cache, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[Cache, jax.Array]:
        keys, values = (
            jax.lax.dynamic_update_slice(
                whole, kept(fresh, config.kept_as).astype(fresh.dtype)[None], (layer, start, 0, 0)
            )
            for whole, fresh in zip(cache, (k, v), strict=True)
        )
        out = _attention(q, keys[layer], values[layer], positions, config.sliding_window)
        return (keys, values), out

    hidden, cache = forward(params, tokens, positions, cache, attend, config=config, axis=None)
    return logits(params, hidden, config=config, axis=None), cache


def _attention(
    q: Float[Array, "T K G H"],
    keys: Float[Array, "S K H"],
    values: Float[Array, "S K H"],
    positions: Int[Array, " T"],
    window: int | None,
) -> Float[Array, "T K G H"]:
    """Attend from `positions` to the cached positions 0 .. S-1 that each may see.

    Positions that were padding when they were written are overwritten before anyone sees them.
    """
    scores = jnp.einsum("tkgh,skh->kgts", q, keys, preferred_element_type=jnp.float32)
    distance = positions[:, None] - jnp.arange(keys.shape[0])
    seen = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
    scores = jnp.where(seen, scores * q.shape[-1] ** -0.5, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    return jnp.einsum("kgts,skh->tkgh", weights, values)


def _sample(scores: jax.Array, prompt: list[int], replied: list[int], sampling: Sampling) -> int:
    """Sample the next token with one row whose planes are rebuilt from the whole history."""
    size = scores.shape[0]
    counts = np.bincount(replied, minlength=size).astype(np.int32)
    in_prompt = np.isin(np.arange(size), prompt)
    bias = np.zeros(size, np.float32)
    if sampling.allowed_ids is not None:
        bias[:] = -np.inf
        bias[list(sampling.allowed_ids)] = 0.0
    for token, amount in sampling.logit_bias:
        bias[token] += amount
    allowed = np.full(size, sampling.allowed_next is None)
    if sampling.allowed_next is not None:
        allowed[list(sampling.allowed_next(replied))] = True
    allowed = np.packbits(allowed, bitorder="little")
    allowed = np.pad(allowed, (0, -len(allowed) % 4)).view("<u4")
    stops = np.isin(np.arange(size), sampling.stop_ids)
    rows = SamplingRows(
        temperature=jnp.asarray([sampling.temperature], jnp.float32),
        top_k=jnp.asarray([size if sampling.top_k is None else sampling.top_k], jnp.int32),
        top_p=jnp.asarray([sampling.top_p], jnp.float32),
        min_p=jnp.asarray([sampling.min_p], jnp.float32),
        repetition_penalty=jnp.asarray([sampling.repetition_penalty], jnp.float32),
        presence_penalty=jnp.asarray([sampling.presence_penalty], jnp.float32),
        frequency_penalty=jnp.asarray([sampling.frequency_penalty], jnp.float32),
        min_tokens=jnp.asarray([sampling.min_tokens], jnp.int32),
        seed=jnp.asarray([sampler.seed_halves(sampling.seed)], jnp.int32),
        uses_planes=jnp.asarray([True]),
        reply_index=jnp.asarray([len(replied)], jnp.int32),
    )
    history = (counts, in_prompt, bias, stops, allowed)
    planes = Planes(*(jnp.asarray(plane[None]) for plane in history))
    return int(_sample_jit(scores[None], rows, planes, jnp.zeros(1, jnp.int32))[0])


_sample_jit = jax.jit(partial(sampler.sample, unroll=False))


def _empty_cache(params: Params, config: ModelConfig, length: int) -> Cache:
    shape = (config.num_layers, length, config.num_kv_heads, config.head_dim)
    dtype = params["embed"].dtype
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def _checked(prompt_ids: Sequence[int], config: ModelConfig) -> list[int]:
    prompt = list(prompt_ids)
    if not prompt:
        raise ValueError("the prompt is empty")
    for token in prompt:
        if not 0 <= token < config.vocab_size:
            raise ValueError(f"token id {token} is outside the vocabulary of {config.vocab_size}")
    return prompt


def _padded(prompt: list[int]) -> jax.Array:
    """Return the prompt's ids [T] filled up with zeros to a power of two."""
    tokens = np.zeros(_power_of_two(len(prompt)), np.int32)
    tokens[: len(prompt)] = prompt
    return jnp.asarray(tokens)


def _power_of_two(length: int) -> int:
    """Return the smallest power of two that is at least `length`."""
    return 1 << (length - 1).bit_length()
