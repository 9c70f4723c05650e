"""What was decided in a simulation, as the server's decision log has it; times are virtual."""

from pathlib import Path
from typing import Any, TextIO

from serving.config import ConfigError
from serving.messages import Decision, End
from serving.metrics.decision_log import SIMULATED, line, record
from serving.request import Turn


class SimulatedLog:
    """Writes every arrival, decision and end, in order. Nothing of this machine is in it."""

    def __init__(self, path: Path, opening: dict[str, Any]) -> None:
        """Begin the file anew; raises ConfigError if it cannot be written."""
        try:
            self._file: TextIO = path.open("w", encoding="utf-8")
        except OSError as error:
            problem = f"--decision-log {path}: cannot be written ({error.strerror})"
            raise ConfigError(problem) from error
        self._file.write(line({"t": 0.0, "kind": "start", "time": SIMULATED, **opening}))

    def note(self, happening: Turn | Decision | End, now: float) -> None:
        """Write one record."""
        self._file.write(line(record(happening, now)))

    def close(self) -> None:
        """Write the rest."""
        self._file.close()


def note_nothing(happening: Turn | Decision | End, now: float) -> None:
    """Take no notice."""
