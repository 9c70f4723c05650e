"""How is the length head read inside a step? On the states that sample, without leaving the device.

A row's recent mean of states is kept in its slot from step to step, because what a head sees is one
state and that mean. It begins with the state that ends a prompt, in a chunk. A row that goes on at
another worker takes it along (`row_of`, `with_row`): a row that decodes always has one. Knows no
plans; the head's weights are an argument of the step.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from predictor.edges import intervals_up_to
from predictor.features import features, recent_mean
from predictor.head import Weights
from predictor.saved import HeadSpec


class Trace(NamedTuple):
    """What is remembered of rows' states; S slots, L layers that the head looks at.

    Of one row, without S.
    """

    mean: jax.Array  # f32 [S, L, D]; of normalised states
    num: jax.Array  # i32 [S]; states that it is of


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

    def abstract_weights(self) -> Any:
        """Return the shapes of the head's weights."""
        head, spec = self.spec.build(), self.spec
        return jax.eval_shape(lambda: head.init(jax.random.key(0), spec.num_features))

    def empty(self, num_slots: int) -> Trace | None:
        """Return a trace of no rows; None if the head looks at no mean, so that none is kept."""
        if self.spec.reach is None:
            return None
        mean = jnp.zeros((num_slots, len(self.spec.layers), self.spec.hidden_size), jnp.float32)
        return Trace(mean, jnp.zeros(num_slots, jnp.int32))

    def layers_of(self, kept: Float[Array, "A R D"]) -> Float[Array, "R L D"]:
        """Pick the layers to look at out of those of the whole model."""
        return jnp.moveaxis(kept[jnp.array([layer - 1 for layer in self.spec.layers])], 0, 1)

    def remember(
        self, trace: Trace | None, states: Float[Array, "R L D"], seen: Seen
    ) -> Trace | None:
        """Fold the rows' newest states into their means."""
        if trace is None or self.spec.reach is None:
            return None
        count = jnp.where(seen.begins, 1, trace.num[seen.slot] + 1)
        mean = jnp.where(seen.begins[:, None, None], 0, trace.mean[seen.slot])
        mean = recent_mean(mean, states, count[:, None, None], self.spec.reach)
        return Trace(
            trace.mean.at[seen.slot].set(mean),
            trace.num.at[seen.slot].set(jnp.minimum(count, self.spec.reach)),
        )

    def read(
        self, weights: Weights, trace: Trace | None, states: Float[Array, "R L D"], seen: Seen
    ) -> Float[Array, "R E"]:
        """Return the rows' curves; `trace` has their newest states in it already."""
        looked_at = states.astype(jnp.float32)
        if trace is not None:
            looked_at = jnp.concatenate([looked_at, trace.mean[seen.slot]], axis=1)
        row = features(looked_at, seen.generated, seen.prompt_len, seen.turn)
        return self.spec.build().alive(weights, row)


def row_of(trace: Trace, slot: jax.Array) -> Trace:
    """Return what is remembered of one slot's row."""
    return Trace(trace.mean[slot], trace.num[slot])


def with_row(trace: Trace, slot: jax.Array, row: Trace) -> Trace:
    """Let a slot have what `row_of` returned, here or on another mesh."""
    return Trace(trace.mean.at[slot].set(row.mean), trace.num.at[slot].set(row.num))
