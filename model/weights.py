"""How do a checkpoint's tensors become sharded parameters, with every key accounted for?

Knows nothing of meshes: shardings come as a tree. Nothing is loaded before the names and shapes of
all tensors have been checked.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from model.config import ModelConfig
from model.errors import CheckpointError
from model.parameters import Parameter, Params, declare, leaves, map_parameters
from model.tensor_files import TensorFiles
from model.weight_maps import EMBEDDING_KEY, HEAD_KEY, Ranges, Source, is_derived, sources

Progress = Callable[[int, int], None]
"""(bytes placed so far, bytes in all), both in the dtype of the parameters."""

_COMPARED_ROWS = 4096  # rows of two embedding tables that are held in memory at once
_BAND = 64  # rows copied at once; 8, 16, 32 and 64 took 33, 27, 39 and 21 ms on `_copy`'s matrix
_Part = tuple[range, ...]  # one range per dimension of a parameter


def load_params(
    checkpoint_dir: Path | str,
    config: ModelConfig,
    shardings: dict[str, Any],
    dtype: DTypeLike,
    progress: Progress | None,
) -> Params:
    """Read a checkpoint's parameters, in `dtype`, to the devices that `shardings` names.

    `shardings` has the structure of the parameters. Each device's part of a parameter is filled
    on the host, tensor by tensor, from the regions of the files that belong to it, and then sent.
    Devices that hold equal parts share one read. Peak host memory: the largest part of one
    parameter on one device plus the largest single tensor's share of it in the stored dtype (the
    mapped files' pages come on top, but the system may drop them).

    Raises CheckpointError naming file and key for a tensor that is missing, not used, of the
    wrong shape or of a dtype that is not a float, and for a file that is absent or truncated.
    """
    declared = declare(config)
    placed = dict(leaves(shardings))
    parts = {path: _parts(placed[path], p.shape) for path, p in leaves(declared)}
    values = sum(_volume(part) for own in parts.values() for part in own)
    stored = np.dtype(dtype)
    meter = _Meter(progress, values * stored.itemsize)

    def load(path: str, parameter: Parameter) -> jax.Array:
        tensors = sources(config, path, parameter)
        arrays = []
        for part, devices in parts[path].items():
            values = np.empty([len(own) for own in part], stored)
            _fill(values, files, tensors, dict(zip(parameter.axes, part, strict=True)), meter)
            arrays += [jax.device_put(values, device) for device in devices]
        return jax.make_array_from_single_device_arrays(parameter.shape, placed[path], arrays)

    with TensorFiles(Path(checkpoint_dir)) as files:
        _check(files, config)
        return map_parameters(load, declared)


def checkpoint_tensors(params: Params, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, tensor) of the Hugging Face form of parameters: the inverse of loading.

    Peak host memory: one whole parameter and one tensor of it.
    """
    arrays = dict(leaves(params))
    for path, parameter in leaves(declare(config)):
        values = np.asarray(arrays[path])
        for source in sources(config, path, parameter):
            yield source.key, source.extract(values)


class _Meter:
    """Counts the bytes placed and tells `progress`."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, size: int) -> None:
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)


def _parts(sharding: Sharding, shape: tuple[int, ...]) -> dict[_Part, list[Any]]:
    """Return the distinct parts of an array that this process places, and on which devices."""
    parts: dict[_Part, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = zip(index or (), shape, strict=True)
        part = tuple(range(size)[own] for own, size in bounds)
        parts.setdefault(part, []).append(device)
    return parts


def _volume(part: _Part) -> int:
    return math.prod(len(own) for own in part)


def _fill(
    values: np.ndarray, files: TensorFiles, tensors: list[Source], wanted: Ranges, meter: _Meter
) -> None:
    """Fill `values`, the `wanted` part of a parameter, from the checkpoint's tensors."""
    for source in tensors:
        layer = values
        if source.layer is not None:
            stacked = wanted["layers"]
            if source.layer not in stacked:
                continue
            layer = values[source.layer - stacked.start]
        block = source.block(files.read(source.key, source.region(wanted)), wanted)
        target = layer[source.target(wanted)]
        _copy(target, block)
        meter.add(target.nbytes)


def _copy(target: np.ndarray, block: np.ndarray) -> None:
    """Copy and cast a block that is mostly a transposed view, in bands that fit a core's cache.

    Each band is first packed in the order in which it lies in memory. Measured on a [4096, 4096]
    bfloat16 matrix: 21 ms, against 336 ms for one assignment, which walks memory in long strides.
    """
    if target.ndim > 2 and len(target) < _BAND:
        for each, own in zip(target, block, strict=True):
            _copy(each, own)
        return
    for start in range(0, len(target), _BAND):
        band = slice(start, start + _BAND)
        target[band] = block[band].astype(target.dtype, order="K", copy=True)


def _check(files: TensorFiles, config: ModelConfig) -> None:
    """Account for every tensor of the checkpoint, before any of them is loaded."""
    expected = {
        source.key: source.shape
        for path, parameter in leaves(declare(config))
        for source in sources(config, path, parameter)
    }
    present = set(files.keys())
    for key, shape in expected.items():
        if key not in present:
            raise CheckpointError(files.directory, f"{key}: missing from the checkpoint")
        if files.shape(key) != shape:
            raise CheckpointError(
                files.path(key), f"{key}: has shape {files.shape(key)}, config.json says {shape}"
            )
    for key in sorted(present - set(expected)):
        if key == HEAD_KEY and config.tie_embeddings:
            _check_tied(files)
        elif not is_derived(key):
            raise CheckpointError(
                files.path(key), f"{key}: not used by the {config.family} family as configured"
            )


def _check_tied(files: TensorFiles) -> None:
    """Raise CheckpointError when a stored head differs from the embedding it is tied to."""
    same = files.shape(HEAD_KEY) == files.shape(EMBEDDING_KEY)
    rows, columns = files.shape(EMBEDDING_KEY)
    for start in range(0, rows, _COMPARED_ROWS):
        region = (slice(start, min(start + _COMPARED_ROWS, rows)), slice(0, columns))
        same = same and np.array_equal(
            files.read(HEAD_KEY, region), files.read(EMBEDDING_KEY, region)
        )
    if not same:
        raise CheckpointError(
            files.path(HEAD_KEY),
            f"{HEAD_KEY}: differs from {EMBEDDING_KEY}, though tie_word_embeddings is true",
        )
