"""`foretoken generate`: what it cannot do is one line that names the flag."""

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from model.tokenizer import ChatTokenizer
from serving.cli import cli
from serving.config import ConfigError

DEMO = Path(__file__).parents[3] / "checkpoints" / "demo"


def generate(*flags: str, checkpoint: Path = DEMO):
    asked = ["generate", str(checkpoint), *flags]
    return CliRunner().invoke(cli, asked, catch_exceptions=False)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--max-tokens", "-5"),
        ("--max-tokens", "0"),
        ("--temperature", "-1"),
        ("--top-p", "5"),
        ("--top-p", "0"),
        ("--top-k", "-3"),
        ("--seed", str(2**63)),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_its_flag(flag: str, value: str):
    done = generate("--prompt", "1+1", flag, value)
    assert done.exit_code == 2
    assert f"Invalid value for '{flag}'" in done.stderr


def test_the_ends_of_the_ranges_are_served():
    flags = ("--temperature", "0", "--top-p", "1", "--top-k", "1", "--max-tokens", "1")
    assert generate("--prompt", "1+1", *flags, "--seed", str(-(2**63))).exit_code == 0


def test_a_reply_longer_than_the_model_can_go_on_is_one_line():
    with pytest.raises(
        ConfigError, match=r"^--max-tokens 4096: .* model's own limit of 4096 tokens$"
    ):
        generate("--prompt", "1+1", "--max-tokens", "4096")


def test_an_empty_prompt_is_one_line():
    with pytest.raises(ConfigError, match=r"^--prompt has no token .* give it some text$"):
        generate("--prompt", "")


def test_a_chat_without_a_template_is_one_line(tmp_path: Path):
    for file in DEMO.iterdir():
        if file.is_file() and file.suffix != ".jinja":
            shutil.copy(file, tmp_path)
    settings = tmp_path / "tokenizer_config.json"
    settings.write_text("{}")
    with pytest.raises(ConfigError, match=r"^--chat: this checkpoint has no chat template"):
        generate("--prompt", "hi", "--chat", checkpoint=tmp_path)


def test_a_token_that_the_model_does_not_know_is_one_line(monkeypatch: pytest.MonkeyPatch):
    def outside(*_: object, **__: object) -> list[int]:
        return [999_999]

    monkeypatch.setattr(ChatTokenizer, "encode", outside)
    with pytest.raises(ConfigError, match=r"^--prompt: token id 999999 is outside the vocabulary"):
        generate("--prompt", "hi")
