"""Weights that nobody has: asked for by name, refused otherwise, and every client is told."""

import json
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from model.errors import CheckpointError
from serving.api.id_tokenizer import IdTokenizer
from serving.api.info import RANDOM_HEADER
from serving.config import ConfigError
from serving.engine.build import check_weights, settle
from serving.flags import build_config
from serving.serve import find_tokenizer, random_notice
from tests.model.checkpoints import GOLDEN
from tests.serving.test_serve import DEMO, ROOT, SMALL, serving


def sizes_alone(target: Path, *, tokenizer: bool) -> Path:
    """A directory with the sizes of the demo model, and no weights."""
    for name in ("config.json", *(("tokenizer.json",) if tokenizer else ())):
        shutil.copy(DEMO / name, target / name)
    return target


def config_of(directory: Path, **settings: object):
    return build_config(str(directory), settings)


def test_without_weights_the_flag_is_named(tmp_path: Path):
    directory = sizes_alone(tmp_path, tokenizer=True)
    with pytest.raises(ConfigError, match=r"no \*.safetensors weights in it; --random-weights"):
        settle(config_of(directory))
    (directory / "pytorch_model.bin").touch()  # which is not read here
    with pytest.raises(ConfigError, match="--random-weights"):
        settle(config_of(directory))


@pytest.mark.parametrize(
    "file", ["model.safetensors", "model.safetensors.index.json", "pytorch_model-00001.bin"]
)
def test_weights_that_are_there_are_not_replaced_by_random_ones(tmp_path: Path, file: str):
    directory = sizes_alone(tmp_path, tokenizer=True)
    (directory / file).touch()
    with pytest.raises(ConfigError, match=re.escape(f"has weights ({file}); leave the flag out")):
        check_weights(config_of(directory, random_weights=True))


def test_no_head_belongs_to_random_weights(tmp_path: Path):
    directory = sizes_alone(tmp_path, tokenizer=True)
    head = str(DEMO / "length_head")
    with pytest.raises(ConfigError, match=r"--length-head .*: no head belongs to random weights"):
        check_weights(config_of(directory, random_weights=True, length_head=head))
    check_weights(config_of(directory, random_weights=True, length_head="none"))


def test_what_every_checkpoint_needs_is_still_asked_for(tmp_path: Path):
    check_weights(config_of(GOLDEN / "mistral"))
    with pytest.raises(CheckpointError, match=r"config\.json: no such file"):
        settle(config_of(tmp_path, random_weights=True))


def test_ids_stand_for_text_only_where_there_is_no_tokenizer(tmp_path: Path):
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    for directory in (bare, whole):
        directory.mkdir()
        sizes_alone(directory, tokenizer=directory is whole)
    bare_deployment, whole_deployment = (
        settle(config_of(directory, random_weights=True)) for directory in (bare, whole)
    )
    tokenizer = find_tokenizer(bare_deployment)
    assert isinstance(tokenizer, IdTokenizer)
    assert tokenizer.vocab_size == bare_deployment.model.vocab_size
    assert tokenizer.eos_ids == bare_deployment.model.eos_ids
    notice = random_notice(bare_deployment.config, tokenizer)
    assert "RANDOM WEIGHTS" in notice
    assert "prompts must be token ids" in notice
    tokenizer = find_tokenizer(whole_deployment)
    assert tokenizer.encode("1", add_special_tokens=False)
    assert "token ids" not in random_notice(whole_deployment.config, tokenizer)


def test_a_chat_template_given_is_the_one_that_is_used(tmp_path: Path):
    given = tmp_path / "given.jinja"
    given.write_text("{{ messages[0].content }}!")
    tokenizer = find_tokenizer(settle(config_of(DEMO, chat_template=str(given))))
    hi = [{"role": "user", "content": "hi"}]
    text = tokenizer.apply_chat_template(hi, add_generation_prompt=True, tools=None, variables={})
    assert text == "hi!"
    bare = settle(
        config_of(
            sizes_alone(tmp_path, tokenizer=False), random_weights=True, chat_template=str(given)
        )
    )
    with pytest.raises(ConfigError, match=r"--chat-template needs a tokenizer\.json in .*; leave"):
        find_tokenizer(bare)


@pytest.mark.slow
def test_a_server_with_random_weights(tmp_path: Path):
    directory = sizes_alone(tmp_path, tokenizer=False)
    with serving(*SMALL, "--random-weights", checkpoint=directory) as served:
        card = httpx.get(f"{served.url}/v1/models").json()["data"][0]
        assert card["random_weights"] is True
        assert httpx.get(f"{served.url}/health").headers[RANDOM_HEADER] == "true"
        info = httpx.get(f"{served.url}/server_info").json()
        assert info["random-weights"] is True
        asked = {
            "model": "demo",
            "prompt": [5, 6, 7],
            "max_tokens": 8,
            "temperature": 0,
            "return_token_ids": True,
            "ignore_eos": True,
        }
        url = f"{served.url}/v1/completions"
        one, again = (httpx.post(url, json=asked).json()["choices"][0] for _ in range(2))
        assert one["token_ids"] == again["token_ids"]
        assert one["text"] == "".join(f"{i} " for i in one["token_ids"])
        for path, body in (
            ("completions", {"prompt": "hello"}),
            ("chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ):
            refused = httpx.post(f"{served.url}/v1/{path}", json={"model": "demo", **body})
            assert refused.status_code == 400
            assert refused.json()["error"]["code"] == "no_tokenizer"
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0


@pytest.mark.slow
def test_a_profile_of_random_weights(tmp_path: Path):
    directory = sizes_alone(tmp_path, tokenizer=False)
    out = tmp_path / "costs.json"
    command = [sys.executable, "-m", "serving.cli", "profile", str(directory), "--random-weights"]
    small = [*SMALL, "--repeats", "1", "--max-model-len", "64"]
    done = subprocess.run([*command, "--out", str(out), *small], cwd=ROOT, check=False)
    assert done.returncode == 0
    assert json.loads(out.read_text())["workers"][0]["steps"]
