"""Where do codes and scales lie if each weight has a byte of its own?

Layouts: https://github.com/vllm-project/compressed-tensors, `compressors/naive_quantized`; those of
FP8 and FBGEMM as in transformers' `integrations/finegrained_fp8` and `integrations/fbgemm_fp8`.
"""

import jax.numpy as jnp
import numpy as np

from model.encodings.encoded import EncodedWeight, Expected
from model.encodings.grid import Grid
from model.encodings.schemes import EightBits
from model.tensor_files import FLOATS, TensorFiles

_DTYPES = {"int8": "I8", "fp8": "F8_E4M3"}
_ZEROS = "weight_zero_point"
_NAN = 0x7F  # of e4m3, but for the sign


class EightBitWeight(EncodedWeight):
    """A weight of the scheme `EightBits`."""

    def __init__(
        self, files: TensorFiles, module: str, shape: tuple[int, ...], scheme: EightBits
    ) -> None:
        super().__init__(files, module, shape)
        self._scheme, self._grid = scheme, Grid(scheme.grain, self.rows, self.columns)
        present = [name for name in scheme.scales if self.key(name) in files]
        self._scale = present[0] if present else scheme.scales[0]

    def expected(self) -> dict[str, Expected]:
        """As in EncodedWeight."""
        dtype = _DTYPES[self._scheme.form]
        found = {
            "weight": Expected(((self.rows, self.columns),), (dtype,)),
            self._scale: Expected(self._grid.shapes, FLOATS),
        }
        if self._scheme.zero_points:
            found[_ZEROS] = Expected(self._grid.shapes, ("I8",))
        return found

    def codes(self, rows: range, columns: range) -> np.ndarray:
        """As in EncodedWeight: int8 or e4m3."""
        region = (slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        codes = self.files.read(self.key("weight"), region)
        if self._scheme.form == "int8":
            return codes
        if ((codes & _NAN) == _NAN).any():
            raise self.error("weight", "a value is NaN; the file is damaged")
        return codes.view(jnp.float8_e4m3fn)

    def scales(self, rows: range) -> np.ndarray:
        """As in EncodedWeight."""
        shape = self.files.shape(self.key(self._scale))
        return self._grid.read(shape, rows, lambda part: self.read_scales(self._scale, part))

    def zeros(self, rows: range) -> np.ndarray | None:
        """As in EncodedWeight."""
        if not self._scheme.zero_points:
            return None
        key = self.key(_ZEROS)
        return self._grid.read(self.files.shape(key), rows, lambda part: self.files.read(key, part))

    def groups(self, columns: range) -> np.ndarray:
        """As in EncodedWeight."""
        return self._grid.groups_of(columns)
