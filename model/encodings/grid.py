"""Where in a tensor is the scale of an output channel, if blocks of channels share one?"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from model.encodings.schemes import Grain

Read = Callable[[tuple[slice, ...]], np.ndarray]


@dataclass(frozen=True, slots=True)
class Grid:
    """The blocks into which a grain cuts a weight of these sizes, the last ones maybe cut short."""

    grain: Grain
    rows: int
    columns: int

    @property
    def groups(self) -> int:
        """How many blocks lie side by side."""
        return 1 if self.grain.columns is None else -(-self.columns // self.grain.columns)

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes that a tensor with one value a block may have."""
        down = 1 if self.grain.rows is None else -(-self.rows // self.grain.rows)
        flat: tuple[tuple[int, ...], ...] = ((down,),) if self.groups == 1 else ()
        single: tuple[tuple[int, ...], ...] = ((),) if down == self.groups == 1 else ()
        return ((down, self.groups), *flat, *single)

    def read(self, shape: tuple[int, ...], rows: range, read: Read) -> np.ndarray:
        """Read the values of output channels [rows, groups] from a tensor of one of `shapes`."""
        size = self.rows if self.grain.rows is None else self.grain.rows
        first, last = rows.start // size, -(-rows.stop // size)
        found = read((slice(first, last), slice(0, self.groups))[: len(shape)])
        return found.reshape(-1, self.groups)[np.asarray(rows, np.intp) // size - first]

    def groups_of(self, columns: range) -> np.ndarray:
        """Return which block each of these input channels is in, counted from the left."""
        size = self.columns if self.grain.columns is None else self.grain.columns
        return np.asarray(columns, np.intp) // size
