"""How is a trained head kept, and does it fit a checkpoint? A directory: `head.json` and weights.

Knows nothing of how a head is trained or served.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from predictor.features import num_features
from predictor.head import HazardHead, Head, PointHead, Weights

VERSION = 1
HEADS: dict[str, type[HazardHead] | type[PointHead]] = {"hazard": HazardHead, "point": PointHead}


class HeadError(ValueError):
    """A saved head that cannot be used; one line that says what and where."""


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What a head is, and what it belongs to.

    `layers` count from 1; `horizon` in tokens. `checkpoint` and `tokenizer` are fingerprints of
    what its records were collected from.
    """

    kind: str
    widths: tuple[int, ...]
    horizon: int
    layers: tuple[int, ...]
    hidden_size: int
    checkpoint: str
    tokenizer: str

    @property
    def num_features(self) -> int:
        """The width of what the head reads."""
        return num_features(len(self.layers), self.hidden_size)

    def build(self) -> Head:
        """Make the network."""
        return HEADS[self.kind](self.widths, self.horizon)


def save_head(directory: Path, spec: HeadSpec, weights: Weights) -> None:
    """Write a head, in place of what was there."""
    directory.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((directory / "weights").absolute(), weights, force=True)
    top = {"version": VERSION, **asdict(spec)}
    (directory / "head.json").write_text(json.dumps(top, indent=1) + "\n", encoding="utf-8")


def load_head(directory: Path) -> tuple[HeadSpec, Weights]:
    """Read a head; raises HeadError naming what is missing, broken or unknown."""
    spec = read_spec(directory)
    shapes = jax.eval_shape(lambda: spec.build().init(jax.random.key(0), spec.num_features))
    path = directory / "weights"
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            weights: Any = checkpointer.restore(path.absolute(), shapes)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise HeadError(f"{path}: truncated, or no weights of this head ({reason})") from error
    for leaf in jax.tree.leaves(weights):
        if not bool(jnp.isfinite(leaf).all()):
            raise HeadError(f"{path}: holds weights that are not numbers")
    return spec, weights


def read_spec(directory: Path) -> HeadSpec:
    """Read what a head is; raises HeadError."""
    path = directory / "head.json"
    try:
        top = json.loads(path.read_text(encoding="utf-8"))
        if top.pop("version") != VERSION:
            raise HeadError(f"{path}: was written by another version of foretoken")
        lists = {name: tuple(top[name]) for name in ("widths", "layers")}
        spec = HeadSpec(**{**top, **lists})
    except OSError as error:
        raise HeadError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(f"{path}: no description of a length head ({error})") from error
    if spec.kind not in HEADS:
        raise HeadError(f"{path}: kind {spec.kind!r} is unknown; known: {', '.join(HEADS)}")
    return spec
