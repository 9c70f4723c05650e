"""What does it cost to watch? CPU time of metrics and decision log, per turn, token and step.

`python -m benchmarks.observer_cost`: one thread, no engine and no HTTP; what a server spends beside
it is in `benchmarks.run`.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from serving.engine.observer import Observer, Observers
from serving.messages import (
    Completed,
    Decision,
    Detail,
    End,
    Role,
    StepsTimed,
    StepTime,
    WorkerId,
)
from serving.metrics import DecisionLog, Metrics, ServerLabels
from serving.request import GREEDY, FinishReason, SessionId, Slo, Turn, TurnId

WORKERS = (("p0", Role.PREFILL), ("d0", Role.DECODE), ("d1", Role.DECODE))
TURNS, STEPS, ROWS, FLUSH_EVERY = 5000, 5000, 16, 50
SAMPLING = replace(GREEDY, max_tokens=100)
OPTION: dict[str, Detail] = {
    "choice": "local",
    "history": None,
    "ttft_s": 0.00123456,
    "harm": 0.0123,
    "moved_bytes": 123456,
    "score": 1.0123,
}
ROUTED: dict[str, Detail] = {
    "prompt_len": 200,
    "cached_len": 96,
    "history": None,
    "options": [OPTION, OPTION, OPTION],
}
FIRST: dict[str, Detail] = {
    "ttft_s": 0.1,
    "predicted_ttft_s": 0.05,
    "prefill_s": 0.05,
    "computed": 10,
}


def turns(count: int) -> list[Turn]:
    """Make `count` turns with ids as long as real ones."""
    return [
        Turn(TurnId(f"chatcmpl-{i:032x}-0"), None, (1,) * 200, SAMPLING, Slo(None, None), 0, "")
        for i in range(count)
    ]


def begin(observer: Observer, turn: Turn) -> None:
    """Tell of a turn up to its first token."""
    session = SessionId("s1")
    observer.on_arrival(turn, 0.0)
    for kind, choice, reason, details in (
        ("place", "d0", "session_owner", {}),
        ("route", "p0", "remote_fastest", ROUTED),
        ("first_token", "p0", "observed", FIRST),
    ):
        observer.on_decision(Decision(kind, turn.id, session, choice, reason, details), 0.1)
    observer.on_tokens([turn.id], 0.1)


def turn_us(observer: Observer, flush: Callable[[], None]) -> float:
    """Return the CPU time of a whole turn's events."""
    made = turns(TURNS)
    began = time.process_time()
    for i, turn in enumerate(made):
        begin(observer, turn)
        observer.on_end(End(turn.id, Completed(FinishReason.STOP), 200, 30, 190), 1.0)
        if i % FLUSH_EVERY == 0:
            flush()
    flush()
    return (time.process_time() - began) / TURNS * 1e6


def token_us(observer: Observer) -> float:
    """Return the CPU time of one token of a step of ROWS rows."""
    made = turns(ROWS)
    for turn in made:
        begin(observer, turn)
    ids = [turn.id for turn in made]
    began = time.process_time()
    for i in range(STEPS):
        observer.on_tokens(ids, 1.0 + 0.003 * i)
    return (time.process_time() - began) / STEPS / ROWS * 1e6


def step_us(observer: Observer) -> float:
    """Return the CPU time of one timed step."""
    steps = StepsTimed(WorkerId("d0"), (StepTime(8, 0, 0, 0.001, 0.002),) * 16, 0.001, 0.1)
    began = time.process_time()
    for _ in range(STEPS):
        observer.on_steps(steps)
    return (time.process_time() - began) / STEPS / 16 * 1e6


def main() -> None:
    """Print one line for each observer."""
    workers = tuple((WorkerId(name), role) for name, role in WORKERS)
    labels = ServerLabels("demo", 4096, workers, 16, "float32")
    with tempfile.TemporaryDirectory() as folder:
        log = DecisionLog(Path(folder) / "log.jsonl", {}, 0.0)
        watching: dict[str, tuple[Observer, Callable[[], None]]] = {
            "nobody": (Observers([]), lambda: None),
            "metrics": (Observers([Metrics(labels)]), lambda: None),
            "metrics and decision log": (Observers([Metrics(labels), log]), log.flush),
        }
        for name, (observer, flush) in watching.items():
            per_turn, per_token, per_step = (
                turn_us(observer, flush),
                token_us(observer),
                step_us(observer),
            )
            print(
                f"{name:25} {per_turn:6.1f} us a turn  {per_token:6.3f} us a token  "
                f"{per_step:6.2f} us a step"
            )
        log.close()


if __name__ == "__main__":
    main()
