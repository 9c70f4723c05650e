"""How does a run go from pass to pass? It is saved after each, ends early, and keeps the best.

The run ends once the loss on held-out data has not fallen for some passes. Knows neither models nor
data: the caller takes a pass and measures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from train.resume import last_saved

Weights: TypeAlias = Any
"""A pytree of arrays."""
Taken: TypeAlias = tuple[Weights, optax.OptState, float]
"""What a pass makes of weights and moments, and its mean loss."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What determines a run: equal recipes train equal weights on equal hardware and data.

    `patience`: passes without a better loss after which the run ends. `rate`: the highest learning
    rate; `decay`: that of the weights, by AdamW.
    """

    seed: int
    passes: int
    patience: int
    batch: int
    rate: float
    decay: float


class State(NamedTuple):
    """A run after some passes; a pytree. `best` are the weights of the pass `best_pass`."""

    weights: Weights
    moments: optax.OptState
    best: Weights
    best_loss: jax.Array
    best_pass: jax.Array


def begin(weights: Weights, optimizer: optax.GradientTransformation) -> State:
    """Return a run before its first pass."""
    best = jax.tree.map(jnp.copy, weights)  # a pass may donate the weights it begins with
    moments = optimizer.init(weights)
    return State(weights, moments, best, jnp.float32(jnp.inf), jnp.int32(-1))


def take_passes(
    state: State,
    recipe: Recipe,
    directory: Path,
    take: Callable[[int, Weights, optax.OptState], Taken],
    measure: Callable[[Weights], float],
    report: Callable[[int, float, float], None],
) -> tuple[Weights, int]:
    """Go on from the last pass saved in `directory`, or from `state`.

    `take` is given the number of the pass, and `measure` returns the loss on held-out data. Calls
    `report(pass, its loss, held-out loss)` after each. Returns the best weights and the number of
    their pass. Raises ValueError if no pass has a held-out loss that is a number.
    """
    with ocp.CheckpointManager(
        directory.absolute(), options=ocp.CheckpointManagerOptions(max_to_keep=1)
    ) as manager:
        state, done = last_saved(manager, state)
        for number in range(0 if done is None else done + 1, recipe.passes):
            if number - int(state.best_pass) > recipe.patience:
                break
            weights, moments, loss = take(number, state.weights, state.moments)
            tuned = measure(weights)
            state = _judged(State(weights, moments, *state[2:]), tuned, number)
            manager.save(number, args=ocp.args.StandardSave(state))
            report(number, loss, tuned)
    if int(state.best_pass) < 0:
        raise ValueError("no pass has a loss on `tune` that is a number; train at a lower --rate")
    return state.best, int(state.best_pass)


def _judged(state: State, tuned: float, number: int) -> State:
    if not tuned < float(state.best_loss):  # what is no number is no better either
        return state
    best = jax.tree.map(jnp.copy, state.weights)
    return state._replace(best=best, best_loss=jnp.float32(tuned), best_pass=jnp.int32(number))
