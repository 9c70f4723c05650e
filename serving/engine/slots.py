"""What does the device remember of each row between steps? Its sampling, its last token, its trace.

Knows nothing of pages or of the model. A row's slot is loaded once, when the row begins; steps then
need only its number. One slot more than there are rows is the scratch slot, where padding samples.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from model.id_masks import ALL_ALLOWED, mask_words
from model.sampling import Planes, SamplingRows, seed_halves
from serving.core.plan import LoadSlot
from serving.engine.probe import Trace

_FLOATS = ("temperature", "top_p", "min_p", "repetition_penalty", "presence_penalty")
NUM_FLOATS = len(_FLOATS) + 1
NUM_INTS = 6
_IN_PROMPT, _IS_STOP = 1, 2  # bits of a plane of flags on its way to the device


class History(NamedTuple):
    """What steps change; S slots."""

    last: jax.Array  # i32 [S]; the token sampled last
    counts: jax.Array  # i32 [S, V]
    trace: Trace | None  # for a length head, where there is one that looks back


class Settings(NamedTuple):
    """What only `load_scalars`, `load_planes` and `load_masks` change."""

    floats: jax.Array  # f32 [S, 6]; _FLOATS and the frequency penalty
    ints: jax.Array  # i32 [S, 6]; top_k, min_tokens, seed (two halves), uses_planes, turn number
    in_prompt: jax.Array  # bool [S, V]
    bias: jax.Array  # f32 [S, V]
    stops: jax.Array  # bool [S, V]
    allowed: jax.Array  # u32 [S, ceil(V / 32)]; what a grammar leaves, in bits


def empty(num_slots: int, vocab_size: int, trace: Trace | None) -> tuple[History, Settings]:
    """Return slots that are greedy and remember nothing."""
    plane = (num_slots, vocab_size)
    history = History(jnp.zeros(num_slots, jnp.int32), jnp.zeros(plane, jnp.int32), trace)
    settings = Settings(
        floats=jnp.tile(jnp.array([0, 1, 0, 1, 0, 0], jnp.float32), (num_slots, 1)),
        ints=jnp.tile(jnp.array([vocab_size, 0, 0, 0, 0, 0], jnp.int32), (num_slots, 1)),
        in_prompt=jnp.zeros(plane, jnp.bool_),
        bias=jnp.zeros(plane, jnp.float32),
        stops=jnp.zeros(plane, jnp.bool_),
        allowed=jnp.full((num_slots, mask_words(vocab_size)), ALL_ALLOWED, jnp.uint32),
    )
    return history, settings


def sampling_rows(settings: Settings, slot: jax.Array, reply_index: jax.Array) -> SamplingRows:
    """Look up how rows sample; `slot` and `reply_index` are i32 [R]."""
    floats, ints = settings.floats[slot], settings.ints[slot]
    temperature, top_p, min_p, repetition, presence, frequency = floats.T
    return SamplingRows(
        temperature=temperature,
        top_k=ints[:, 0],
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
        min_tokens=ints[:, 1],
        seed=ints[:, 2:4],
        uses_planes=ints[:, 4] > 0,
        reply_index=reply_index,
    )


def planes(history: History, settings: Settings) -> Planes:
    """Return all slots' planes, for rows to look up."""
    return Planes(
        history.counts, settings.in_prompt, settings.bias, settings.stops, settings.allowed
    )


def remember(history: History, rows: SamplingRows, slot: jax.Array, ids: jax.Array) -> History:
    """Note what each row has just sampled; only rows that use planes are counted."""
    return history._replace(
        last=history.last.at[slot].set(ids),
        counts=history.counts.at[slot, ids].add(rows.uses_planes.astype(jnp.int32)),
    )


def turn_numbers(settings: Settings, slot: jax.Array) -> jax.Array:
    """Look up the place of rows' turns in their conversations, i32 [R]."""
    return settings.ints[slot, 5]


def load_scalars(settings: Settings, packed: jax.Array) -> Settings:
    """Set one slot's parameters from `pack_scalars`."""
    slot = packed[0]
    floats = jax.lax.bitcast_convert_type(packed[1 : 1 + NUM_FLOATS], jnp.float32)
    return settings._replace(
        floats=settings.floats.at[slot].set(floats),
        ints=settings.ints.at[slot].set(packed[1 + NUM_FLOATS :]),
    )


def load_planes(
    history: History, settings: Settings, slot: jax.Array, packed: jax.Array
) -> tuple[History, Settings]:
    """Set one slot's planes from `pack_planes`, i32 [3, V]; its mask forbids nothing then."""
    flags, bias = packed[1], jax.lax.bitcast_convert_type(packed[2], jnp.float32)
    history = history._replace(counts=history.counts.at[slot].set(packed[0]))
    settings = settings._replace(
        in_prompt=settings.in_prompt.at[slot].set(flags & _IN_PROMPT > 0),
        bias=settings.bias.at[slot].set(bias),
        stops=settings.stops.at[slot].set(flags & _IS_STOP > 0),
        allowed=settings.allowed.at[slot].set(jnp.uint32(ALL_ALLOWED)),
    )
    return history, settings


def load_masks(settings: Settings, slot: jax.Array, masks: jax.Array) -> Settings:
    """Set the masks of slots [n], u32 [n, ceil(V / 32)]."""
    return settings._replace(allowed=settings.allowed.at[slot].set(masks))


def pack_scalars(load: LoadSlot, vocab_size: int) -> NDArray[np.int32]:
    """Write a slot's number and parameters into a fresh vector, i32 [1 + 6 + 6]."""
    sampling = load.sampling
    floats = [getattr(sampling, name) for name in _FLOATS] + [sampling.frequency_penalty]
    top_k = vocab_size if sampling.top_k is None else min(sampling.top_k, vocab_size)
    # Where there is a grammar, its masks see to the least length too (`masks`).
    min_tokens = 0 if sampling.grammar is not None else sampling.min_tokens
    ints = [top_k, min_tokens, *seed_halves(sampling.seed), int(sampling.needs_planes)]
    ints.append(load.turn_number)
    bits = np.array(floats, np.float32).view(np.int32)
    packed = np.concatenate([np.array([load.slot], np.int32), bits, np.array(ints, np.int32)])
    packed.setflags(write=False)
    return packed


def pack_planes(load: LoadSlot, vocab_size: int) -> NDArray[np.int32]:
    """Write a slot's reply counts, flags and bias into a fresh array, i32 [3, V]."""
    sampling = load.sampling
    packed = np.zeros((3, vocab_size), np.int32)
    packed[0] = np.bincount(np.array(load.reply, np.int64), minlength=vocab_size)
    packed[1, list(load.prompt)] |= _IN_PROMPT
    packed[1, list(sampling.stop_ids)] |= _IS_STOP
    bias = packed[2].view(np.float32)
    if sampling.allowed_ids is not None:
        bias[:] = -np.inf
        bias[list(sampling.allowed_ids)] = 0.0
    for token, value in sampling.logit_bias:
        bias[token] += value
    packed.setflags(write=False)
    return packed
