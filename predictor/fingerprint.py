"""Which checkpoint and tokenizer does something belong to? Digests of their files."""

from hashlib import blake2b
from pathlib import Path

from model.checkpoint_files import CONFIG, TOKENIZER
from model.errors import CheckpointError

READ_AT_ONCE = 2**20


def checkpoint_fingerprint(checkpoint: Path) -> str:
    """Digest the sizes and weights of a checkpoint directory; raises CheckpointError."""
    return _digest([checkpoint / CONFIG, *sorted(checkpoint.glob("*.safetensors"))])


def tokenizer_fingerprint(checkpoint: Path) -> str:
    """Digest the tokenizer of a checkpoint directory; raises CheckpointError."""
    return _digest([checkpoint / TOKENIZER])


def _digest(paths: list[Path]) -> str:
    state = blake2b(digest_size=16)
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(READ_AT_ONCE):
                    state.update(block)
        except OSError as error:
            raise CheckpointError(path, f"cannot be read ({error.strerror})") from error
    return state.hexdigest()
