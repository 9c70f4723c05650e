"""How does the benchmark talk to a process it keeps? One JSON line to it, one JSON line back."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Self

STOP_S = 20


class ChildFailed(RuntimeError):
    """A process ended, or answered with something else than JSON."""


class Child:
    """A process that answers lines. Its errors go to our standard error."""

    def __init__(self, command: Sequence[str], root: Path, env: dict[str, str]) -> None:
        """Start `command` in the directory `root`."""
        self._name = " ".join(command[1:3])
        self._process = subprocess.Popen(
            command, cwd=root, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """Send a question and wait for its answer. Raises ChildFailed if there is none."""
        try:
            stdin = _open(self._process.stdin)
            stdin.write(json.dumps(question) + "\n")
            stdin.flush()
            line = _open(self._process.stdout).readline()
            return json.loads(line)
        except (OSError, json.JSONDecodeError) as error:
            raise ChildFailed(f"{self._name} gave no answer (its errors stand above)") from error

    def close(self) -> None:
        """End the process: its input ends, and it has a while to leave by itself."""
        _open(self._process.stdin).close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        _open(self._process.stdout).close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()


def _open(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise ChildFailed("the process has no pipe")
    return stream
