"""What a command cannot write is said before it works."""

import os
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from serving.cli import cli
from serving.config import ConfigError
from serving.outputs import OutFile, OutFolder


@click.command()
@click.option("--out", type=OutFile())
@click.option("--figures", type=OutFolder())
def show(out: Path | None, figures: Path | None) -> None:
    click.echo(f"{out} {figures}")


def given(flag: str, path: Path) -> str:
    return CliRunner().invoke(show, [flag, str(path)], catch_exceptions=False).output


@pytest.mark.parametrize("flag", ["--out", "--figures"])
def test_what_is_new_needs_a_folder_to_be_in(flag: str, tmp_path: Path):
    assert str(tmp_path / "new") in given(flag, tmp_path / "new")
    assert not (tmp_path / "new").exists()
    problem = f"{flag} .*/nope/new: there is no folder .*/nope; make it first$"
    with pytest.raises(ConfigError, match=problem):
        given(flag, tmp_path / "nope" / "new")


@pytest.mark.parametrize("flag", ["--out", "--figures"])
def test_where_nothing_may_be_written_is_refused(
    flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    there = tmp_path / "there"
    there.touch() if flag == "--out" else there.mkdir()
    assert str(there) in given(flag, there)

    def closed(path: Path, mode: int) -> bool:
        return not mode & os.W_OK

    monkeypatch.setattr(os, "access", closed)  # permissions do not hold for every user
    with pytest.raises(ConfigError, match=f"{flag} .*/there: may not be written"):
        given(flag, there)
    with pytest.raises(ConfigError, match=f"{flag} .*/new: nothing may be written in "):
        given(flag, tmp_path / "new")


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"--out .*: is a folder; name a file in it"):
        given("--out", tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"--figures .*: is a file; name a folder"):
        given("--figures", tmp_path / "file")


@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (["profile", "no-such-checkpoint"], "--out"),
        (["plan", "--gpus", "1", "--slo-ttft", "1", "--slo-tpot", "1"], "--out"),
        (["simulate", "--limit", "1"], "--figures"),
    ],
)
def test_every_command_asks_before_it_works(command: list[str], flag: str, tmp_path: Path):
    path = str(tmp_path / "nope" / "new")
    with pytest.raises(ConfigError, match=f"^{flag} .*there is no folder"):
        CliRunner().invoke(cli, [*command, flag, path], catch_exceptions=False)


def test_pictures_that_cannot_be_drawn_are_refused_before_any_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    asked = ["simulate", "--workload", "no-such-file", "--figures", str(tmp_path / "drawn")]
    with pytest.raises(ConfigError, match="--figures needs matplotlib: pip install matplotlib"):
        CliRunner().invoke(cli, asked, catch_exceptions=False)
