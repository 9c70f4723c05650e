"""What a head belongs to is told by its files."""

from pathlib import Path

import pytest

from model.errors import CheckpointError
from predictor.fingerprint import checkpoint_fingerprint, tokenizer_fingerprint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    for name in ("config.json", "a.safetensors", "b.safetensors", "tokenizer.json"):
        (tmp_path / name).write_text(name)
    return tmp_path


@pytest.mark.parametrize("name", ["config.json", "a.safetensors", "b.safetensors"])
def test_sizes_and_all_weights_count_for_the_checkpoint(checkpoint: Path, name: str):
    before = checkpoint_fingerprint(checkpoint), tokenizer_fingerprint(checkpoint)
    (checkpoint / name).write_text("changed")
    assert checkpoint_fingerprint(checkpoint) != before[0]
    assert tokenizer_fingerprint(checkpoint) == before[1]


def test_the_tokenizer_counts_by_itself(checkpoint: Path):
    before = checkpoint_fingerprint(checkpoint), tokenizer_fingerprint(checkpoint)
    (checkpoint / "tokenizer.json").write_text("changed")
    assert tokenizer_fingerprint(checkpoint) != before[1]
    assert checkpoint_fingerprint(checkpoint) == before[0]


def test_a_file_that_is_not_there_is_named(checkpoint: Path):
    (checkpoint / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        tokenizer_fingerprint(checkpoint)
