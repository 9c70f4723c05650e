"""How does the server compare with `transformers`? One checkpoint, one batch, turn about.

The served side pays for HTTP, scheduling and prefill; the other side is one `generate` call that
is given the whole batch at once. Neither runs while the other is measured.
"""

import subprocess
from importlib.util import find_spec
from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import figure, ratio
from benchmarks.generator import Generator
from benchmarks.server import COLOCATED, Server

ROWS = 16
NEEDED = "import torch, transformers"


def absent(bench: Bench) -> str | None:
    """Say why this part cannot run; None if it can."""
    if bench.torch_python is None:
        if find_spec("torch") and find_spec("transformers"):
            return None
        return "torch and transformers are not installed; name an interpreter with --torch-python"
    try:
        subprocess.run([bench.torch_python, "-c", NEEDED], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return f"the interpreter of --torch-python cannot `{NEEDED}`"
    return None


def measure(bench: Bench) -> dict[str, Any]:
    """Let both generate the same number of tokens, in turn."""
    scale = bench.scale
    question = {"rows": ROWS, "prompt_len": scale.prompt_len, "reply_len": scale.reply_len}
    ours: list[float] = []
    theirs: list[float] = []
    bench.say("starting the server and transformers")
    with (
        Server(bench.checkpoint, COLOCATED, bench.env) as server,
        Generator(bench) as generator,
        bench.child(
            "benchmarks.transformers_child", str(bench.checkpoint), python=bench.torch_python
        ) as peer,
    ):
        spec = generator.sized(server.port, ROWS, stream=False)
        answer = peer.ask({**question, "reply_len": scale.reply_len // 8, "seed": 0})
        for repeat in range(scale.repeats):
            bench.say(f"served, repeat {repeat + 1}")
            ours.append(generator.run(spec).tokens_per_s)
            bench.say(f"transformers, repeat {repeat + 1}")
            answer = peer.ask({**question, "seed": repeat + 1})
            theirs.append(answer["tokens"] / answer["wall_s"])
    return {
        **question,
        "flags": " ".join(COLOCATED),
        "torch": answer["torch"],
        "transformers": answer["transformers"],
        "torch_threads": answer["threads"],
        "served_tokens_per_s": figure(ours),
        "transformers_tokens_per_s": figure(theirs),
        "ratio": ratio(ours, theirs),
    }
