"""`foretoken`, except that a device hangs: steps of the worker that is named in the file $HANGS do
not come back while it is there."""

import os
import threading
import time
from pathlib import Path
from typing import Any

from serving.cli import main
from serving.core.plan import StepResult
from serving.engine.executor import JaxExecutor

HANGS = "HANGS"


def hang() -> None:
    """Let `collect` wait. A worker's thread has its name."""
    file, collect = Path(os.environ[HANGS]), JaxExecutor.collect

    def hung(self: JaxExecutor, pending: Any) -> StepResult:
        while file.exists() and file.read_text() == threading.current_thread().name:
            time.sleep(0.01)
        return collect(self, pending)

    JaxExecutor.collect = hung


if __name__ == "__main__":
    hang()
    main()
