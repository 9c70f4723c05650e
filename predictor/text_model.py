"""Which network reads the remaining length off the text alone? A small transformer of its own.

It knows the token ids and the counts that a head knows, but not the hidden states of the served
model: what it has to tell lengths by, it learns itself. Its last states go through the same head
with the same loss, so that a comparison with `predictor/head` is one of what they read. It sees the
prompt alone, or the prompt and the reply so far (TetriInfer, ELIS; papers.md 5.1). Knows nothing of
training.
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from model.config import ModelConfig, RopeConfig
from model.parameters import init_params
from model.transformer import forward
from predictor.features import features, num_features
from predictor.head import HazardHead
from predictor.weight_files import SavedError, describe, load, save

VERSION = 1
FILE = "text_model.json"
SEES = ("prompt", "reply")
WINDOW = 512
"""Positions, its own included, that a layer looks back over; also what is kept of a prompt."""
QUERY_BLOCK = 128
"""Queries that are attended together, over the keys that they can see."""
HEAD_DIM = 32

TextWeights: TypeAlias = dict[str, Any]
"""`body`, of the transformer, and `head`; a plain pytree."""


@dataclass(frozen=True, slots=True)
class TextSpec:
    """What a text model is, and what it belongs to.

    `widths` are those of the head on top; `horizon` in tokens. `checkpoint` and `tokenizer` are
    fingerprints of what wrote the replies that it was trained on.
    """

    sees: str
    horizon: int
    vocab_size: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    widths: tuple[int, ...]
    checkpoint: str
    tokenizer: str

    def build(self) -> "TextModel":
        """Make the network."""
        return TextModel(self)


class TextModel:
    """The network. Immutable; its weights are kept apart."""

    def __init__(self, spec: TextSpec) -> None:
        self._config = _config(spec)
        self._head = HazardHead(spec.widths, spec.horizon)

    def init(self, key: jax.Array) -> TextWeights:
        """Draw weights."""
        body, head = jax.random.split(key)
        return {
            "body": init_params(self._config, body),
            "head": self._head.init(head, num_features(1, self._config.hidden_size)),
        }

    def loss(
        self,
        weights: TextWeights,
        tokens: Int[Array, "B S"],
        counts: Int[Array, "B S 3"],
        remaining: Int[Array, "B S"],
        censored: Bool[Array, "B S"],
    ) -> Float[Array, "B S"]:
        """Return the negative log-likelihood of the remaining length at every position, in nats.

        `counts`: what `features` takes beside states, at each position: tokens generated before the
        next one, prompt length and turn.
        """
        read = self._features(weights, tokens, counts)
        flat = self._head.loss(weights["head"], read, remaining.reshape(-1), censored.reshape(-1))
        return flat.reshape(tokens.shape)

    def alive(
        self, weights: TextWeights, tokens: Int[Array, "B S"], counts: Int[Array, "B S 3"]
    ) -> Float[Array, "B S E"]:
        """Return the curve at every position, as `Head.alive`."""
        flat = self._head.alive(weights["head"], self._features(weights, tokens, counts))
        return flat.reshape(*tokens.shape, -1)

    def _features(
        self, weights: TextWeights, tokens: jax.Array, counts: jax.Array
    ) -> Float[Array, "N F"]:
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        states, _ = forward(
            weights["body"],
            tokens,
            positions,
            jnp.zeros(()),
            _attend,
            config=self._config,
            axis=None,
        )
        flat = states.reshape(-1, 1, states.shape[-1])
        return features(flat, *counts.reshape(-1, counts.shape[-1]).T)


def _config(spec: TextSpec) -> ModelConfig:
    return ModelConfig(
        family="qwen3",
        vocab_size=spec.vocab_size,
        num_layers=spec.num_layers,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_heads=spec.hidden_size // HEAD_DIM,
        num_kv_heads=spec.hidden_size // HEAD_DIM,
        head_dim=HEAD_DIM,
        rope=RopeConfig(theta=10000.0, scaling=None),
        norm_eps=1e-6,
        tie_embeddings=True,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        qk_norm=True,
        sliding_window=WINDOW,
        max_position=4096,
        dtype="float32",
        eos_ids=(),
        bos_id=None,
    )


def _attend(
    kv: jax.Array, layer: jax.Array, q: jax.Array, k: jax.Array, v: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Attend over the window; keeps nothing."""
    del layer
    length = q.shape[1]
    blocks: list[jax.Array] = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        first = max(0, start - WINDOW + 1)
        back = jnp.arange(start, stop)[:, None] - jnp.arange(first, stop)[None, :]
        seen = (back >= 0) & (back < WINDOW)
        queries = q[:, start:stop] * q.shape[-1] ** -0.5
        scores = jnp.einsum("btkgh,bskh->bkgts", queries, k[:, first:stop])
        shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf))
        blocks.append(jnp.einsum("bkgts,bskh->btkgh", shares, v[:, first:stop]))
    return kv, jnp.concatenate(blocks, axis=1)


def save_text_model(directory: Path, spec: TextSpec, weights: TextWeights) -> None:
    """Write a text model, in place of what was there."""
    save(directory, FILE, {"version": VERSION, **asdict(spec)}, weights)


def load_text_model(directory: Path) -> tuple[TextSpec, TextWeights]:
    """Read a text model; raises SavedError naming what is missing, broken or unknown."""
    top, path = describe(directory, FILE), directory / FILE
    if top.get("version") != VERSION:
        raise SavedError(f"{path}: was written by another version of foretoken")
    try:
        own = {f.name: top[f.name] for f in fields(TextSpec)}
        spec = TextSpec(**{**own, "widths": tuple(own["widths"])})
    except (KeyError, TypeError) as error:
        raise SavedError(f"{path}: no description of a text model ({error})") from error
    shapes = jax.eval_shape(lambda: spec.build().init(jax.random.key(0)))
    return spec, load(directory, FILE, shapes)
