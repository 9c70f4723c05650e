"""How is the length head read inside a step? On the states that sample, without leaving the device.

A row's recent mean of states is kept in its slot from step to step, because what a head sees is one
state and that mean. It begins with the state that ends a prompt, in a chunk, and with it the prompt
is glanced at. A row that goes on at another worker takes both along (`row_of`, `with_row`): a row
that decodes always has them. One that lost its slot begins a mean anew in the middle of its reply,
which no head was trained on: until that is long enough it has no reading, and others go on
believing what they did. Knows no plans; the head's weights are an argument of the step.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from predictor.edges import intervals_up_to
from predictor.features import features, recent_mean
from predictor.glance import look
from predictor.head import Weights
from predictor.saved import GLANCE, HeadSpec

LONG_ENOUGH = 2
"""Of how many reaches a mean is that tells as much as one from the reply's beginning (ours: LOG.md
has the figures)."""


class Trace(NamedTuple):
    """What is remembered of rows' states and prompts; S slots, L layers that the head looks at.

    Of one row, without S. Where a head looks at no means L is 0, where it does not glance at
    prompts there are 0 numbers.
    """

    mean: jax.Array  # f32 [S, L, D]; of normalised states
    num: jax.Array  # i32 [S]; states since it began
    glanced: jax.Array  # f32 [S, numbers]; what was kept of the prompt


class Paged(NamedTuple):
    """Where the prompts of C chunks are; `read` is the backend's, of a pool that has them."""

    read: Callable[[int, Int[Array, "C n"]], tuple[jax.Array, jax.Array]]
    pages: Int[Array, "C M"]
    page_size: int


class Seen(NamedTuple):
    """Where the rows of a step stand; R of them.

    `begins`: it is the row's first state, and whatever is in its slot is another's.
    """

    slot: Int[Array, " R"]
    generated: Int[Array, " R"]
    prompt_len: Int[Array, " R"]
    turn: Int[Array, " R"]
    begins: Bool[Array, " R"]


@dataclass(frozen=True)
class Probe:
    """A head as a step reads it."""

    spec: HeadSpec

    @property
    def num_edges(self) -> int:
        """Points of a curve."""
        return intervals_up_to(self.spec.horizon) + 1

    @property
    def glances(self) -> bool:
        """Whether the head looks at prompts."""
        return self.spec.glance is not None

    def abstract_weights(self) -> Any:
        """Return the shapes of the head's weights."""
        return jax.eval_shape(lambda: self.spec.init(jax.random.key(0)))

    def empty(self, num_slots: int) -> Trace | None:
        """Return a trace of no rows; None if the head has nothing to remember."""
        spec = self.spec
        if spec.reach is None and spec.glance is None:
            return None
        layers = 0 if spec.reach is None else len(spec.layers)
        numbers = 0 if spec.glance is None else spec.glance.numbers
        return Trace(
            mean=jnp.zeros((num_slots, layers, spec.hidden_size), jnp.float32),
            num=jnp.zeros(num_slots, jnp.int32),
            glanced=jnp.zeros((num_slots, numbers), jnp.float32),
        )

    def layers_of(self, kept: Float[Array, "A R D"]) -> Float[Array, "R L D"]:
        """Pick the layers to look at out of those of the whole model."""
        return jnp.moveaxis(kept[jnp.array([layer - 1 for layer in self.spec.layers])], 0, 1)

    def remember(
        self, trace: Trace | None, states: Float[Array, "R L D"], seen: Seen
    ) -> Trace | None:
        """Fold the rows' newest states into their means."""
        if trace is None or self.spec.reach is None:
            return trace
        count = jnp.where(seen.begins, 1, trace.num[seen.slot] + 1)
        mean = jnp.where(seen.begins[:, None, None], 0, trace.mean[seen.slot])
        mean = recent_mean(mean, states, count[:, None, None], self.spec.reach)
        return trace._replace(
            mean=trace.mean.at[seen.slot].set(mean),
            num=trace.num.at[seen.slot].set(count),
        )

    def glance(
        self, weights: Weights, trace: Trace | None, chunks: Seen, paged: Paged, axis: str | None
    ) -> Trace | None:
        """Look at the prompts that end in these chunks, and remember what is kept of them.

        Once a reply: wherever it goes on, its trace goes along. `axis`: the mesh axis that a pool's
        heads are sharded over, None for none.
        """
        how = self.spec.glance
        if trace is None or how is None:
            return trace
        size, table = paged.page_size, paged.pages
        # Padding has no prompt; whatever is at its position 0 goes to the scratch slot.
        end = jnp.maximum(chunks.prompt_len, 1)
        begin = jnp.maximum(end - how.window, 0)
        count = min(table.shape[1], 1 + -(-how.window // size))
        entry = (begin // size)[:, None] + jnp.arange(count, dtype=jnp.int32)
        pages = jnp.take_along_axis(table, jnp.minimum(entry, table.shape[1] - 1), axis=1)
        position = (entry[:, :, None] * size + jnp.arange(size, dtype=jnp.int32)).reshape(
            len(table), -1
        )
        inside = (position >= begin[:, None]) & (position < end[:, None])
        keys, values = (
            kv.reshape(*position.shape, *kv.shape[3:]) for kv in paged.read(how.layer - 1, pages)
        )
        glanced = look(weights[GLANCE], keys, values, inside, axis)
        return trace._replace(glanced=trace.glanced.at[chunks.slot].set(glanced))

    def read(
        self, weights: Weights, trace: Trace | None, states: Float[Array, "R L D"], seen: Seen
    ) -> Float[Array, "R E"]:
        """Return the rows' curves; `trace` has their newest states in it already.

        All is 0 in that of a row without a reading.
        """
        looked_at, glanced = states.astype(jnp.float32), None
        if trace is not None:
            looked_at = jnp.concatenate([looked_at, trace.mean[seen.slot]], axis=1)
            glanced = trace.glanced[seen.slot]
        row = features(looked_at, seen.generated, seen.prompt_len, seen.turn, glanced)
        alive = self.spec.build().alive(weights, row)
        if trace is None or self.spec.reach is None:
            return alive
        wanted = jnp.minimum(seen.generated + 1, LONG_ENOUGH * self.spec.reach)
        return jnp.where(trace.num[seen.slot, None] >= wanted[:, None], alive, 0)


def row_of(trace: Trace, slot: jax.Array) -> Trace:
    """Return what is remembered of one slot's row."""
    return Trace(*(kept[slot] for kept in trace))


def with_row(trace: Trace, slot: jax.Array, row: Trace) -> Trace:
    """Let a slot have what `row_of` returned, here or on another mesh."""
    return Trace(*(kept.at[slot].set(own) for kept, own in zip(trace, row, strict=True)))
