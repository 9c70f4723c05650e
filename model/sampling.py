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
from jaxtyping import Array, Bool, Float, Int, UInt32

from model.id_masks import ALL_ALLOWED, WORD, mask_words
from model.noise import gumbel

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
    allowed: jax.Array  # u32 [S, ceil(V / 32)]; bit i of word j: whether id 32 j + i may come


class Logprobs(NamedTuple):
    """Log-probabilities of R positions: the chosen token's, and the best N with their ids."""

    chosen: jax.Array  # f32 [R]
    top: jax.Array  # f32 [R, N], falling
    top_ids: jax.Array  # i32 [R, N]


def sample(
    logits: Float[Array, "R V"],
    rows: SamplingRows,
    planes: Planes,
    place: Int[Array, " R"],
    *,
    unroll: bool,
) -> Int[Array, " R"]:
    """Return each row's next token id; row i reads `planes` at `place[i]`.

    What no row asks for is not computed. With `unroll` there is no loop in it, as in
    `keep_until`; the ids are the same.
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
        lambda: jnp.where(rows.temperature > 0, _draw(penalised, rows, unroll=unroll), best),
        lambda: best,
    )


def penalise(
    logits: Float[Array, "R V"], rows: SamplingRows, planes: Planes
) -> Float[Array, "R V"]:
    """Apply repetition, frequency and presence penalties, bias, the minimum length and a mask.

    Repetition (CTRL, section 4.1) looks at prompt and reply, the other two at the reply only.
    `planes` has one place a row.
    """
    replied = planes.counts > 0
    factor = jnp.where(planes.in_prompt | replied, rows.repetition_penalty[:, None], 1.0)
    scores = jnp.where(logits > 0, logits / factor, logits * factor)
    scores = scores - rows.frequency_penalty[:, None] * planes.counts
    scores = scores - jnp.where(replied, rows.presence_penalty[:, None], 0.0)
    too_short = (rows.reply_index < rows.min_tokens)[:, None]
    banned = (too_short & planes.stops) | ~_unpacked(planes.allowed, logits.shape[1])
    return jnp.where(banned, -jnp.inf, scores + planes.bias)


def _unpacked(words: UInt32[Array, "R W"], vocab_size: int) -> Bool[Array, "R V"]:
    bits = words[:, :, None] >> jnp.arange(WORD, dtype=jnp.uint32)
    return (bits & 1).astype(jnp.bool_).reshape(len(words), -1)[:, :vocab_size]


def _draw(scores: Float[Array, "R V"], rows: SamplingRows, *, unroll: bool) -> Int[Array, " R"]:
    """Draw from the tempered, filtered distribution: the best of scores plus Gumbel noise."""
    best = jnp.max(scores, axis=-1, keepdims=True)
    # The best score becomes exactly 0, so that no temperature, however small, overflows.
    above = scores - jnp.where(jnp.isfinite(best), best, 0.0)
    tempered = above / jnp.where(rows.temperature > 0, rows.temperature, 1.0)[:, None]
    kept = filtered(tempered, rows, unroll=unroll)
    noise = gumbel(rows.seed, rows.reply_index, scores.shape[1])
    return jnp.argmax(kept + noise, axis=-1).astype(jnp.int32)


def filtered(
    tempered: Float[Array, "R V"], rows: SamplingRows, *, unroll: bool
) -> Float[Array, "R V"]:
    """Set what min-p, top-k and top-p drop to -inf; `tempered` has 0 as each row's maximum."""
    kept = jnp.where(tempered >= jnp.log(rows.min_p)[:, None], tempered, -jnp.inf)
    vocab_size = tempered.shape[1]
    limits = jnp.stack([rows.top_k.astype(jnp.float32), rows.top_p])
    neutral = jnp.array([vocab_size, 1], jnp.float32)

    # Top-k counts entries and top-p their probabilities; otherwise they are the same cut, so one
    # body serves both in turn: a program half the size, and each is skipped if no row wants it.
    def cut(number: jax.Array | int, kept: jax.Array) -> jax.Array:
        limit, off = limits[number], neutral[number]

        def apply() -> jax.Array:
            weights = jnp.where(number == 0, 1.0, jax.nn.softmax(kept, axis=-1))
            found = keep_until(kept, weights, limit, unroll=unroll)
            return jnp.where((limit < off)[:, None], found, kept)

        return jax.lax.cond(jnp.any(limit < off), apply, lambda: kept)

    return cut(1, cut(0, kept)) if unroll else jax.lax.fori_loop(0, 2, cut, kept)


def keep_until(
    scores: Float[Array, "R V"],
    weights: Float[Array, "R V"],
    limit: Float[Array, " R"],
    *,
    unroll: bool,
) -> Float[Array, "R V"]:
    """Keep each row's fewest best scores whose weights reach `limit`; the rest becomes -inf.

    With `unroll` its passes stand one behind the other: a GPU's command buffers hold no loop, and
    the host would have to wait for one in every step, whether it runs or not.
    """
    first, second = _ordered(scores)

    def kept(cut: tuple[jax.Array, jax.Array]) -> jax.Array:
        better, worst = cut[0][..., None], cut[1][..., None]
        return (first > better) | ((first == better) & (second >= worst))

    def enough(cut: tuple[jax.Array, jax.Array]) -> jax.Array:
        """Say it of cuts [R], or of several for each row, [n, R]."""
        return jnp.sum(jnp.where(kept(cut), weights, 0.0), axis=-1) >= limit

    # The cut is the greatest key at which enough is kept, built bit by bit from the top: some forty
    # passes over the scores, where sorting them costs far more.
    def decide(step: jax.Array, cut: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        one = jnp.uint32(1)
        high = jnp.where(step < 32, one << (31 - step).astype(jnp.uint32), 0)
        low = jnp.where(step < 32, 0, one << (32 + bits - 1 - step).astype(jnp.uint32))
        larger = (cut[0] | high, cut[1] | low)
        better = enough(larger)
        return jnp.where(better, larger[0], cut[0]), jnp.where(better, larger[1], cut[1])

    bits = scores.shape[1].bit_length()
    nothing = jnp.zeros(scores.shape[0], jnp.uint32)
    if unroll:
        high = _greatest(nothing, 32, lambda high: enough((high, nothing)))
        cut = (high, _greatest(nothing, bits, lambda low: enough((high, low))))
    else:
        cut = jax.lax.fori_loop(0, 32 + bits, decide, (nothing, nothing))
    return jnp.where(kept(cut), scores, -jnp.inf)


def _greatest(
    nothing: UInt32[Array, " R"], bits: int, enough: Callable[[jax.Array], jax.Array]
) -> UInt32[Array, " R"]:
    """Return the greatest number of so many bits at which there is enough, two bits a pass."""
    passes = (bits + 1) // 2
    # Held, so that it is no constant: every pass is the same computation then, compiled once.
    unit = jax.lax.optimization_barrier(jnp.uint32(1 << (2 * passes - 2)))
    found = nothing
    digits = jnp.arange(1, 4, dtype=jnp.uint32)[:, None]
    for _ in range(passes):
        # More is kept below: what is enough for a digit is for the smaller ones.
        digit = jnp.sum(enough(found + unit * digits), axis=0, dtype=jnp.uint32)
        found = found + unit * digit
        unit = unit >> 2
    return found


def _ordered(scores: Float[Array, "R V"]) -> tuple[UInt32[Array, "R V"], UInt32[Array, " V"]]:
    """Return two-part keys, all different, that grow with the score and then with a lower id."""
    bits = jax.lax.bitcast_convert_type(jnp.where(scores == 0, 0.0, scores), jnp.uint32)
    negative = bits >> 31 == 1
    ids = jnp.arange(scores.shape[1], dtype=jnp.uint32)
    return jnp.where(negative, ~bits, bits | jnp.uint32(1 << 31)), scores.shape[1] - 1 - ids


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
    """Return planes without history, bias, stop ids or mask."""
    return Planes(
        counts=jnp.zeros((places, vocab_size), jnp.int32),
        in_prompt=jnp.zeros((places, vocab_size), jnp.bool_),
        bias=jnp.zeros((places, vocab_size), jnp.float32),
        stops=jnp.zeros((places, vocab_size), jnp.bool_),
        allowed=jnp.full((places, mask_words(vocab_size)), ALL_ALLOWED, jnp.uint32),
    )
