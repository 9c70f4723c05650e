"""What does a compiled step do? Tokens in, keys and values to their pages, sampled tokens out.

    1. cut the packed vector into fields; a row's token is its slot's last one or the host's
    2. run the decoder over all tokens; attention reads the pool, and the backend sees to it that
    3. the new keys and values are stored in their pages
    4. sample for every decode row and for the last token of every chunk; remember it in its slot
    5. note whose hidden states or scores are not finite: such a row says nothing that counts
    6. if asked, read the length head

Log-probabilities, of what was sampled and of prompts, are programs of their own (`score_samples`,
`TargetScores`) that run behind a step, over what it leaves: within it they would be conditions that
a GPU's command buffer cannot hold, for which the host would have to wait in the middle of every
step. Knows nothing of batchers, meshes or when a step is run.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model import head
from model.attention.backend import Backend
from model.attention.contained import contained
from model.attention.inputs import Places, StepInputs, places
from model.config import ModelConfig
from model.parameters import Params
from model.sampling import Logprobs, logprobs, sample
from model.transformer import forward_keeping
from predictor.head import Weights
from serving.engine import slots
from serving.engine.layout import StepFields, StepLayout
from serving.engine.probe import Paged, Probe, Seen
from serving.engine.slots import History, Settings

SCORED_AT_ONCE = 64  # targets whose scores [V] exist at the same time


class StepOutput(NamedTuple):
    """What a step leaves behind the pool and the slots. R decode rows, then C chunks.

    `sampled` holds ids, and behind them 1 for every row whose id means nothing: a hidden state of
    one of its tokens, or a score, is NaN or infinite.
    """

    sampled: jax.Array  # i32 [2, R + C]
    logits: jax.Array  # f32 [R + C, V]; the model's own
    hidden: jax.Array  # [tokens, D]; of the chunks' tokens
    readings: jax.Array  # f32 [R + C, E]; of the length head; zeros unless asked for


@dataclass(frozen=True)
class Step:
    """The program of one bucket; `axis` is the mesh axis under shard_map, None outside.

    `unroll`: there are no loops in sampling.
    """

    config: ModelConfig
    layout: StepLayout
    page_size: int
    backend: Backend
    axis: str | None
    unroll: bool
    probe: Probe | None

    def __call__(
        self,
        pool: jax.Array,
        history: History,
        params: Params,
        head_weights: Weights,
        settings: Settings,
        packed: Int[Array, " size"],
    ) -> tuple[jax.Array, History, StepOutput]:
        """Run the step; meant to be compiled with `pool` and `history` donated."""
        fields = self.layout.split(packed)
        rows, num_tokens = self.layout.bucket.rows, self.layout.bucket.tokens
        inputs = StepInputs(
            fields.decode_position,
            fields.decode_pages,
            fields.chunk_len,
            fields.chunk_start,
            fields.chunk_pages,
        )
        place = places(inputs, num_chunk_tokens=num_tokens, page_size=self.page_size)
        last = rows + jnp.maximum(jnp.cumsum(fields.chunk_len) - 1, 0)
        ends = jnp.r_[jnp.arange(rows), last] if num_tokens else jnp.arange(rows)
        hidden, pool, kept = self._decode(params, pool, history, fields, inputs, place, ends)

        scores = head.logits(params, hidden[ends], config=self.config, axis=self.axis)
        slot = jnp.concatenate([fields.decode_slot, fields.chunk_slot])
        reply_index = jnp.concatenate([fields.decode_reply_index, fields.chunk_reply_index])
        with jax.named_scope("sampling"):
            how = slots.sampling_rows(settings, slot, reply_index)
            planes = slots.planes(history, settings)
            ids = sample(scores, how, planes, slot, unroll=self.unroll)
            history = slots.remember(history, how, slot, ids)
        with jax.named_scope("finite"):
            broken = _broken(hidden, place, rows, len(fields.chunk_len))
            broken |= ~jnp.all(jnp.isfinite(scores), axis=-1)
            sampled = jnp.stack([ids, broken.astype(jnp.int32)])
        history, readings = self._read(head_weights, pool, history, settings, fields, kept)
        return pool, history, StepOutput(sampled, scores, hidden[rows:], readings)

    def _decode(
        self,
        params: Params,
        pool: jax.Array,
        history: History,
        fields: StepFields,
        inputs: StepInputs,
        place: Places,
        ends: jax.Array,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """Run the decoder; return hidden states [T, D] and the pool with the new pages.

        Third comes what the length head may look at: every layer's output at `ends`.
        """
        fed = jnp.where(
            fields.decode_from_host > 0, fields.decode_token, history.last[fields.decode_slot]
        )
        tokens = jnp.concatenate([fed, fields.tokens])
        attention = self.backend.over(
            pool,
            inputs,
            place,
            group=self.config.queries_per_kv,
            window=self.config.sliding_window,
        )
        hidden, kv, kept = forward_keeping(
            params,
            tokens,
            place.position,
            attention.kv,
            contained(attention.attend),
            lambda x: None if self.probe is None else x[ends],
            config=self.config,
            axis=self.axis,
        )
        with jax.named_scope("write"):
            return hidden, attention.store(kv), kept

    def _read(
        self,
        weights: Weights,
        pool: jax.Array,
        history: History,
        settings: Settings,
        fields: StepFields,
        kept: jax.Array | None,
    ) -> tuple[History, jax.Array]:
        """Fold the newest states into the rows' traces; read the length head if that is wanted."""
        probe, rows = self.probe, len(fields.decode_slot)
        num = rows + len(fields.chunk_slot)
        if probe is None or kept is None:
            return history, jnp.zeros((num, 0))
        with jax.named_scope("length_head"):
            states, seen = probe.layers_of(kept), _seen(fields, settings)
            newest = probe.remember(history.trace, states, seen)
            if probe.glances and num > rows:
                chunks = Seen(*(field[rows:] for field in seen))
                paged = Paged(partial(self.backend.read, pool), fields.chunk_pages, self.page_size)
                newest = jax.lax.cond(
                    fields.reads[0] > 0,
                    lambda: probe.glance(weights, newest, chunks, paged, self.axis),
                    lambda: newest,
                )
            readings = jax.lax.cond(
                fields.reads[0] > 0,
                lambda: probe.read(weights, newest, states, seen),
                lambda: jnp.zeros((num, probe.num_edges)),
            )
        return history._replace(trace=newest), readings


def score_samples(logits: Float[Array, "n V"], sampled: Int[Array, "2 n"]) -> Int[Array, "n width"]:
    """Return the log-probabilities of what a step has sampled, i32 [R + C, 1 + 2N].

    The bits of the chosen one's, those of the best N, then their ids.
    """
    return _pack(logprobs(logits, sampled[0]))


@dataclass(frozen=True)
class TargetScores:
    """Scores the targets of a step's chunks; `axis` as in `Step`."""

    config: ModelConfig
    axis: str | None

    def __call__(
        self, params: Params, hidden: Float[Array, "N D"], targets: Int[Array, " N"]
    ) -> Int[Array, "N width"]:
        """Score each token's target, some at a time so that scores [N, V] never exist whole.

        Of the parameters it takes those of the head; returns rows as `score_samples`.
        """
        num = len(targets)
        some = min(num, SCORED_AT_ONCE)
        padding = -num % some

        def score(block: tuple[jax.Array, jax.Array]) -> jax.Array:
            scores = head.logits(params, block[0], config=self.config, axis=self.axis)
            return _pack(logprobs(scores, block[1]))

        blocks = (
            jnp.pad(hidden, ((0, padding), (0, 0))).reshape(-1, some, hidden.shape[1]),
            jnp.pad(targets, (0, padding)).reshape(-1, some),
        )
        return jax.lax.map(score, blocks).reshape(num + padding, -1)[:num]


def _broken(
    hidden: Float[Array, "T D"], place: Places, rows: int, chunks: int
) -> Bool[Array, " ends"]:
    """Say of R decode rows and C chunks whether a hidden state of one of its tokens is no number.

    Whatever is not finite in a token's way through the layers makes its hidden state NaN.
    """
    token = ~jnp.all(jnp.isfinite(hidden), axis=-1)
    of_chunk = place.chunk == jnp.arange(chunks, dtype=jnp.int32)[:, None]
    return jnp.concatenate([token[:rows], jnp.any(of_chunk & token[rows:], axis=1)])


def _seen(fields: StepFields, settings: Settings) -> Seen:
    """Say where the rows of a step stand: decode rows, then chunks."""
    slot = jnp.concatenate([fields.decode_slot, fields.chunk_slot])
    generated = jnp.concatenate([fields.decode_reply_index, fields.chunk_reply_index])
    known = jnp.concatenate([fields.decode_position + 1, fields.chunk_start + fields.chunk_len])
    return Seen(
        slot=slot,
        generated=generated,
        prompt_len=known - generated,
        turn=slots.turn_numbers(settings, slot),
        begins=jnp.arange(len(slot)) >= len(fields.decode_slot),
    )


def _pack(scored: Logprobs) -> Int[Array, "num width"]:
    floats = jnp.concatenate([scored.chosen[:, None], scored.top], axis=1)
    bits = jax.lax.bitcast_convert_type(floats, jnp.int32)
    return jnp.concatenate([bits, scored.top_ids], axis=1)
