"""What does a checkpoint say a weight is, however it lies in the files?

What reads parameters reads from here: weights in few bits in float32, or as they are kept where
`model.quantised` keeps them alike, and everything else as it is stored.
"""

from dataclasses import replace
from pathlib import Path
from typing import assert_never

import numpy as np

from model.config import ModelConfig
from model.encodings.eight_bits import EightBitWeight
from model.encodings.encoded import EncodedWeight, dequantised
from model.encodings.encodings import Encodings
from model.encodings.packed import PackedWeight, TransposedWeight
from model.encodings.schemes import Awq, EightBits, Gptq, Packed
from model.parameters import Parameter
from model.tensor_files import FLOATS, TensorFiles
from model.weight_maps import EMBEDDING_KEY, HEAD_KEY, Source, sources

_WEIGHT = ".weight"
Region = tuple[slice, ...]


class WeightReader:
    """The tensors of a checkpoint, by the source that names them."""

    def __init__(self, files: TensorFiles, encodings: Encodings) -> None:
        self.files = files
        self._encodings = encodings

    def sources(self, config: ModelConfig, path: str, parameter: Parameter) -> list[Source]:
        """Return every tensor that fills one parameter, under its name in these files.

        Of a table that is the head too, safetensors writes one copy under the first of its names:
        https://huggingface.co/docs/safetensors/torch_shared_tensors.
        """
        found = sources(config, path, parameter)
        if config.tie_embeddings and EMBEDDING_KEY not in self.files and HEAD_KEY in self.files:
            return [replace(s, key=HEAD_KEY) if s.key == EMBEDDING_KEY else s for s in found]
        return found

    def encoded(self, source: Source) -> EncodedWeight | None:
        """Return a tensor that lies in the files in few bits; None if it is whole.

        The files have the last word: tools leave modules whole that config.json does not name.
        """
        module = source.key.removesuffix(_WEIGHT)
        scheme = self._encodings.of(module)
        if scheme is None or len(source.dims) != 2 or module == source.key:
            return None
        if source.key in self.files and self.files.dtype(source.key) in FLOATS:
            return None
        match scheme:
            case EightBits():
                return EightBitWeight(self.files, module, source.shape, scheme)
            case Packed():
                return PackedWeight(self.files, module, source.shape, scheme)
            case Gptq() | Awq():
                return TransposedWeight(self.files, module, source.shape, scheme)
            case unreachable:
                assert_never(unreachable)

    def path(self, source: Source) -> Path:
        """Return the file that a tensor is in; that of its scales may be another."""
        weight = self.encoded(source)
        key = source.key if weight is None else weight.key(next(iter(weight.expected())))
        return self.files.path(key)

    def read(self, source: Source, region: Region) -> np.ndarray:
        """Read a region of a tensor, of `source.shape`; in float32 if it lies there in few bits."""
        weight = self.encoded(source)
        if weight is None:
            return self.files.read(source.key, region)
        return dequantised(weight, *_ranges(region))

    def read_values(self, source: Source, region: Region) -> np.ndarray:
        """Read a region of a weight in eight bits, without its scales."""
        return self._kept(source).codes(*_ranges(region))

    def read_scales(self, source: Source, region: Region) -> np.ndarray:
        """Read the scales of a region's output channels, all that it needs to have."""
        (rows,) = _ranges(region)
        return self._kept(source).scales(rows)[:, 0]

    def _kept(self, source: Source) -> EncodedWeight:
        weight = self.encoded(source)
        assert weight is not None, "the inventory has found all matmuls in eight bits"
        return weight


def _ranges(region: Region) -> list[range]:
    return [range(part.start, part.stop) for part in region]
