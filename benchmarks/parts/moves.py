"""For how long does a live move stop a row? By the row's length, alone and beside others.

Two decode workers of the real engine in one process. A step is the median time between two tokens
of the row before its move, so the stop of a row alone is measured in very short steps.
"""

from typing import Any

from benchmarks.bench import Bench
from benchmarks.figures import figure

LENGTHS = (64, 256, 1024, 4096)
NEIGHBOURS = (0, 8)
MOVES_A_REPEAT = 7
FIGURES = ("stop_steps", "stop_s", "step_s", "step_there_s", "took_s", "kv_len", "bytes")


def measure(bench: Bench) -> dict[str, Any]:
    """Move rows of every length in turn, `MOVES_A_REPEAT` times a repeat."""
    runs: dict[tuple[int, int], list[dict[str, Any]]] = {}
    moves = MOVES_A_REPEAT * bench.scale.repeats
    with bench.child("benchmarks.moves_child", str(bench.checkpoint)) as child:
        for seed in range(-1, moves):  # the first move of each kind only warms up
            for neighbours in NEIGHBOURS:
                for length in LENGTHS:
                    bench.say(f"move {seed + 1} of {moves}, {length} tokens, {neighbours} beside")
                    question = {"length": length, "neighbours": neighbours, "seed": seed}
                    found = child.ask(question)
                    if seed >= 0:
                        runs.setdefault((neighbours, length), []).append(found)
    return {
        "neighbours": {
            str(neighbours): {
                str(length): {
                    name: figure([run[name] for run in runs[neighbours, length]])
                    for name in FIGURES
                }
                for length in LENGTHS
            }
            for neighbours in NEIGHBOURS
        }
    }
