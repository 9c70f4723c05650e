"""What can be wrong with a checkpoint directory? One exception, one line.

Knows nothing of what the caller does with it (the command line prints the line and exits).
"""

from pathlib import Path


class CheckpointError(Exception):
    """A checkpoint that cannot be served: which file, and what is wrong with it.

    `str(error)` is one line, `PATH: PROBLEM`, fit to be printed without a traceback.
    """

    def __init__(self, path: Path | str, problem: str) -> None:
        super().__init__(str(path), problem)
        self.path = Path(path)
        self.problem = " ".join(problem.split())

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"
