"""How do a checkpoint's tensors become sharded parameters, with every key accounted for?

Knows nothing of meshes: shardings come as a tree. Nothing is loaded before the names and shapes of
all tensors have been checked (`model/inventory`).
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from model.config import ModelConfig
from model.encodings.reader import WeightReader
from model.encodings.settings import load_encodings
from model.errors import CheckpointError
from model.filling import Note, fill
from model.inventory import check_inventory
from model.parameters import Parameter, Params, declare, leaves, map_parameters
from model.quantised import FORMATS, Quantised
from model.quantised_parts import NotFiniteError, Part, PartQuantiser, scale_part
from model.tensor_files import TensorFiles
from model.weight_maps import Ranges, sources

Progress = Callable[[int, int], None]
"""(bytes placed so far, bytes in all), as the parameters are kept; scales do not count."""


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

    Weights that the config quantizes are kept as the files hold them if they hold just that (see
    `Encodings.kept_as`). Else they are quantised layer by layer, from float32. Peak memory is then
    the part in eight bits and one layer of the weight; where devices share the axes that a matmul
    sums over, its tensors are read once more, for the scales.

    Raises CheckpointError naming file and key for a tensor that is missing, not used, of the
    wrong shape or of another dtype than the config says, for a file that is absent or truncated,
    for a weight that is to be quantised and is not finite, and for a scale that cannot be.
    """
    declared = declare(config)
    encodings = load_encodings(Path(checkpoint_dir))
    kept_as = encodings.kept_as(config.num_layers)
    keeps = config.quantize is not None and config.quantize == kept_as
    placed = dict(leaves(shardings))

    def load(path: str, parameter: Parameter) -> jax.Array | Quantised:
        tensors = reader.sources(config, path, parameter)

        def read(part: Part, stored: DTypeLike, note: Note) -> np.ndarray:
            values = np.empty([len(own) for own in part], stored)
            fill(values, reader.read, tensors, _ranges(parameter, part), note)
            return values

        def read_kept(form: str, part: Part, note: Note) -> Quantised:
            own = scale_part(parameter, part)
            kept = Quantised(
                np.empty([len(each) for each in part], FORMATS[form]),
                np.empty([len(each) for each in own], np.float32),
            )
            wanted = _ranges(parameter, part)
            fill(kept.values, reader.read_values, tensors, wanted, note)
            matmuls = {source.key: source for source in tensors}
            fill(
                kept.scale,
                lambda channels, rows: reader.read_scales(matmuls[channels.key], rows),
                [source.channels for source in tensors],
                wanted,
                _unnoted,
            )
            return kept

        where, form = placed[path], config.quantize
        if isinstance(where, Quantised):
            assert form is not None, "shardings are of a config that quantizes"
            if keeps:
                return _place_quantised(partial(read_kept, form), parameter, where, meter.add)
            quantiser = PartQuantiser(
                parameter, form, lambda part: read(part, np.float32, _unnoted)
            )
            try:
                return _place_quantised(quantiser.quantise, parameter, where, meter.add)
            except NotFiniteError:
                raise CheckpointError(
                    reader.path(tensors[0]), f"{path}: NaN or Inf cannot be quantised"
                ) from None
        arrays: list[jax.Array] = []
        for part, devices in _parts(where, parameter.shape).items():
            values = read(part, dtype, meter.add)
            arrays += [jax.device_put(values, device) for device in devices]
        return jax.make_array_from_single_device_arrays(parameter.shape, where, arrays)

    meter = _Meter(progress, _placed_bytes(config, placed, dtype))
    with TensorFiles(Path(checkpoint_dir)) as files:
        reader = WeightReader(files, encodings)
        check_inventory(reader, config, keeps=keeps)
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
    read: Callable[[Part, Note], Quantised],
    parameter: Parameter,
    where: Quantised,
    note: Note,
) -> Quantised:
    """Read every part that this process places and send it to its devices."""
    values: list[jax.Array] = []
    scales: list[jax.Array] = []
    for part, devices in _parts(where.values, parameter.shape).items():
        own = read(part, note)
        values += [jax.device_put(own.values, device) for device in devices]
        scales += [jax.device_put(own.scale, device) for device in devices]
    whole = scale_part(parameter, tuple(range(size) for size in parameter.shape))
    scale_shape = tuple(len(own) for own in whole)
    together = jax.make_array_from_single_device_arrays
    return Quantised(
        together(parameter.shape, where.values, values),
        together(scale_shape, where.scale, scales),
    )


def _ranges(parameter: Parameter, part: Part) -> Ranges:
    return dict(zip(parameter.axes, part, strict=True))


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
