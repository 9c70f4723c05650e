"""How does one training step change the parameters?

Muon (momentum whose matrices are orthogonalised) with AdamW for embeddings and norms, clipped
gradients, and a learning rate that warms up and then follows a cosine.
Knows no task: a batch is token ids, segments and what the loss counts.
"""

import math
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Bool, Float, Int

from model.config import ModelConfig
from model.head import logits
from model.parameters import Params, init_params
from model.transformer import forward

PEAK_RATE = 8e-3
# The rate of embeddings and norms, which AdamW updates, against that of the matrices.
ADAM_RATE_SHARE = 0.5
FINAL_RATE_SHARE = 0.02
EMBED_SCALE, BRANCH_SCALE = 5.0, 0.1
WARM_UP_SHARE = 0.03
WEIGHT_DECAY = 0.05
# Queries are attended in this many blocks, each over the keys up to its own end: about half the
# scores of a masked square. Recomputing them in the backward pass also proved faster on a CPU.
QUERY_BLOCKS = 8
LEAST_BLOCK = 64


class TrainState(NamedTuple):
    """Parameters and optimiser state; a pytree whose buffers `train_step` consumes."""

    params: Params
    optimizer: optax.OptState


def start(config: ModelConfig, key: jax.Array) -> TrainState:
    """Draw the parameters of a run.

    Embeddings start larger and residual branches smaller than the model's own random values: the
    first layers then see which token stands where, and copying is learned several times sooner.
    """
    params = init_params(config, key)
    layers = dict(params["layers"])
    layers["o"] = layers["o"] * BRANCH_SCALE
    layers["down"] = layers["down"] * BRANCH_SCALE
    params = {**params, "embed": params["embed"] * EMBED_SCALE, "layers": layers}
    return TrainState(params, optimizer().init(params))


def optimizer() -> optax.GradientTransformation:
    """Muon at learning rate 1: each step scales the updates by its own rate.

    Updates of matrices are scaled to the root mean square that AdamW's have (0.2, from Liu et al.,
    "Muon is Scalable for LLM Training", 2025), so that one rate serves both parts.
    """
    muon = optax.contrib.muon(
        1.0,
        weight_decay=WEIGHT_DECAY,
        adam_b2=0.98,
        adam_learning_rate=ADAM_RATE_SHARE,
        # optax's annotation knows flat trees of arrays only; the code takes a function of any tree.
        muon_weight_dimension_numbers=cast(Any, _matrices),
        consistent_rms=0.2,
    )
    return optax.chain(optax.clip_by_global_norm(1.0), muon)


def _matrices(params: Params) -> Any:
    """Say which axes of each parameter are a matrix; None leaves it to AdamW.

    All other axes are batches: the layers, the kinds of head of `qkv`, and gate and up.
    """
    spec = optax.contrib.MuonDimensionNumbers
    matrices = {
        "qkv": spec(reduction_axis=1, output_axis=(2, 4)),
        "o": spec(reduction_axis=(1, 2, 3), output_axis=4),
        "gate_up": spec(reduction_axis=1, output_axis=3),
        "down": spec(reduction_axis=1, output_axis=2),
    }
    return {
        name: None if name != "layers" else {leaf: matrices.get(leaf) for leaf in params["layers"]}
        for name in params
    }


def rate(progress: float) -> float:
    """Return the learning rate at a share (0 to 1) of the whole run."""
    if progress < WARM_UP_SHARE:
        return PEAK_RATE * progress / WARM_UP_SHARE
    turned = math.cos(math.pi * (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE))
    return PEAK_RATE * (FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * (1 + turned) / 2)


def loss(
    params: Params,
    tokens: Int[Array, "B S"],
    segments: Int[Array, "B S"],
    counted: Bool[Array, "B S"],
    *,
    config: ModelConfig,
) -> Float[Array, ""]:
    """Return the mean cross-entropy, in nats, of the counted tokens."""
    length = tokens.shape[1]
    positions = jnp.broadcast_to(jnp.arange(length), tokens.shape)
    step = max(LEAST_BLOCK, length // QUERY_BLOCKS)

    def attend(
        kv: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        del layer
        starts = range(0, length, step)
        blocks = [block(start, q[:, start : start + step], k, v) for start in starts]
        return kv, jnp.concatenate(blocks, axis=1)

    @partial(jax.checkpoint, static_argnums=0)
    def block(start: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        end = start + q.shape[1]
        causal = jnp.arange(end) <= jnp.arange(start, end)[:, None]
        mask = causal & (segments[:, start:end, None] == segments[:, None, :end])
        scores = jnp.einsum("btkgh,bskh->bkgts", q * q.shape[-1] ** -0.5, k[:, :end])
        scores = jnp.where(mask[:, None, None], scores, -1e30)
        return jnp.einsum("bkgts,bskh->btkgh", jax.nn.softmax(scores), v[:, :end])

    hidden, _ = forward(params, tokens, positions, jnp.zeros(()), attend, config=config, axis=None)
    scores = logits(params, hidden[:, :-1], config=config, axis=None)
    losses = optax.softmax_cross_entropy_with_integer_labels(scores, tokens[:, 1:])
    weights = counted[:, 1:].astype(jnp.float32)
    return jnp.sum(losses * weights) / jnp.maximum(jnp.sum(weights), 1)


@partial(jax.jit, static_argnames="config", donate_argnames="state")
def train_step(
    state: TrainState,
    tokens: Int[Array, "B S"],
    segments: Int[Array, "B S"],
    counted: Bool[Array, "B S"],
    learning_rate: Float[Array, ""],
    *,
    config: ModelConfig,
) -> tuple[TrainState, Float[Array, ""]]:
    """Take one step; return the new state and the loss before it. Donates `state`."""
    value, gradients = jax.value_and_grad(loss)(
        state.params, tokens, segments, counted, config=config
    )
    updates, optimizer_state = optimizer().update(gradients, state.optimizer, state.params)
    params = jax.tree.map(lambda p, u: p + learning_rate * u, state.params, updates)
    return TrainState(params, optimizer_state), value
