"""What was decided, turn by turn, and what came of it? A file of JSON lines; docs/decisions.md.

Knows nothing of metrics. The event loop only appends to a list; another thread writes it down, so
that a slow disk costs memory, up to a limit, and never a token's time.
"""

import json
import logging
import os
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from stat import S_ISREG
from threading import Event, Lock, Thread
from typing import Any, BinaryIO

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
CLOSE_S = 5.0
"""How long the end of a server waits for a disk that does not answer, in seconds."""
SIMULATED = "simulated"
"""What stands in place of the time at which a run began, if it was a simulation."""
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
        wall = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._opening = {"t": 0.0, "kind": "start", "time": wall, **opening}
        self._path = path
        self._started = started
        self._pending: deque[tuple[float, Happening]] = deque()
        self._lost = 0
        self._broken = False
        self._has_begun = False  # whether the file holds something of ours
        self._writing = Lock()
        self._closing = Event()
        self._thread = Thread(target=self._run, name="decision log", daemon=True)
        try:
            self._begin()
        except OSError as error:
            problem = f"--decision-log {path}: cannot be written ({error.strerror})"
            raise ConfigError(problem) from error
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
            self._follow()
            records: list[dict[str, Any]] = []
            for _ in range(len(self._pending)):
                now, happening = self._pending.popleft()
                records.append(record(happening, now - self._started))
            lost, self._lost = self._lost, 0
            if lost and records:
                records.append({"t": records[-1]["t"], "kind": "lost", "records": lost})
            self._write(records)

    def close(self) -> None:
        """Write the rest and close the file, unless the disk does not answer."""
        self._closing.set()
        self._thread.join(CLOSE_S)
        if self._thread.is_alive():
            LOG.error("the decision log %s lacks its end: the disk does not answer", self._path)
            return
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

    def _begin(self) -> None:
        """Open the file and write the first line of a run, on a line of its own.

        Not buffered: what a full disk did not take would be tried again when the file is closed.
        """
        half = _ends_in_half_a_line(self._path)
        self._file: BinaryIO = self._path.open("ab", buffering=0)
        self._start(b"\n" if half else b"")

    def _start(self, before: bytes) -> None:
        self._broken = self._has_begun = False
        self._write([self._opening], before)
        self._has_begun = not self._broken

    def _follow(self) -> None:
        """Begin anew where log rotation has moved, removed or emptied the file."""
        try:
            there, here = os.stat(self._path), os.fstat(self._file.fileno())
            if os.path.samestat(there, here):
                if self._has_begun and S_ISREG(here.st_mode) and not here.st_size:
                    self._start(b"")
                return
        except FileNotFoundError:
            pass
        except OSError:
            return  # a disk that fails here fails in a write too, and that is told
        old = self._file
        try:
            self._begin()
        except OSError as error:
            self._end(error)
        else:
            old.close()

    def _write(self, records: Sequence[Mapping[str, Any]], before: bytes = b"") -> None:
        """Write lines; after the first failure nothing is written any more, and serving goes on."""
        if self._broken or not records:
            return
        rest = memoryview(before + "".join([line(one) for one in records]).encode())
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._end(error)

    def _end(self, error: OSError) -> None:
        if not self._broken:
            LOG.error("the decision log %s ends here: %s", self._path, error.strerror)
        self._broken = True


def _ends_in_half_a_line(path: Path) -> bool:
    """Tell whether the last line was cut short, by a kill or a full disk."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


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
