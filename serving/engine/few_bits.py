"""What becomes of weights that lie in the files in few bits? Lines for whoever starts a server."""

from dataclasses import replace
from pathlib import Path

from model.config import ModelConfig
from model.encodings.settings import load_encodings
from model.parameters import weight_bytes
from model.tensor_files import TensorFiles
from serving.engine.room import GIB


def told(checkpoint: Path, model: ModelConfig) -> list[str]:
    """Say how a checkpoint's weights are stored, what they become and take; nothing if whole.

    Raises CheckpointError.
    """
    encodings = load_encodings(checkpoint)
    if not encodings.rules:
        return []
    with TensorFiles(checkpoint) as files:
        stored = files.size
    took, form = weight_bytes(model), model.quantize
    sizes = f"{_gib(took)} in memory, {_gib(stored)} in files"
    if form is None:
        rounded = weight_bytes(replace(model, quantize="int8"))
        narrow = weight_bytes(replace(model, dtype="bfloat16"))
        halved = f" --dtype bfloat16 takes {_gib(narrow)};" if narrow < took else ""
        line = (
            f"are served in {model.dtype}: {sizes};{halved} --quantize int8 or fp8 rounds them"
            f" again, and takes {_gib(rounded)}"
        )
    elif form == encodings.kept_as(model.num_layers):
        line = f"stay as they are, in {form}: {sizes}"
    else:
        line = f"are rounded again, to {form}: {sizes}"
    lines = [f"weights: stored in few bits ({encodings}), {line}"]
    if encodings.unheeded:
        unheeded = " and ".join(encodings.unheeded)
        lines.append(
            f"weights: the checkpoint's settings of {unheeded} have no effect:"
            f" activations stay in {model.dtype}, KV pages in {model.kept_as}"
        )
    return lines


def _gib(size: int) -> str:
    return f"{size / GIB:.2f} GiB"
