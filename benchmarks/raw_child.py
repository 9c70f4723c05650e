"""How is the raw step loop measured between other measurements? A process that answers lines.

JAX stays out of the benchmark's own process, and the compile cache makes every answer after the
first a quick one. A question has `rows` and `context`: the mean tokens behind each row.
"""

import contextlib
import json
import sys
from pathlib import Path

import jax

from benchmarks import raw_step


def main(checkpoint: Path) -> None:
    """Answer questions from standard input until it ends."""
    jax.config.update("jax_platforms", "cpu")
    for line in sys.stdin:
        question = json.loads(line)
        with contextlib.redirect_stdout(sys.stderr):
            answer = raw_step.measure(
                checkpoint,
                rows=tuple(question["rows"]),
                context=max(1, question["context"] - raw_step.STEPS // 2),
                steps=raw_step.STEPS,
            )
        print(json.dumps({**answer, "mean_context": question["context"]}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
