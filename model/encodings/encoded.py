"""What is one module's weight in few bits, in the files? Its tensors, and what they stand for.

`weight[out, in] = (code - zero) * scale`; one scheme each is a subclass, and all that differs is
where codes, zeros and scales lie. Knows nothing of parameters or devices.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from model.errors import CheckpointError
from model.tensor_files import TensorFiles

_BAND = 16  # channels at once, so that what lies between code and weight fits a core's cache
# What each byte means in e4m3: a table took a third of the time that the conversion takes.
_E4M3 = np.arange(256, dtype=np.uint8).view(jnp.float8_e4m3fn).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a tensor of a checkpoint has to look like: one of these shapes and of these dtypes."""

    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]


class EncodedWeight(ABC):
    """The weight [out, in] of a module; `rows` are output channels, `columns` input channels."""

    def __init__(self, files: TensorFiles, module: str, shape: tuple[int, ...]) -> None:
        """`module` is its name in the checkpoint, such as `model.layers.0.mlp.up_proj`."""
        self.files, self.module = files, module
        self.rows, self.columns = shape

    @abstractmethod
    def expected(self) -> dict[str, Expected]:
        """Return the tensors that are read, by what follows the module's name."""

    @abstractmethod
    def codes(self, rows: range, columns: range) -> np.ndarray:
        """Read codes [rows, columns], of 8 bits."""

    @abstractmethod
    def scales(self, rows: range) -> np.ndarray:
        """Read scales [rows, groups] in float32."""

    @abstractmethod
    def zeros(self, rows: range) -> np.ndarray | None:
        """Read zero points [rows, groups], if there are any."""

    @abstractmethod
    def groups(self, columns: range) -> np.ndarray:
        """Return the group of each of these input channels [columns]."""

    def key(self, name: str) -> str:
        """Return the name of one of the tensors in the checkpoint."""
        return f"{self.module}.{name}"

    def error(self, name: str, problem: str) -> CheckpointError:
        """Return an error about one of the tensors, to be raised by the caller."""
        key = self.key(name)
        return CheckpointError(self.files.path(key), f"{key}: {problem}")

    def read_scales(self, name: str, region: tuple[slice, ...]) -> np.ndarray:
        """Read scales as they are, in float32; raises CheckpointError for what can be none.

        A scale is 0 where a channel or a group was pruned or is smaller than float16 can say: its
        weights are 0. A file that was not written to its end has no other scales.
        """
        scales = np.asarray(self.files.read(self.key(name), region), np.float32)
        if not np.isfinite(scales).all():
            raise self.error(name, "a scale is NaN or Inf; the file is damaged")
        if not scales.any():
            whole = tuple(slice(0, size) for size in self.files.shape(self.key(name)))
            if not np.asarray(self.files.read(self.key(name), whole), np.float32).any():
                raise self.error(name, "all scales are 0; the file is damaged")
        return scales

    def read_order(self, name: str, columns: range, groups: int) -> np.ndarray:
        """Read in which group each of these input channels is; raises CheckpointError."""
        order = self.files.read(self.key(name), (slice(columns.start, columns.stop),))
        if ((order < 0) | (order >= groups)).any():
            raise self.error(name, f"names a group outside the {groups}; the file is damaged")
        return order


def dequantised(weight: EncodedWeight, rows: range, columns: range) -> np.ndarray:
    """Read a part of a weight in float32; raises CheckpointError."""
    codes, scales = weight.codes(rows, columns), weight.scales(rows)
    zeros, groups = weight.zeros(rows), weight.groups(columns)
    if codes.flags.c_contiguous:
        return _in_bands(codes, lambda band, each: np.take(each[band], groups, 1), scales, zeros)
    # Codes that lie input channel by input channel are gone through in that order.
    turned = None if zeros is None else zeros.T
    return _in_bands(codes.T, lambda band, each: each[groups[band]], scales.T, turned).T


def _in_bands(
    codes: np.ndarray,
    spread: Callable[[slice, np.ndarray], np.ndarray],
    scales: np.ndarray,
    zeros: np.ndarray | None,
) -> np.ndarray:
    """Return (code - zero) * scale in float32, a band of first indices at a time.

    `spread` returns scales, or zeros, of a band, one for every code.
    """
    found = np.empty(codes.shape, np.float32)
    scales = np.ascontiguousarray(scales)
    lifted = None if zeros is None else np.ascontiguousarray(zeros, np.float32)
    octets = codes.view(np.uint8) if codes.dtype == jnp.float8_e4m3fn else None
    for start in range(0, len(codes), _BAND):
        band = slice(start, start + _BAND)
        values = found[band]
        if octets is None:
            values[...] = codes[band]
        else:
            np.take(_E4M3, octets[band], out=values, mode="clip")
        if lifted is not None:
            values -= spread(band, lifted)
        values *= spread(band, scales)
    return found
