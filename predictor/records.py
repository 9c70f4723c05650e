"""What is a length head trained on? Records of replies, as files on disk, split by session.

A directory holds `manifest.json` and shards, `train-00003.npz` and the like. A session is in one
split only, with all samples of its prompts: turns of a conversation share their text. Every shard
carries the fingerprint of what it was collected from, so that shards of two runs cannot be mixed,
and the manifest its digest, so that a truncated one is found. A shard also holds the texts of its
replies and, if that was asked for, keys and values of their prompts. Knows no models and no heads.
"""

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from predictor.prompts import Prompts, joined_prompts
from predictor.texts import Texts, joined_texts

VERSION = 2
SPLITS = ("train", "tune", "test")
"""For the gradient; for early stopping and calibration; for what is reported."""
OF_TWENTY = {"train": 14, "tune": 3, "test": 3}
"""Shares of the sessions: 70, 15 and 15 %, as ARES splits requests (papers.md 4.2)."""

Arrays: TypeAlias = dict[str, Any]
"""A shard's arrays by name."""


class RecordsError(ValueError):
    """Records that cannot be used; one line that names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run of collection was made from. Equal origins may share a directory.

    `checkpoint` and `tokenizer` are fingerprints; `layers` count from 1; `reach`: of how many
    states recent means are, None for none. `prompt_layer`, from 1: whose keys and values are kept
    at the last `prompt_window` tokens of prompts; None: nothing of prompts is. `sampling`: what the
    checkpoint wants beside a temperature, None if nothing.
    """

    checkpoint: str
    tokenizer: str
    hidden_size: int
    layers: tuple[int, ...]
    seed: int
    samples: int
    temperatures: tuple[float, ...]
    stride: int
    max_tokens: int
    cap_share: float
    reach: int | None = None
    prompt_layer: int | None = None
    prompt_window: int | None = None
    sampling: str | None = None

    @property
    def fingerprint(self) -> str:
        """A digest of all that is set."""
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return digest(json.dumps(known, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Shard:
    """One file: how many records and replies it holds, and its digest.

    `sessions`: how many it was collected from, and `asked` what was asked in them
    (predictor/dealing); None where nobody noted it.
    """

    records: int
    replies: int
    digest: str
    sessions: int | None = None
    asked: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The shards of a directory by name, and the names of the families of their sessions."""

    origin: Origin
    families: tuple[str, ...]
    shards: dict[str, Shard]

    def shards_of(self, split: str) -> dict[str, Shard]:
        """Return the shards of a split, by name."""
        own = sorted(name for name in self.shards if name.startswith(f"{split}-"))
        return {name: self.shards[name] for name in own}

    def fingerprint(self, *splits: str) -> str:
        """Return a digest of all that is in the shards of some splits."""
        own = {split: [s.digest for s in self.shards_of(split).values()] for split in splits}
        return digest(json.dumps(own, sort_keys=True).encode())


@dataclass(frozen=True, slots=True)
class Records:
    """Aligned arrays, one entry a record.

    `hidden`: states [N, L, D] at the last position run, or [N, 2L, D] with recent means.
    `generated`: reply tokens before the one that they sample; `remaining`: tokens from that one to
    the reply's end or cut, at least 1.
    `limit`: how many might have come at most. `censored`: cut by that limit. `session`, `reply`:
    numbers within the run. `family` counts in the manifest's. `prompt_len` in tokens, `turn` from
    0.
    """

    hidden: NDArray[np.float16]
    generated: NDArray[np.int32]
    prompt_len: NDArray[np.int32]
    turn: NDArray[np.int32]
    remaining: NDArray[np.int32]
    limit: NDArray[np.int32]
    censored: NDArray[np.bool_]
    session: NDArray[np.int32]
    reply: NDArray[np.int32]
    family: NDArray[np.int32]
    temperature: NDArray[np.float32]

    def __len__(self) -> int:
        """Count the records."""
        return len(self.generated)

    def __getitem__(self, where: Any) -> "Records":
        """Select records as numpy would."""
        return Records(**{f.name: getattr(self, f.name)[where] for f in fields(self)})


def digest(content: bytes) -> str:
    """Return a short digest."""
    return blake2b(content, digest_size=16).hexdigest()


def split_of(session: int) -> str:
    """Return the split of a session, by its number alone."""
    place = session % sum(OF_TWENTY.values())
    for split, count in OF_TWENTY.items():
        if place < count:
            return split
        place -= count
    raise AssertionError("a number modulo a sum lies below it")


def joined(parts: Sequence[Records]) -> Records:
    """Put records behind one another. Raises ValueError for none."""
    return Records(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Records)}
    )


def open_manifest(directory: Path, origin: Origin, families: tuple[str, ...]) -> Manifest:
    """Read the manifest of a directory, or begin an empty one.

    Raises RecordsError if the directory holds records of another origin.
    """
    if not (directory / "manifest.json").exists():
        return Manifest(origin, families, {})
    found = read_manifest(directory)
    if found.origin != origin or found.families != families:
        changed = next(
            (f.name for f in fields(Origin) if _differs(found.origin, origin, f.name)), "families"
        )
        raise RecordsError(
            f"{directory}: holds records of another run ({changed} differs); name another directory"
        )
    return found


def add_shard(
    directory: Path,
    manifest: Manifest,
    name: str,
    records: Records,
    texts: Texts,
    prompts: Prompts | None = None,
    of: tuple[int, str] | None = None,
) -> Manifest:
    """Write a shard, then the manifest that names it; each whole or not at all.

    `of`: from how many sessions it was collected, and a digest of what was asked in them.
    """
    buffer = io.BytesIO()
    arrays = {f.name: getattr(records, f.name) for f in fields(records)}
    arrays |= {f"text_{f.name}": getattr(texts, f.name) for f in fields(texts)}
    if prompts is not None:
        arrays |= {f"prompt_{f.name}": getattr(prompts, f.name) for f in fields(prompts)}
    np.savez(buffer, origin=np.array(manifest.origin.fingerprint), **arrays)
    content = buffer.getvalue()
    sessions, asked = (None, None) if of is None else of
    replies = len(np.unique(records.reply))
    shard = Shard(len(records), replies, digest(content), sessions, asked)
    manifest = replace(manifest, shards={**manifest.shards, name: shard})
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / name, content)
    top = {"version": VERSION, **asdict(manifest)}
    _write(directory / "manifest.json", (json.dumps(top, indent=1) + "\n").encode())
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Read a manifest; raises RecordsError."""
    path = directory / "manifest.json"
    try:
        top = json.loads(path.read_text(encoding="utf-8"))
        if top["version"] != VERSION:
            raise RecordsError(f"{path}: version {top['version']} is not known here")
        own: dict[str, Any] = top["origin"]
        lists = {name: tuple(own[name]) for name in ("layers", "temperatures")}
        origin = Origin(**{**own, **lists})
        shards = {name: Shard(**shard) for name, shard in top["shards"].items()}
        return Manifest(origin, tuple(top["families"]), shards)
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read ({error.strerror})") from error
    except RecordsError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordsError(f"{path}: no manifest of records ({error})") from error


def read_records(directory: Path, split: str) -> tuple[Manifest, Records]:
    """Read all shards of a split. Raises RecordsError naming the first file that is no good."""
    manifest = read_manifest(directory)
    records: list[Records] = []
    for path, arrays in _read_shards(directory, manifest, split, Records, ""):
        some = Records(**arrays)
        if not np.isfinite(some.hidden).all():
            raise RecordsError(f"{path}: holds hidden states that are not numbers")
        records.append(some)
    return manifest, joined(records)


def read_texts(directory: Path, split: str) -> Texts:
    """Read the texts of a split's replies. Raises RecordsError as `read_records`."""
    shards = _read_shards(directory, read_manifest(directory), split, Texts, "text_")
    return joined_texts([Texts(**arrays) for _, arrays in shards])


def read_prompts(directory: Path, split: str) -> Prompts:
    """Read what is kept of a split's prompts. Raises RecordsError as `read_records`."""
    manifest = read_manifest(directory)
    if manifest.origin.prompt_layer is None:
        raise RecordsError(f"{directory}: holds nothing of prompts; collect with --prompt-layer")
    shards = _read_shards(directory, manifest, split, Prompts, "prompt_")
    return joined_prompts([Prompts(**arrays) for _, arrays in shards])


def _read_shards(
    directory: Path, manifest: Manifest, split: str, what: type[Any], prefix: str
) -> Iterator[tuple[Path, Arrays]]:
    """Yield the shards of a split, with the arrays of `what`, whose names begin with `prefix`."""
    names = manifest.shards_of(split)
    if not names:
        raise RecordsError(f"{directory}: no shard of the split {split!r}; collect more sessions")
    for path in (directory / name for name in names):
        wanted = {f.name: prefix + f.name for f in fields(what)}
        arrays = _read_shard(path, manifest, list(wanted.values()))
        yield path, {own: arrays[name] for own, name in wanted.items()}


def _read_shard(path: Path, manifest: Manifest, wanted: Sequence[str]) -> Arrays:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RecordsError(f"{path}: cannot be read ({error.strerror})") from error
    # Before it is parsed: what a damaged archive raises is anybody's guess.
    if digest(content) != manifest.shards[path.name].digest:
        raise RecordsError(
            f"{path}: truncated, of another run, or not the file that was written; collect it again"
        )
    arrays = _arrays(path, content, ["origin", *wanted])
    if str(arrays["origin"]) != manifest.origin.fingerprint:
        raise RecordsError(f"{path}: belongs to another run than the manifest beside it")
    return arrays


def _arrays(path: Path, content: bytes, wanted: Sequence[str]) -> Arrays:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            return {name: archive[name] for name in wanted}
    except (ValueError, KeyError, BadZipFile) as error:
        raise RecordsError(f"{path}: no shard of such records ({error})") from error


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def _differs(found: Origin, wanted: Origin, name: str) -> bool:
    return getattr(found, name) != getattr(wanted, name)
