"""Which tensors does a checkpoint directory hold, and in which file? Reads parts of them lazily.

Knows nothing of models. Files are memory-mapped by the safetensors library; every failure to find
or open one becomes a CheckpointError that names it.
"""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from model.checkpoint_files import WEIGHTS, WEIGHTS_INDEX
from model.errors import CheckpointError
from model.json_fields import Fields, read_json_object

_WEIGHTS = ("*.safetensors", WEIGHTS_INDEX, "pytorch_model*.bin", "*.pth", "*.gguf")
FLOATS = ("F32", "BF16", "F16", "F64")
"""The dtypes of whole weights, by the names that safetensors has for them."""
_E4M3 = "F8_E4M3"
_SIZE_BYTES = 8  # of the number with which a file begins
_POINTER = b"version https://git-lfs"


def weight_files(directory: Path) -> list[str]:
    """Name the weight files in a directory, sorted; also those of formats that are not read."""
    return sorted({path.name for kind in _WEIGHTS for path in directory.glob(kind)})


def can_be_read(file: str) -> bool:
    """Tell whether a weight file is of the format that is read here."""
    return file == WEIGHTS_INDEX or file.endswith(".safetensors")


def indexed_files(index: Path) -> dict[str, str]:
    """Return the file that an index names for every tensor; raises CheckpointError."""
    fields = Fields(index, read_json_object(index), prefix="").inside("weight_map")
    return {key: fields.text(key) for key in fields.names()}


def _is_pointer(path: Path) -> bool:
    """Tell whether a clone without Git LFS left this in place of the file."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


class TensorFiles:
    """The tensors of one checkpoint directory; a context manager that closes its files.

    Found in this order: `model.safetensors`, the shards that `model.safetensors.index.json`
    names, the only other `*.safetensors` file. Raises CheckpointError for none or several.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._stack = ExitStack()
        self._slices: dict[str, Any] = {}
        self._paths: dict[str, Path] = {}
        self._starts: dict[Path, dict[str, int]] = {}  # of tensors' bytes, in files with some e4m3

    def __enter__(self) -> "TensorFiles":
        with ExitStack() as undo:
            undo.callback(self._stack.close)
            self._open_all()
            undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._slices.clear()
        self._stack.close()

    def keys(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return sorted(self._paths)

    @property
    def size(self) -> int:
        """The bytes of all its files."""
        return sum(path.stat().st_size for path in set(self._paths.values()))

    def __contains__(self, key: str) -> bool:
        return key in self._paths

    def path(self, key: str) -> Path:
        """Return the file that holds a tensor."""
        return self._paths[key]

    def shape(self, key: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return tuple(self._slices[key].get_shape())

    def dtype(self, key: str) -> str:
        """Return the name that safetensors has for a tensor's dtype."""
        return self._slices[key].get_dtype()

    def read(self, key: str, region: tuple[slice, ...]) -> np.ndarray:
        """Copy one region of a tensor out of its file, in the stored dtype; e4m3 in uint8."""
        try:
            if self.dtype(key) == _E4M3:
                return np.array(self._mapped(key)[region])
            return self._slices[key][region]
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(self._paths[key], f"{key}: cannot be read: {error}") from None

    def _mapped(self, key: str) -> np.ndarray:
        """Map a tensor of bytes, which the library's slices do not know in numpy if they are e4m3.

        The file: https://huggingface.co/docs/safetensors, 8 bytes with the size of a header in
        JSON, which says where in the rest a tensor lies. It was checked when the file was opened.
        """
        path = self._paths[key]
        if path not in self._starts:
            with path.open("rb") as file:
                size = int.from_bytes(file.read(_SIZE_BYTES), "little")
                header = json.loads(file.read(size))
            self._starts[path] = {
                name: _SIZE_BYTES + size + tensor["data_offsets"][0]
                for name, tensor in header.items()
                if name != "__metadata__"
            }
        shape, start = self.shape(key), self._starts[path][key]
        return np.memmap(path, np.uint8, "r", start, shape)

    def _open_all(self) -> None:
        index = self.directory / WEIGHTS_INDEX
        if (self.directory / WEIGHTS).exists():
            self._open(self.directory / WEIGHTS)
        elif index.exists():
            self._open_sharded(index)
        else:
            self._open(self._only_file())

    def _only_file(self) -> Path:
        files = sorted(self.directory.glob("*.safetensors"))
        match files:
            case [single]:
                return single
            case []:
                raise CheckpointError(self.directory, "no *.safetensors weights in it")
            case _:
                raise CheckpointError(
                    self.directory / WEIGHTS_INDEX,
                    f"missing, though there are {len(files)} weight files",
                )

    def _open_sharded(self, index: Path) -> None:
        placed = indexed_files(index)
        for name in sorted(set(placed.values())):
            path = self.directory / name
            if Path(name).name != name or not path.is_file():
                key = min(key for key, file in placed.items() if file == name)
                raise CheckpointError(index, f"{key}: names the file {name!r}, which is not there")
            self._open(path)
        for key, name in placed.items():
            if key not in self._paths:
                raise CheckpointError(self.directory / name, f"{key}: missing, though indexed here")

    def _open(self, path: Path) -> None:
        try:
            file = self._stack.enter_context(safe_open(path, framework="np"))
        except (SafetensorError, OSError) as error:
            problem = f"not a complete safetensors file: {error}"
            if _is_pointer(path):
                problem = "a pointer of Git LFS, not the weights; git lfs pull fetches them"
            raise CheckpointError(path, problem) from None
        for key in list(file.keys()):
            if key in self._paths:
                raise CheckpointError(path, f"{key}: also in {self._paths[key].name}")
            self._paths[key] = path
            self._slices[key] = file.get_slice(key)
