"""How a checkpoint wants to be sampled: what its file says, and nothing that it does not."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.errors import CheckpointError
from model.sampling_defaults import SamplingDefaults, read_sampling_defaults


def read(directory: Path, said: Any) -> SamplingDefaults:
    (directory / "generation_config.json").write_text(json.dumps(said))
    return read_sampling_defaults(directory)


def test_what_stands_there_is_the_default(tmp_path: Path):
    """As Qwen3 ships it, with fields that say nothing of sampling."""
    said = {"do_sample": True, "eos_token_id": [1, 2], "temperature": 0.6, "top_k": 20, "top_p": 1}
    found = read(tmp_path, said)
    assert found == SamplingDefaults(temperature=0.6, top_k=20)
    assert str(found) == "temperature 0.6, top_k 20"


def test_what_does_not_is_openais(tmp_path: Path):
    assert read_sampling_defaults(tmp_path) == SamplingDefaults()
    assert read(tmp_path, {"do_sample": False, "temperature": None}) == SamplingDefaults()
    assert str(SamplingDefaults()) == ""


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"temperature": "warm"}, "temperature: expected a number"),
        ({"top_p": 1.5}, "top_p: 1.5 is not between 0 and 1"),
        ({"top_k": 2.5}, "top_k: expected an integer"),
        ({"repetition_penalty": 0}, "repetition_penalty: 0 is not between 0.01 and 100"),
        ([], "holds a JSON list"),
    ],
)
def test_what_no_request_could_ask_for_is_named(tmp_path: Path, said: Any, problem: str):
    with pytest.raises(CheckpointError, match=r"generation_config\.json") as caught:
        read(tmp_path, said)
    assert problem in str(caught.value)
