"""How is a trained head kept, and does it fit a checkpoint? `head.json`, weights, `reader.json`.

`reader.json` says how its readings are smoothed and calibrated; without it they are taken as they
are.

Knows nothing of how a head is trained or served.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax

from predictor.conformal import Calibration
from predictor.edges import intervals_up_to
from predictor.features import num_features
from predictor.glance import Glance
from predictor.head import BinsHead, HazardHead, Head, PointHead, Weights
from predictor.reading import PLAIN, Reader
from predictor.smoothing import Smoothing
from predictor.weight_files import SavedError, describe, load, save

VERSION = 1
FILE, READER = "head.json", "reader.json"
GLANCE = "glance"
HEADS: dict[str, type[HazardHead] | type[PointHead] | type[BinsHead]] = {
    "hazard": HazardHead,
    "point": PointHead,
    "bins": BinsHead,
}


class HeadError(SavedError):
    """A saved head that cannot be used; one line that says what and where."""


@dataclass(frozen=True, slots=True)
class HeadSpec:
    """What a head is, and what it belongs to.

    `layers` count from 1; `horizon` in tokens. `checkpoint` and `tokenizer` are fingerprints of
    what its records were collected from. `reach`, `glance`: what it sees beside newest states, if
    anything.
    """

    kind: str
    widths: tuple[int, ...]
    horizon: int
    layers: tuple[int, ...]
    hidden_size: int
    checkpoint: str
    tokenizer: str
    reach: int | None = None
    glance: Glance | None = None

    @property
    def num_features(self) -> int:
        """The width of what the head reads."""
        states = len(self.layers) * (1 if self.reach is None else 2)
        seen = 0 if self.glance is None else self.glance.numbers
        return num_features(states, self.hidden_size) + seen

    def build(self) -> Head:
        """Make the network."""
        return HEADS[self.kind](self.widths, self.horizon)

    def init(self, key: jax.Array) -> Weights:
        """Draw all weights: the network's, and under `GLANCE` those of the look at prompts."""
        weights = self.build().init(key, self.num_features)
        if self.glance is not None:
            weights[GLANCE] = self.glance.init(jax.random.fold_in(key, 1))
        return weights


def save_head(directory: Path, spec: HeadSpec, weights: Weights) -> None:
    """Write a head, in place of what was there. How that one's readings are taken is forgotten."""
    (directory / READER).unlink(missing_ok=True)
    save(directory, FILE, {"version": VERSION, **asdict(spec)}, weights)


def load_head(directory: Path) -> tuple[HeadSpec, Weights]:
    """Read a head; raises HeadError naming what is missing, broken or unknown."""
    try:
        spec = _read_spec(directory / FILE, describe(directory, FILE))
        shapes = jax.eval_shape(lambda: spec.init(jax.random.key(0)))
        return spec, load(directory, FILE, shapes)
    except SavedError as error:
        raise HeadError(str(error)) from error


def save_reader(directory: Path, reader: Reader) -> None:
    """Write how a head's readings are taken, beside the head."""
    top = {
        "version": VERSION,
        "smoothing": asdict(reader.smoothing),
        "calibration": [[round(share, 7) for share in one] for one in reader.calibration.maps],
    }
    (directory / READER).write_text(json.dumps(top) + "\n", encoding="utf-8")


def load_reader(directory: Path) -> Reader:
    """Read how a head's readings are taken; raises HeadError for what is broken."""
    path = directory / READER
    if not path.exists():
        return PLAIN
    try:
        top = json.loads(path.read_text(encoding="utf-8"))
        if top["version"] != VERSION:
            raise HeadError(f"{path}: was written by another version of foretoken")
        maps = tuple(tuple(map(float, one)) for one in top["calibration"])
        return Reader(Smoothing(**top["smoothing"]), Calibration(maps))
    except HeadError:
        raise
    except OSError as error:
        raise HeadError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path}: does not say how a head is read ({error})") from error


def _read_spec(path: Path, top: dict[str, Any]) -> HeadSpec:
    """Read what a head is out of its description; raises SavedError."""
    if top.get("version") != VERSION:
        raise SavedError(f"{path}: was written by another version of foretoken")
    known = {name: value for name, value in top.items() if name not in ("version", "digest")}
    try:
        lists = {name: tuple(known[name]) for name in ("widths", "layers")}
        glance = None if known.get("glance") is None else Glance(**known["glance"])
        spec = HeadSpec(**{**known, **lists, "glance": glance})
    except (KeyError, TypeError) as error:
        raise SavedError(f"{path}: no description of a length head ({error})") from error
    if spec.kind not in HEADS:
        raise SavedError(f"{path}: kind {spec.kind!r} is unknown; known: {', '.join(HEADS)}")
    try:
        intervals_up_to(spec.horizon)
    except (ValueError, TypeError) as error:
        raise SavedError(f"{path}: {error}") from error
    return spec
