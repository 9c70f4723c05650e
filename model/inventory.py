"""Does a checkpoint have the tensors that the model has, no more and no less, all as they must be?

Asked before any is loaded. What follows from the config, and what config.json says of activations
that stay whole here, may be there and is not read.
"""

import re

import numpy as np

from model.config import ModelConfig
from model.encodings.encoded import Expected
from model.encodings.reader import WeightReader
from model.errors import CheckpointError
from model.parameters import declare, leaves
from model.quantised import FORMATS
from model.tensor_files import FLOATS, TensorFiles
from model.weight_maps import EMBEDDING_KEY, HEAD_KEY, is_derived

_COMPARED_ROWS = 4096  # rows of two embedding tables that are held in memory at once
_UNHEEDED = re.compile(
    r".*\.(input|act|activation|output|q|k|v|kv)_(scale|zero_point|scale_ub)"  # kv: both together
    r"|.*\.weight_(shape|zero_point)"  # known from config.json; all 0 where it says symmetric
)
_HEAD_IN_FEW_BITS = re.compile(
    r"lm_head\.(qweight|qzeros|scales|g_idx|weight_(packed|scale|shape|zero_point|g_idx))"
)
_IN_FEW_BITS = ("qweight", "weight_packed", "weight_scale", "weight_scale_inv")


def check_inventory(reader: WeightReader, config: ModelConfig, *, keeps: bool) -> None:
    """Account for every tensor of a checkpoint; raises CheckpointError.

    `keeps`: matmuls of layers have to be there in eight bits.
    """
    files = reader.files
    expected: dict[str, Expected] = {}
    modules: set[str] = set()
    for path, parameter in leaves(declare(config)):
        for source in reader.sources(config, path, parameter):
            weight = reader.encoded(source)
            if weight is not None:
                expected |= {weight.key(name): one for name, one in weight.expected().items()}
                modules.add(weight.module)
            elif keeps and parameter.summed and source.key in files:
                raise CheckpointError(
                    files.path(source.key),
                    f"{source.key}: is whole, and by config.json's quantization_config it is not;"
                    f" use --quantize {_other(config)}, which rounds all again",
                )
            else:
                expected[source.key] = Expected((source.shape,), FLOATS)
    for key, wanted in expected.items():
        _check_one(files, key, wanted)
    for key in sorted(set(files.keys()) - set(expected)):
        _check_unread(files, config, key, modules)


def _other(config: ModelConfig) -> str:
    """Return a format that the files are not in, which asks nothing of them."""
    return next(form for form in FORMATS if form != config.quantize)


def _check_unread(files: TensorFiles, config: ModelConfig, key: str, modules: set[str]) -> None:
    """Raise CheckpointError for a tensor that stands for something and is not read.

    `modules` are those in few bits.
    """
    module, _, name = key.rpartition(".")
    if key == HEAD_KEY and config.tie_embeddings and EMBEDDING_KEY in files:
        _check_tied(files)
    elif module in modules and name == "bias":
        _check_no_bias(files, key)
    elif not is_derived(key) and not (modules and _is_unheeded(config, key)):
        raise CheckpointError(
            files.path(key), f"{key}: not used by the {config.family} family as configured"
        )


def _is_unheeded(config: ModelConfig, key: str) -> bool:
    """Tell whether a tensor of a checkpoint in few bits may be there and is not read.

    Some tools pack a copy of a table that is the head too: the table is read, which is whole.
    """
    tied = config.tie_embeddings and _HEAD_IN_FEW_BITS.fullmatch(key) is not None
    return tied or _UNHEEDED.fullmatch(key) is not None


def _check_one(files: TensorFiles, key: str, wanted: Expected) -> None:
    if key not in files:
        module, _, name = key.rpartition(".")
        few = name == "weight" and any(f"{module}.{other}" in files for other in _IN_FEW_BITS)
        hint = "; it is there in few bits, which config.json does not say" if few else ""
        raise CheckpointError(files.directory, f"{key}: missing from the checkpoint{hint}")
    if files.shape(key) not in wanted.shapes:
        raise CheckpointError(
            files.path(key),
            f"{key}: has shape {files.shape(key)}, config.json says {wanted.shapes[0]}",
        )
    if files.dtype(key) not in wanted.dtypes:
        known = ", ".join(wanted.dtypes)
        raise CheckpointError(
            files.path(key), f"{key}: dtype {files.dtype(key)} is not supported here ({known})"
        )


def _check_no_bias(files: TensorFiles, key: str) -> None:
    """Raise CheckpointError for a bias that the model has none of, unless it is zeros.

    GPTQ's tools wrote zeros for every module (https://github.com/AutoGPTQ/AutoGPTQ/issues/555).
    """
    region = tuple(slice(0, size) for size in files.shape(key))
    if np.any(np.asarray(files.read(key, region), np.float32)):
        raise CheckpointError(files.path(key), f"{key}: a bias, though config.json says none")


def _check_tied(files: TensorFiles) -> None:
    """Raise CheckpointError when a stored head differs from the embedding it is tied to."""
    rows, columns = files.shape(EMBEDDING_KEY)
    same = files.shape(HEAD_KEY) == (rows, columns)
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
