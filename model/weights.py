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
from model.quantised import Quantised
from model.quantised_parts import NotFiniteError, Part, PartQuantiser
from model.tensor_files import TensorFiles
from model.weight_maps import EMBEDDING_KEY, HEAD_KEY, Ranges, Source, is_derived, sources

Progress = Callable[[int, int], None]
"""(bytes placed so far, bytes in all), as the parameters are kept; scales do not count."""

_COMPARED_ROWS = 4096  # rows of two embedding tables that are held in memory at once
_BAND = 64  # rows copied at once; 8, 16, 32 and 64 took 33, 27, 39 and 21 ms on `_copy`'s matrix


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

    Weights that the config quantizes are quantised layer by layer, from float32. Peak memory is
    then the part in eight bits and one layer of the weight; where devices share the axes that a
    matmul sums over, its tensors are read once more, for the scales.

    Raises CheckpointError naming file and key for a tensor that is missing, not used, of the
    wrong shape or of a dtype that is not a float, for a file that is absent or truncated, and for
    a weight that is to be quantised and is not finite.
    """
    declared = declare(config)
    placed = dict(leaves(shardings))

    def load(path: str, parameter: Parameter) -> jax.Array | Quantised:
        tensors = sources(config, path, parameter)

        def read(part: Part, stored: DTypeLike, note: Callable[[int], None]) -> np.ndarray:
            values = np.empty([len(own) for own in part], stored)
            _fill(values, files, tensors, dict(zip(parameter.axes, part, strict=True)), note)
            return values

        where = placed[path]
        if isinstance(where, Quantised):
            assert config.quantize is not None, "shardings are of a config that quantizes"
            quantiser = PartQuantiser(
                parameter, config.quantize, lambda part: read(part, np.float32, _unnoted)
            )
            try:
                return _place_quantised(quantiser, parameter.shape, where, meter.add)
            except NotFiniteError:
                raise CheckpointError(
                    files.path(tensors[0].key), f"{path}: NaN or Inf cannot be quantised"
                ) from None
        arrays: list[jax.Array] = []
        for part, devices in _parts(where, parameter.shape).items():
            values = read(part, dtype, meter.add)
            arrays += [jax.device_put(values, device) for device in devices]
        return jax.make_array_from_single_device_arrays(parameter.shape, where, arrays)

    meter = _Meter(progress, _placed_bytes(config, placed, dtype))
    with TensorFiles(Path(checkpoint_dir)) as files:
        _check(files, config)
        return map_parameters(load, declared)


def checkpoint_tensors(params: Params, config: ModelConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (key, tensor) of the Hugging Face form of parameters: the inverse of loading.

    Peak host memory: one whole parameter and one tensor of it. Raises ValueError for quantised
    parameters, whose form other programs do not read.
    """
    if config.quantize is not None:
        raise ValueError("quantised parameters cannot be exported")
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


def _place_quantised(
    quantiser: PartQuantiser,
    shape: tuple[int, ...],
    where: Quantised,
    note: Callable[[int], None],
) -> Quantised:
    """Quantise every part that this process places and send it to its devices."""
    values: list[jax.Array] = []
    scales: list[jax.Array] = []
    for part, devices in _parts(where.values, shape).items():
        own = quantiser.quantise(part, note)
        values += [jax.device_put(own.values, device) for device in devices]
        scales += [jax.device_put(own.scale, device) for device in devices]
    whole = quantiser.scale_part(tuple(range(size) for size in shape))
    scale_shape = tuple(len(own) for own in whole)
    together = jax.make_array_from_single_device_arrays
    return Quantised(
        together(shape, where.values, values), together(scale_shape, where.scale, scales)
    )


def _placed_bytes(config: ModelConfig, placed: dict[str, Any], dtype: DTypeLike) -> int:
    """Return how many bytes the values of all distinct parts have."""
    total = 0
    for path, parameter in leaves(declare(config)):
        match placed[path]:
            case Quantised(values, _):
                parts, itemsize = _parts(values, parameter.shape), 1
            case where:
                parts, itemsize = _parts(where, parameter.shape), np.dtype(dtype).itemsize
        total += sum(map(_volume, parts)) * itemsize
    return total


def _unnoted(size: int) -> None:
    """Take no note of bytes that are read but not placed."""


def _parts(sharding: Sharding, shape: tuple[int, ...]) -> dict[Part, list[Any]]:
    """Return the distinct parts of an array that this process places, and on which devices."""
    parts: dict[Part, list[Any]] = {}
    for device, index in sharding.addressable_devices_indices_map(shape).items():
        bounds = zip(index or (), shape, strict=True)
        part = tuple(range(size)[own] for own, size in bounds)
        parts.setdefault(part, []).append(device)
    return parts


def _volume(part: Part) -> int:
    return math.prod(len(own) for own in part)


def _fill(
    values: np.ndarray,
    files: TensorFiles,
    tensors: list[Source],
    wanted: Ranges,
    note: Callable[[int], None],
) -> None:
    """Fill `values`, the `wanted` part of a parameter, from the checkpoint's tensors.

    Calls `note` with the bytes of each.
    """
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
        note(target.nbytes)


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
