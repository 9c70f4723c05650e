"""Where may a command write? Asked as its flags are read, before any work whose result is lost.

Knows nothing of what is written there.
"""

import os
from pathlib import Path
from typing import Any

import click

from serving.config import ConfigError


class OutFile(click.ParamType):
    """A file to write, new or not, in a folder that is there."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; raises ConfigError if nothing can be written to it."""
        path = Path(value)
        if path.is_dir():
            raise _refusal(param, path, "is a folder; name a file in it")
        if path.exists():
            _check_writable(param, path)
        else:
            _check_parent(param, path)
        return path


class OutFolder(click.ParamType):
    """A folder to write into, which is made if it is not there, in one that is."""

    name = "directory"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Return the path; raises ConfigError if nothing can be written there."""
        path = Path(value)
        if path.is_dir():
            _check_writable(param, path)
        elif path.exists():
            raise _refusal(param, path, "is a file; name a folder")
        else:
            _check_parent(param, path)
        return path


def _check_parent(param: click.Parameter | None, path: Path) -> None:
    parent = path.parent
    if not parent.is_dir():
        raise _refusal(param, path, f"there is no folder {parent}; make it first")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _refusal(param, path, f"nothing may be written in {parent}; choose another folder")


def _check_writable(param: click.Parameter | None, path: Path) -> None:
    if not os.access(path, os.W_OK):
        raise _refusal(param, path, "may not be written; choose another")


def _refusal(param: click.Parameter | None, path: Path, problem: str) -> ConfigError:
    flag = "" if param is None else f"{param.opts[0]} "
    return ConfigError(f"{flag}{path}: {problem}")
