"""Flags of other servers: a person who pastes one is told in one line what it is called here."""

import sys

import click
import pytest

from serving.cli import cli as commands
from serving.cli import run, serve, simulate
from serving.config import ConfigError
from serving.flags import read_config_file
from serving.peer_flags import PEER_FLAGS, named, peer_flag

OURS = {name for one in serve.params for name in (*one.opts, *one.secondary_opts)}


def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *typed: str) -> str:
    """What a command line writes to standard error, and that it is wrong."""
    monkeypatch.setattr(sys, "argv", ["foretoken", *typed])
    assert run(commands) == 2
    out, err = capsys.readouterr()
    assert not out
    return err


@pytest.mark.parametrize("flag", PEER_FLAGS)
def test_every_flag_of_ours_that_is_named_exists_and_theirs_is_none(flag: str):
    assert flag not in OURS
    assert named(flag) <= OURS
    line = peer_flag([flag], OURS)
    assert line is not None
    assert line.startswith(f"{flag} is ")
    assert line.endswith(" here")


def test_every_flag_that_is_called_something_names_what():
    assert all(named(flag) for flag, ours in PEER_FLAGS.items() if ours.startswith("called "))


@pytest.mark.parametrize(
    "flag",
    [
        *("--max-model-len", "--gpu-memory-utilization", "--served-model-name", "--max-num-seqs"),
        *("--max-num-batched-tokens", "--enable-prefix-caching", "--block-size", "--revision"),
        *("--kv-cache-dtype", "--page-size", "--tool-call-parser", "--chat-template", "--api-key"),
    ],
)
def test_flags_that_peers_spell_alike_are_taken(flag: str):
    assert flag in OURS


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["--tensor-parallel-size", "2"], "--tensor-parallel-size is called --prefill-tp and"),
        (["--port", "80", "--tensor_parallel_size=2"], "--tensor-parallel-size is called"),
        (["-tp", "2"], "-tp is called --prefill-tp and --decode-tp here"),
        (["--swap-space", "4"], "--swap-space is called --host-kv-gib here"),
        (["--mem-fraction-static=0.8"], "--mem-fraction-static is called --memory-fraction here"),
        (["--model", "x"], "--model is the argument CHECKPOINT here"),
        (["--download-dir", "x"], "--download-dir is the variable HF_HUB_CACHE here"),
        (["--disable-radix-cache"], "--disable-radix-cache is no choice: prefixes are always"),
    ],
)
def test_a_pasted_flag_is_one_line(capsys, monkeypatch, typed: list[str], line: str):
    err = told(capsys, monkeypatch, "serve", *typed)
    assert err.startswith(f"foretoken: {line}")
    assert err.count("\n") == 1


def test_a_command_without_our_flag_does_not_name_it(capsys, monkeypatch):
    assert "--prefill-tp" in told(capsys, monkeypatch, "simulate", "--tp", "2")
    err = told(capsys, monkeypatch, "plan", "--tp", "2")
    assert "No such option" in err
    assert "--prefill-tp" not in err


def test_a_flag_of_theirs_that_a_command_of_ours_has_is_ours():
    known = [name for one in simulate.params for name in one.opts]
    assert "--model" in known
    assert peer_flag(["--model", "x"], known) is None


def test_other_unknown_flags_are_told_as_ever(capsys, monkeypatch):
    err = told(capsys, monkeypatch, "serve", "x", "--max-model-lem", "5")
    assert "--max-model-len" in err


def test_a_wrong_value_is_no_matter_of_names(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["foretoken", "serve", "--port", "--tp"])
    with pytest.raises(click.BadParameter):
        commands(["serve", "x", "--port", "--tp"], standalone_mode=False)
    assert "is not a valid integer" in told(capsys, monkeypatch, "serve", "--port", "--tp")


def test_a_key_of_a_file_is_told_likewise(tmp_path):
    file = tmp_path / "server.toml"
    file.write_text("port = 1\ntensor_parallel_size = 2\n")
    with pytest.raises(
        ConfigError, match=r"server\.toml:2: unknown setting 'tensor_parallel_size'; "
    ) as caught:
        read_config_file(file)
    assert str(caught.value).endswith(
        "--tensor-parallel-size is called --prefill-tp and --decode-tp here"
    )
    file.write_text("nonsense = 2\n")
    with pytest.raises(ConfigError, match="unknown setting 'nonsense'; foretoken serve --help"):
        read_config_file(file)
