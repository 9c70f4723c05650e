"""How is a head fitted to records? AdamW on its own loss, every record equally likely.

A head that glances at prompts is fitted with its look, of whose numbers some are left out in every
batch: without that it learns the prompts by heart (LOG.md has the figures). A batch then holds the
records of whole replies with prompts of like length, so that each prompt is looked at once. Knows
neither files nor layers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray

from predictor.glance import Glance, look
from predictor.glanced import cut_out, glanced, padded_lengths
from predictor.head import Head, Weights
from predictor.prompts import Prompts
from predictor.saved import GLANCE, HeadSpec
from train.passes import Recipe, Taken, begin, take_passes

AT_ONCE = 8192
"""Records whose losses are computed together."""
FINAL_RATE_SHARE = 0.02
DISTINCT = 32
"""Prompts of a batch are padded to a multiple of so many."""


class Examples(NamedTuple):
    """What a head is fitted to: features [N, F] without those of prompts, and what came."""

    x: jax.Array
    remaining: jax.Array
    censored: jax.Array


@dataclass(frozen=True)
class Asked:
    """The prompts of N examples, and how they are looked at.

    `own` [N] says which prompt is each example's.
    """

    how: Glance
    prompts: Prompts
    own: NDArray[np.int64]

    @cached_property
    def kv(self) -> jax.Array:
        """Keys and values of all prompts, on the device."""
        return jnp.asarray(self.prompts.kv)

    @cached_property
    def spans(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each prompt begins in `kv`, and how many of its tokens are looked at."""
        return self.prompts.spans(self.how.window)

    def look_at(self, batch: "Batch") -> "Look":
        """Say where the prompts of a batch are."""
        begins, counts = (part[batch.prompts] for part in self.spans)
        return Look(self.kv, *(jnp.asarray(x, jnp.int32) for x in (begins, counts, batch.own)))


class Batch(NamedTuple):
    """Numbers of B examples, of the U prompts they have, and which of these is each one's."""

    records: NDArray[np.int64]
    prompts: NDArray[np.int64]
    own: NDArray[np.int64]


class Look(NamedTuple):
    """Where U prompts are in `kv`, and which of them is each of B examples'."""

    kv: jax.Array
    begins: jax.Array
    counts: jax.Array
    own: jax.Array


@dataclass(frozen=True, slots=True)
class Data:
    """Examples, and their prompts if the head looks at them."""

    examples: Examples
    asked: Asked | None

    def __len__(self) -> int:
        """Count the examples."""
        return len(self.examples.x)


def fit(
    spec: HeadSpec,
    train_on: Data,
    tune_on: Data,
    recipe: Recipe,
    dropout: float,
    directory: Path,
    report: Callable[[int, float, float], None],
) -> tuple[Weights, int]:
    """Train from the last saved pass in `directory`, or from the start.

    `dropout`: the share of what is kept of a prompt that a batch does without. Calls `report(pass,
    loss on train, loss on tune)` after each pass. Returns the best weights and the number of their
    pass.
    """
    steps = max(1, len(train_on) // recipe.batch)
    schedule = optax.cosine_decay_schedule(recipe.rate, steps * recipe.passes, FINAL_RATE_SHARE)
    optimizer = optax.adamw(schedule, weight_decay=recipe.decay)
    step = jax.jit(
        Step(spec, dropout, optimizer).__call__, donate_argnums=0, static_argnames="length"
    )
    asked = train_on.asked

    def take(number: int, weights: Weights, moments: optax.OptState) -> Taken:
        key = jax.random.fold_in(jax.random.key(recipe.seed), number)
        rng = np.random.default_rng((recipe.seed, number))
        losses: list[jax.Array] = []
        for place, (batch, length) in enumerate(batches(train_on, recipe.batch, rng)):
            looks = None if asked is None else asked.look_at(batch)
            own = jax.random.fold_in(key, place)
            (weights, moments), loss = step(
                (weights, moments), train_on.examples, batch.records, looks, own, length=length
            )
            losses.append(loss)
        return weights, moments, float(jnp.stack(losses).mean())

    state = begin(spec.init(jax.random.key(recipe.seed)), optimizer)
    return take_passes(state, recipe, directory, take, Tuning(spec, tune_on), report)


@dataclass(frozen=True)
class Step:
    """One step on a batch."""

    spec: HeadSpec
    dropout: float
    optimizer: optax.GradientTransformation

    def __call__(
        self,
        state: tuple[Weights, optax.OptState],
        data: Examples,
        records: jax.Array,
        looks: Look | None,
        key: jax.Array,
        *,
        length: int,
    ) -> tuple[tuple[Weights, optax.OptState], jax.Array]:
        """Return weights and moments after the examples `records`, and the mean loss before."""
        head, batch = self.spec.build(), Examples(*(part[records] for part in data))

        def mean(weights: Weights) -> jax.Array:
            x = batch.x
            if looks is not None:
                keys, values, seen = cut_out(looks.kv, looks.begins, looks.counts, length)
                said = look(weights[GLANCE], keys, values, seen, None)
                kept = jax.random.bernoulli(key, 1 - self.dropout, said.shape)
                said = jnp.where(kept, said / (1 - self.dropout), 0)
                x = jnp.concatenate([x, said[looks.own]], axis=1)
            return head.loss(weights, x, batch.remaining, batch.censored).mean()

        weights, moments = state
        value, gradients = jax.value_and_grad(mean)(weights)
        updates, moments = self.optimizer.update(gradients, moments, weights)
        stepped: Any = optax.apply_updates(weights, updates)
        return (stepped, moments), value


class Tuning:
    """The mean loss on held-out examples."""

    def __init__(self, spec: HeadSpec, data: Data) -> None:
        """Look at `data`."""
        self._data = data
        self._mean = jax.jit(partial(_mean_loss, spec.build()))

    def __call__(self, weights: Weights) -> float:
        """Measure weights."""
        examples, asked = self._data.examples, self._data.asked
        if asked is not None:
            said = glanced(asked.how, weights[GLANCE], asked.prompts, asked.kv)
            x = jnp.concatenate([examples.x, said[asked.own]], axis=1)
            examples = examples._replace(x=x)
        return float(self._mean(weights, examples))


def batches(data: Data, size: int, rng: np.random.Generator) -> Iterator[tuple[Batch, int]]:
    """Yield one pass of batches in random order, with the tokens that their prompts have at most.

    What does not fill a batch is left to another pass.
    """
    if data.asked is None:
        order = rng.permutation(len(data))
        nothing = np.zeros(0, np.int64)
        for records in _whole(order, size):
            yield Batch(records, nothing, nothing), 0
        return
    own = data.asked.own
    _, count = data.asked.spans
    lengths = padded_lengths(count, data.asked.how.window)[own]
    turn = rng.permutation(len(count))[own]
    found: list[tuple[Batch, int]] = []
    for length in np.unique(lengths):
        alike = np.flatnonzero(lengths == length)
        alike = alike[np.argsort(turn[alike], kind="stable")]
        for records in _whole(alike, size):
            prompts, which = np.unique(own[records], return_inverse=True)
            padded = np.resize(prompts, -(-len(prompts) // DISTINCT) * DISTINCT)
            found.append((Batch(records, padded, which), int(length)))
    for place in rng.permutation(len(found)):
        yield found[place]


def _whole(order: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Cut an order into batches [n, size]; one that is shorter than a batch is repeated."""
    if 0 < len(order) < size:
        return np.resize(order, (1, size))
    return order[: len(order) // size * size].reshape(-1, size)


def _mean_loss(head: Head, weights: Weights, data: Examples) -> jax.Array:
    """Return the mean loss over all examples, some at a time."""
    count = len(data.x)
    some = min(AT_ONCE, count)
    padding = -count % some
    parts = [jnp.pad(p, [(0, padding)] + [(0, 0)] * (p.ndim - 1)) for p in data]
    blocks = Examples(*(p.reshape(-1, some, *p.shape[1:]) for p in parts))
    blocks = blocks._replace(remaining=jnp.maximum(blocks.remaining, 1))
    losses = jax.lax.map(lambda block: head.loss(weights, *block), blocks)
    return losses.reshape(-1)[:count].mean()
