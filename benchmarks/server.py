"""How does a benchmark run the server that users run? The command itself, as a process.

Life: started -> ready (`/health` is 200) -> stopped by SIGTERM. Knows nothing of requests.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Self

import psutil

MODEL = "demo"
READY_S = 900  # only ends what hangs: a crowded machine compiles for minutes
STOP_S = 60
JAX_CACHE = "JAX_COMPILATION_CACHE_DIR"
POLL_S = 0.05

COLOCATED = ("--prefill-workers", "0", "--decode-workers", "1")
SPLIT = ("--prefill-workers", "1", "--decode-workers", "2")
"""The shape of `make serve`."""


class ServerFailed(RuntimeError):
    """The server did not become ready."""


class Server:
    """One server process. `ready_s`: seconds from its start until /health was 200."""

    def __init__(self, checkpoint: Path, flags: Sequence[str], env: dict[str, str]) -> None:
        """Start it in the environment `env` and wait until it is ready.

        Raises ServerFailed with the end of its output if it ends or takes too long.
        """
        self.port = _free_port()
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        program = str(Path(sys.executable).with_name("foretoken"))
        command = [program, "serve", str(checkpoint), "--served-model-name", MODEL]
        start = time.perf_counter()
        self._process = subprocess.Popen(
            [*command, "--port", str(self.port), *flags],
            stdout=self._log,
            stderr=self._log,
            env=env,
        )
        self._observed = psutil.Process(self._process.pid)
        try:
            self._wait(start + READY_S)
        except BaseException:
            self.stop()
            raise
        self.ready_s = time.perf_counter() - start

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def cpu_s(self) -> float:
        """Return the seconds of processor time that it has used."""
        times = self._observed.cpu_times()
        return times.user + times.system

    def stop(self) -> None:
        """Let it drain; end it if it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.stop()

    def _wait(self, deadline: float) -> None:
        while not healthy(self.port):
            if self._process.poll() is not None or time.perf_counter() > deadline:
                self._log.seek(0)
                said = self._log.read().decode(errors="replace").splitlines()[-15:]
                raise ServerFailed("the server did not become ready:\n" + "\n".join(said))
            time.sleep(POLL_S)


def own_cache(directory: Path) -> dict[str, str]:
    """Return our environment with the user's caches in `directory`: an empty one is a cold start.

    Nothing else is told to JAX, so that what is measured is what the server does by itself.
    """
    env = {name: value for name, value in os.environ.items() if name != JAX_CACHE}
    return {**env, "XDG_CACHE_HOME": str(directory)}


def shared_cache(directory: Path) -> dict[str, str]:
    """Return our environment with JAX's compile cache in `directory`, to spare every part time."""
    return {**os.environ, "XDG_CACHE_HOME": str(directory), JAX_CACHE: str(directory / "jax")}


def healthy(port: int) -> bool:
    """Whether /health answers 200 now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
