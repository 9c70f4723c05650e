"""How are weights and what describes them kept in a directory? A JSON file, and orbax beside it.

The JSON holds a digest of itself and the weights, so that a truncated or foreign set of them, or a
description that was edited, is found before orbax begins to read. Knows no networks.
"""

import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import SingleDeviceSharding

NAMES_ITS_PLACE = "commit_success.txt"
"""What orbax leaves for file systems without renaming: it says where it was written."""


class SavedError(ValueError):
    """Saved weights that cannot be used; one line that says what and where."""


def save(directory: Path, name: str, described: Mapping[str, Any], weights: Any) -> None:
    """Write weights, a pytree, and the JSON file `name`, in place of what was there."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "weights"
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), weights, force=True)
    (path / NAMES_ITS_PLACE).unlink(missing_ok=True)
    top = {"digest": _digest(path, described), **described}
    (directory / name).write_text(json.dumps(top, indent=1) + "\n", encoding="utf-8")


def describe(directory: Path, name: str) -> dict[str, Any]:
    """Read the JSON file; raises SavedError."""
    path = directory / name
    try:
        top: Any = json.loads(path.read_text(encoding="utf-8"))
        return {**top, "digest": str(top["digest"])}
    except OSError as error:
        raise SavedError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise SavedError(f"{path}: describes no weights ({error})") from error


def load(directory: Path, name: str, shapes: Any) -> Any:
    """Read weights of `shapes`; raises SavedError naming what is broken."""
    path, top = directory / "weights", describe(directory, name)
    if top.pop("digest") != _digest(path, top):
        raise SavedError(f"{path}: truncated, or not the weights that {name} beside it describes")
    here = SingleDeviceSharding(jax.devices()[0])  # and not on devices of whoever wrote them
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), shapes)
    with ocp.StandardCheckpointer() as checkpointer:
        weights: Any = checkpointer.restore(path.absolute(), placed)
    for leaf in jax.tree.leaves(weights):
        if not bool(jnp.isfinite(leaf).all()):
            raise SavedError(f"{path}: holds weights that are not numbers")
    return weights


def _digest(directory: Path, described: Mapping[str, Any]) -> str:
    """Digest a description, and every file in a directory with its place there."""
    state = blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=16)
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        content = path.read_bytes()
        state.update(f"{path.relative_to(directory).as_posix()} {len(content)} ".encode())
        state.update(content)
    return state.hexdigest()
