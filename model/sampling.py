"""Which token comes next? Penalties, bias, temperature, filters and noise, one row at a time.

Pure functions over scores [R, V]; a row's token depends on its own scores and parameters alone.
Knows nothing of slots' life, of text or of who asked: `serving/engine/slots.py` keeps the state.

Order: penalties and bias on the model's scores, then (unless temperature is 0, which takes the
best) temperature, min-p, top-k, top-p, each on what the one before left, then Gumbel noise.
Ties go to the lowest id everywhere.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

MAX_LOGPROBS = 20  # alternatives per position; the endpoint's largest `top_logprobs`


class SamplingRows(NamedTuple):
    """How each row samples; every leaf has a leading R. `seed` holds the low and the high half.

    Neutral values: top_k = V, top_p = 1, min_p = 0, repetition 1, presence 0, frequency 0.
    `uses_planes` False promises that the penalties are neutral and the row's planes are not read.
    """

    temperature: jax.Array  # f32 [R]; 0 is greedy
    top_k: jax.Array  # i32 [R]
    top_p: jax.Array  # f32 [R]
    min_p: jax.Array  # f32 [R]
    repetition_penalty: jax.Array  # f32 [R]
    presence_penalty: jax.Array  # f32 [R]
    frequency_penalty: jax.Array  # f32 [R]
    min_tokens: jax.Array  # i32 [R]; stop ids are banned while reply_index is below it
    seed: jax.Array  # i32 [R, 2]
    uses_planes: jax.Array  # bool [R]
    reply_index: jax.Array  # i32 [R]; place in the reply of the token sampled now


class Planes(NamedTuple):
    """What sampling remembers per vocabulary entry; every leaf has a leading S (places)."""

    counts: jax.Array  # i32 [S, V]; occurrences in the reply so far
    in_prompt: jax.Array  # bool [S, V]
    bias: jax.Array  # f32 [S, V]; added to the scores; -inf forbids
    stops: jax.Array  # bool [S, V]; ids that `min_tokens` bans


class Logprobs(NamedTuple):
    """Log-probabilities of R positions: the chosen token's, and the best N with their ids."""

    chosen: jax.Array  # f32 [R]
    top: jax.Array  # f32 [R, N], falling
    top_ids: jax.Array  # i32 [R, N]


def sample(
    logits: Float[Array, "R V"], rows: SamplingRows, planes: Planes, place: Int[Array, " R"]
) -> Int[Array, " R"]:
    """Return each row's next token id; row i reads `planes` at `place[i]`.

    What no row asks for is not computed.
    """
    penalised = jax.lax.cond(
        jnp.any(rows.uses_planes),
        lambda: jnp.where(
            rows.uses_planes[:, None],
            penalise(logits, rows, Planes(*(plane[place] for plane in planes))),
            logits,
        ),
        lambda: logits,
    )
    best = jnp.argmax(penalised, axis=-1).astype(jnp.int32)
    return jax.lax.cond(
        jnp.any(rows.temperature > 0),
        lambda: jnp.where(rows.temperature > 0, _draw(penalised, rows), best),
        lambda: best,
    )


def penalise(
    logits: Float[Array, "R V"], rows: SamplingRows, planes: Planes
) -> Float[Array, "R V"]:
    """Apply repetition, frequency and presence penalties, bias and the minimum length.

    Repetition (CTRL, section 4.1) looks at prompt and reply, the other two at the reply only.
    `planes` has one place a row.
    """
    replied = planes.counts > 0
    factor = jnp.where(planes.in_prompt | replied, rows.repetition_penalty[:, None], 1.0)
    scores = jnp.where(logits > 0, logits / factor, logits * factor)
    scores = scores - rows.frequency_penalty[:, None] * planes.counts
    scores = scores - jnp.where(replied, rows.presence_penalty[:, None], 0.0)
    too_short = (rows.reply_index < rows.min_tokens)[:, None]
    return jnp.where(too_short & planes.stops, -jnp.inf, scores + planes.bias)


def _draw(scores: Float[Array, "R V"], rows: SamplingRows) -> Int[Array, " R"]:
    """Draw from the tempered, filtered distribution: the best of scores plus Gumbel noise."""
    best = jnp.max(scores, axis=-1, keepdims=True)
    # The best score becomes exactly 0, so that no temperature, however small, overflows.
    above = scores - jnp.where(jnp.isfinite(best), best, 0.0)
    tempered = above / jnp.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
    kept = filtered(tempered, rows)
    noise = jax.vmap(lambda seed, index: gumbel(seed, index, scores.shape[1]))
    return jnp.argmax(kept + noise(rows.seed, rows.reply_index), axis=-1).astype(jnp.int32)


def gumbel(seed: Int[Array, "2"], reply_index: Int[Array, ""], size: int) -> Float[Array, " size"]:
    """Return the noise of one token: a function of the 64-bit seed and its place in the reply."""
    halves = jax.lax.bitcast_convert_type(seed, jnp.uint32)
    key = jax.random.wrap_key_data(halves, impl="threefry2x32")
    return jax.random.gumbel(jax.random.fold_in(key, reply_index), (size,), jnp.float32)


def filtered(tempered: Float[Array, "R V"], rows: SamplingRows) -> Float[Array, "R V"]:
    """Set what min-p, top-k and top-p drop to -inf; `tempered` has 0 as each row's maximum."""
    kept = jnp.where(tempered >= jnp.log(rows.min_p)[:, None], tempered, -jnp.inf)
    kept = jax.lax.cond(
        jnp.any(rows.top_k < tempered.shape[1]),
        lambda: keep_top_k(kept, rows.top_k),
        lambda: kept,
    )
    return jax.lax.cond(
        jnp.any(rows.top_p < 1.0), lambda: keep_top_p(kept, rows.top_p), lambda: kept
    )


def keep_top_k(scores: Float[Array, "R V"], top_k: Int[Array, " R"]) -> Float[Array, "R V"]:
    """Keep each row's `top_k` best scores; the rest becomes -inf."""
    keys = _ordered(scores)

    def holds(cut: jax.Array) -> jax.Array:
        return jnp.sum(keys >= cut[:, None], axis=-1) >= top_k

    cut = _largest(holds, scores.shape[0])[:, None]
    room = top_k - jnp.sum(keys > cut, axis=-1)
    tied = keys == cut
    kept = (keys > cut) | (tied & (jnp.cumsum(tied, axis=-1) <= room[:, None]))
    return jnp.where(kept, scores, -jnp.inf)


def keep_top_p(scores: Float[Array, "R V"], top_p: Float[Array, " R"]) -> Float[Array, "R V"]:
    """Keep the fewest best scores whose probabilities reach `top_p` (nucleus sampling).

    Rows with `top_p` 1 come back unchanged, whatever rounding says.
    """
    keys = _ordered(scores)
    probabilities = jax.nn.softmax(scores, axis=-1)

    def holds(cut: jax.Array) -> jax.Array:
        mass = jnp.sum(jnp.where(keys >= cut[:, None], probabilities, 0.0), axis=-1)
        return mass >= top_p

    cut = _largest(holds, scores.shape[0])[:, None]
    above = jnp.sum(jnp.where(keys > cut, probabilities, 0.0), axis=-1, keepdims=True)
    tied = keys == cut
    earlier = jnp.cumsum(tied, axis=-1) - 1  # tied entries with a lower id
    short = above + earlier * probabilities < top_p[:, None]
    kept = (keys > cut) | (tied & short) | (top_p >= 1.0)[:, None]
    return jnp.where(kept, scores, -jnp.inf)


def _ordered(scores: Float[Array, "R V"]) -> UInt32[Array, "R V"]:
    """Map floats to unsigned integers of the same order (both zeros to one)."""
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0.0, scores), jnp.uint32)
    negative = bits >> 31 == 1
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31))


def _largest(holds: Callable[[jax.Array], jax.Array], rows: int) -> UInt32[Array, " rows"]:
    """Return each row's largest 32-bit number for which `holds`, which is true up to some number.

    Built bit by bit from the top: 32 passes over the scores, where sorting them costs far more.
    """

    def decide(step: jax.Array, cut: jax.Array) -> jax.Array:
        candidate = cut | (jnp.uint32(1 << 31) >> step.astype(jnp.uint32))
        return jnp.where(holds(candidate), candidate, cut)

    return jax.lax.fori_loop(0, 32, decide, jnp.zeros(rows, jnp.uint32))


def logprobs(logits: Float[Array, "R V"], chosen: Int[Array, " R"]) -> Logprobs:
    """Return log-probabilities under the model's own distribution, before any penalty.

    N is MAX_LOGPROBS, or V where the vocabulary is smaller.
    """
    scores = jax.nn.log_softmax(logits, axis=-1)
    best, ids = jax.lax.top_k(scores, min(MAX_LOGPROBS, scores.shape[1]))
    own = jnp.take_along_axis(scores, chosen[:, None], axis=-1)[:, 0]
    return Logprobs(own, best, ids.astype(jnp.int32))


def seed_halves(seed: int) -> tuple[int, int]:
    """Split a signed 64-bit seed into two signed 32-bit halves, low first, losing nothing."""
    raw = seed.to_bytes(8, "little", signed=True)
    low, high = (int.from_bytes(raw[i : i + 4], "little", signed=True) for i in (0, 4))
    return low, high


def empty_planes(places: int, vocab_size: int) -> Planes:
    """Return planes without history, bias or stop ids."""
    return Planes(
        counts=jnp.zeros((places, vocab_size), jnp.int32),
        in_prompt=jnp.zeros((places, vocab_size), jnp.bool_),
        bias=jnp.zeros((places, vocab_size), jnp.float32),
        stops=jnp.zeros((places, vocab_size), jnp.bool_),
    )
