"""How is a trained head kept, and does it fit a checkpoint? `head.json`, weights, `reader.json`.

`reader.json` says how its readings are smoothed and calibrated; without it they are taken as they
are.

Knows nothing of how a head is trained or served.
"""

import json
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from predictor.conformal import Calibration
from predictor.features import num_features
from predictor.head import BinsHead, HazardHead, Head, PointHead, Weights
from predictor.reading import PLAIN, Reader
from predictor.smoothing import Smoothing

VERSION = 1
HEADS: dict[str, type[HazardHead] | type[PointHead] | type[BinsHead]] = {
    "hazard": HazardHead,
    "point": PointHead,
    "bins": BinsHead,
}


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
    reach: int | None = None

    @property
    def num_features(self) -> int:
        """The width of what the head reads."""
        states = len(self.layers) * (1 if self.reach is None else 2)
        return num_features(states, self.hidden_size)

    def build(self) -> Head:
        """Make the network."""
        return HEADS[self.kind](self.widths, self.horizon)


def save_head(directory: Path, spec: HeadSpec, weights: Weights) -> None:
    """Write a head, in place of what was there."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "weights"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), weights, force=True)
    top = {"version": VERSION, "digest": _digest(path), **asdict(spec)}
    (directory / "head.json").write_text(json.dumps(top, indent=1) + "\n", encoding="utf-8")


def load_head(directory: Path) -> tuple[HeadSpec, Weights]:
    """Read a head; raises HeadError naming what is missing, broken or unknown."""
    spec, digest = _read_spec(directory)
    shapes = jax.eval_shape(lambda: spec.build().init(jax.random.key(0), spec.num_features))
    path = directory / "weights"
    if digest != _digest(path):
        raise HeadError(f"{path}: truncated, or not the weights that head.json beside it describes")
    with ocp.StandardCheckpointer() as checkpointer:
        weights: Any = checkpointer.restore(path.absolute(), shapes)
    for leaf in jax.tree.leaves(weights):
        if not bool(jnp.isfinite(leaf).all()):
            raise HeadError(f"{path}: holds weights that are not numbers")
    return spec, weights


def save_reader(directory: Path, reader: Reader) -> None:
    """Write how a head's readings are taken, beside the head."""
    top = {
        "version": VERSION,
        "smoothing": asdict(reader.smoothing),
        "calibration": [[round(share, 5) for share in one] for one in reader.calibration.maps],
    }
    (directory / "reader.json").write_text(json.dumps(top) + "\n", encoding="utf-8")


def load_reader(directory: Path) -> Reader:
    """Read how a head's readings are taken; raises HeadError for what is broken."""
    path = directory / "reader.json"
    if not path.exists():
        return PLAIN
    try:
        top = json.loads(path.read_text(encoding="utf-8"))
        if top["version"] != VERSION:
            raise HeadError(f"{path}: was written by another version of foretoken")
        maps = tuple(tuple(map(float, one)) for one in top["calibration"])
        return Reader(Smoothing(**top["smoothing"]), Calibration(maps))
    except OSError as error:
        raise HeadError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path}: does not say how a head is read ({error})") from error


def _digest(directory: Path) -> str:
    """Digest every file in a directory, with its place there."""
    state = blake2b(digest_size=16)
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        state.update(f"{path.relative_to(directory).as_posix()} {len(content)} ".encode())
        state.update(content)
    return state.hexdigest()


def _read_spec(directory: Path) -> tuple[HeadSpec, str]:
    """Read what a head is, and the digest of its weights; raises HeadError."""
    path = directory / "head.json"
    try:
        top = json.loads(path.read_text(encoding="utf-8"))
        if top.pop("version") != VERSION:
            raise HeadError(f"{path}: was written by another version of foretoken")
        digest = str(top.pop("digest"))
        lists = {name: tuple(top[name]) for name in ("widths", "layers")}
        spec = HeadSpec(**{**top, **lists})
    except OSError as error:
        raise HeadError(f"{path}: cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(f"{path}: no description of a length head ({error})") from error
    if spec.kind not in HEADS:
        raise HeadError(f"{path}: kind {spec.kind!r} is unknown; known: {', '.join(HEADS)}")
    return spec, digest
