"""Where do codes, zeros and scales lie if several weights share a word?

Layouts: https://github.com/vllm-project/compressed-tensors, `compressors/pack_quantized`; those of
GPTQ as in https://github.com/AutoGPTQ/AutoGPTQ, `nn_modules/qlinear/qlinear_cuda`; those of AWQ as
in https://github.com/casper-hansen/AutoAWQ, `utils/packing_utils`.
"""

import numpy as np

from model.encodings.encoded import EncodedWeight, Expected
from model.encodings.grid import Grid
from model.encodings.schemes import Awq, Gptq, Grain, Packed
from model.encodings.words import PER_WORD, codes_down, codes_of
from model.tensor_files import FLOATS, TensorFiles

_ALL = slice(None)
_WORDS = ("I32",)
_ORDER, _G_IDX = "weight_g_idx", "g_idx"


class PackedWeight(EncodedWeight):
    """A weight of the scheme `Packed`."""

    def __init__(
        self, files: TensorFiles, module: str, shape: tuple[int, ...], scheme: Packed
    ) -> None:
        super().__init__(files, module, shape)
        self._scheme, self._grid = scheme, Grid(scheme.grain, self.rows, self.columns)
        self._ordered = self.key(_ORDER) in files

    def expected(self) -> dict[str, Expected]:
        """As in EncodedWeight."""
        wide, high = self._words(self.columns), self._words(self.rows)
        found = {
            "weight_packed": Expected(((self.rows, wide),), _WORDS),
            "weight_scale": Expected(self._grid.shapes, FLOATS),
        }
        if self._scheme.zero_points:
            found["weight_zero_point"] = Expected(((high, self._grid.groups),), _WORDS)
        if self._ordered:
            found[_ORDER] = Expected(((self.columns,),), _WORDS)
        return found

    def codes(self, rows: range, columns: range) -> np.ndarray:
        """As in EncodedWeight: uint8 with zero points, int8 without."""
        key, own = self.key("weight_packed"), slice(rows.start, rows.stop)
        codes = codes_of(
            columns, self._scheme.bits, lambda words: self.files.read(key, (own, words)), awq=False
        )
        if self._scheme.zero_points:
            return codes  # and zeros are moved up as they are
        return (codes - np.uint8(1 << self._scheme.bits - 1)).view(np.int8)

    def scales(self, rows: range) -> np.ndarray:
        """As in EncodedWeight."""
        shape = self.files.shape(self.key("weight_scale"))
        return self._grid.read(shape, rows, lambda part: self.read_scales("weight_scale", part))

    def zeros(self, rows: range) -> np.ndarray | None:
        """As in EncodedWeight."""
        if not self._scheme.zero_points:
            return None
        key = self.key("weight_zero_point")
        return codes_of(
            rows, self._scheme.bits, lambda words: self.files.read(key, (words, _ALL)).T, awq=False
        ).T

    def groups(self, columns: range) -> np.ndarray:
        """As in EncodedWeight."""
        if self._ordered:
            return self.read_order(_ORDER, columns, self._grid.groups)
        return self._grid.groups_of(columns)

    def _words(self, channels: int) -> int:
        return -(-channels * self._scheme.bits // PER_WORD)


class TransposedWeight(EncodedWeight):
    """A weight of the schemes `Gptq` and `Awq`, whose tensors begin with the input channels."""

    def __init__(
        self, files: TensorFiles, module: str, shape: tuple[int, ...], scheme: Gptq | Awq
    ) -> None:
        super().__init__(files, module, shape)
        self._grid = Grid(Grain(1, scheme.group), self.rows, self.columns)
        self._awq = isinstance(scheme, Awq)
        self._bits = 4 if isinstance(scheme, Awq) else scheme.bits
        self._offset = 0 if isinstance(scheme, Awq) else scheme.offset
        self._ordered = not self._awq and self.key(_G_IDX) in files

    def expected(self) -> dict[str, Expected]:
        """As in EncodedWeight."""
        wide, high = (-(-size * self._bits // PER_WORD) for size in (self.rows, self.columns))
        groups = self._grid.groups
        found = {
            "qweight": Expected(
                ((self.columns, wide) if self._awq else (high, self.rows),), _WORDS
            ),
            "qzeros": Expected(((groups, wide),), _WORDS),
            "scales": Expected(((groups, self.rows),), FLOATS),
        }
        if self._ordered:
            found[_G_IDX] = Expected(((self.columns,),), _WORDS)
        return found

    def codes(self, rows: range, columns: range) -> np.ndarray:
        """As in EncodedWeight: uint8."""
        key = self.key("qweight")
        down, right = slice(columns.start, columns.stop), slice(rows.start, rows.stop)
        if self._awq:
            return codes_of(
                rows, self._bits, lambda words: self.files.read(key, (down, words)), awq=True
            ).T
        return codes_down(columns, self._bits, lambda words: self.files.read(key, (words, right))).T

    def scales(self, rows: range) -> np.ndarray:
        """As in EncodedWeight."""
        return self.read_scales("scales", (_ALL, slice(rows.start, rows.stop))).T

    def zeros(self, rows: range) -> np.ndarray | None:
        """As in EncodedWeight."""
        key = self.key("qzeros")
        # As words: where a zero point is 0, the one above it in the word has lent it something.
        each = sum(1 << place for place in range(0, PER_WORD, self._bits))
        more = np.uint32(self._offset * each)

        def read(words: slice) -> np.ndarray:
            stored = self.files.read(key, (_ALL, words))
            return (stored.view(np.uint32) + more).view(np.int32)

        return codes_of(rows, self._bits, read, awq=self._awq).T

    def groups(self, columns: range) -> np.ndarray:
        """As in EncodedWeight."""
        if self._ordered:
            return self.read_order(_G_IDX, columns, self._grid.groups)
        return self._grid.groups_of(columns)
