"""What was decided, turn by turn, and what came of it? A file of JSON lines; docs/decisions.md.

Knows nothing of metrics. The event loop only appends to a list; another thread writes it down, so
that a slow disk costs memory, up to a limit, and never a token's time.
"""

import json
import logging
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, TextIO

from serving.config import ConfigError
from serving.messages import (
    Completed,
    Decision,
    Dropped,
    End,
    Failed,
    Rejected,
    StepsTimed,
    WorkerId,
)
from serving.request import Turn, TurnId

LOG = logging.getLogger(__name__)

FLUSH_S = 0.5
"""How much of the last decisions a killed process may take with it, in seconds."""
MAX_PENDING = 100_000
"""Records kept while the disk does not take them; later ones are counted and lost."""

ENCODER = json.JSONEncoder(allow_nan=False, check_circular=False, separators=(",", ":"))

Happening = Turn | Decision | End


class DecisionLog:
    """An observer that writes down decisions, arrivals and ends. Tokens and steps are not kept."""

    def __init__(self, path: Path, opening: Mapping[str, Any], started: float) -> None:
        """Append to the file at `path`, beginning with `opening`; `started` is time zero.

        Raises ConfigError if the file cannot be opened.
        """
        try:
            self._file: TextIO = path.open("a", encoding="utf-8")
        except OSError as error:
            problem = f"--decision-log {path}: cannot be written ({error.strerror})"
            raise ConfigError(problem) from error
        self._started = started
        self._pending: deque[tuple[float, Happening]] = deque()
        self._lost = 0
        self._broken = False
        self._writing = Lock()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="decision log", daemon=True)
        wall = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._write([{"t": 0.0, "kind": "start", "time": wall, **opening}])
        self._thread.start()

    def on_arrival(self, turn: Turn, now: float) -> None:
        """A turn was submitted."""
        self._note(turn, now)

    def on_tokens(self, turns: Sequence[TurnId], now: float) -> None:
        """Tokens are not written down."""

    def on_end(self, end: End, now: float) -> None:
        """A turn ended."""
        self._note(end, now)

    def on_decision(self, decision: Decision, now: float) -> None:
        """The coordinator decided something, or tells what became of it."""
        self._note(decision, now)

    def on_moved(self, sender: WorkerId, to: WorkerId, num_bytes: int) -> None:
        """Single transfers are not written down."""

    def on_steps(self, steps: StepsTimed) -> None:
        """Steps are not written down."""

    def flush(self) -> None:
        """Write what has gathered. Safe from any thread."""
        with self._writing:
            records: list[dict[str, Any]] = []
            for _ in range(len(self._pending)):
                now, happening = self._pending.popleft()
                records.append(record(happening, now - self._started))
            lost, self._lost = self._lost, 0
            if lost and records:
                records.append({"t": records[-1]["t"], "kind": "lost", "records": lost})
            self._write(records)

    def close(self) -> None:
        """Write the rest and close the file."""
        self._closing.set()
        self._thread.join()
        self.flush()
        self._file.close()

    def _note(self, happening: Happening, now: float) -> None:
        if len(self._pending) < MAX_PENDING:
            self._pending.append((now, happening))
        else:
            self._lost += 1

    def _run(self) -> None:
        while not self._closing.wait(FLUSH_S):
            self.flush()

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write lines; after the first failure nothing is written any more, and serving goes on."""
        if self._broken or not records:
            return
        try:
            self._file.write("".join([line(one) for one in records]))
            self._file.flush()
        except OSError as error:
            self._broken = True
            LOG.error("the decision log ends here: %s", error.strerror)


def line(record: Mapping[str, Any]) -> str:
    """Write a record as JSON; what no JSON number can say (an endless time) becomes null."""
    try:
        return ENCODER.encode(record) + "\n"
    except ValueError:
        return ENCODER.encode(_finite(record)) + "\n"


def record(happening: Happening, t: float) -> dict[str, Any]:
    """Say what happened `t` seconds after the start. Every record has the same keys."""
    kind, turn, session, choice, reason, details = _parts(happening)
    return {
        "t": round(t, 6),
        "kind": kind,
        "turn": turn,
        "session": session,
        "choice": choice,
        "reason": reason,
        "details": details,
    }


def _parts(happening: Happening) -> tuple[str, str | None, str | None, str, str, Any]:
    match happening:
        case Turn():
            details = {
                "prompt_len": happening.prompt_len,
                "max_tokens": happening.sampling.max_tokens,
                "ttft_target_s": happening.slo.ttft_s,
                "tpot_target_s": happening.slo.tpot_s,
            }
            return "arrival", happening.id, happening.session, "", "", details
        case Decision(kind, turn, session, choice, reason, details):
            return kind, turn, session, choice, reason, details
        case End(turn, _, prompt_len, reply_len, cached_len):
            outcome, reason = _outcome(happening)
            details = {"prompt_len": prompt_len, "reply_len": reply_len, "cached_len": cached_len}
            return "end", turn, None, outcome, reason, details


def _outcome(end: End) -> tuple[str, str]:
    match end.outcome:
        case Completed(reason):
            return "completed", reason.value
        case Dropped(reason):
            return "dropped", reason
        case Rejected(code):
            return "rejected", code
        case Failed(code):
            return "failed", code


def _finite(value: Any) -> Any:
    match value:
        case float():
            return value if isfinite(value) else None
        case Mapping():
            return {key: _finite(one) for key, one in value.items()}
        case list() | tuple():
            return [_finite(one) for one in value]
        case _:
            return value
