"""How is a decision log read back? Line by line, into stories.

Knows nothing of how they are shown.
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from serving.config import ConfigError
from serving.metrics.stories import Attempt, Ending, FirstToken, History, Move, Record, Room, Story


def read_history(path: Path) -> History:
    """Read the last run in a log; raises ConfigError naming file and line."""
    return read_runs(path)[-1]


def read_runs(path: Path) -> list[History]:
    """Read all runs in a log, at least one, as they came; raises ConfigError naming file and line.

    The last line of a run that was cut short, by a kill or a full disk, is left out.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from error
    runs: list[list[Record]] = []
    for number, text in enumerate(lines, 1):
        if not text.endswith("\n"):
            break
        try:
            one = _parse(text, f"{path}:{number}")
        except ConfigError:
            if not any(_begins_a_run(following) for following in lines[number : number + 1]):
                raise
            continue
        if one["kind"] == "start":
            runs.append([])
        elif not runs:
            break
        runs[-1].append(one)
    if not runs:
        raise ConfigError(f"{path}: no decision log; one begins with a line of kind start")
    return [tell(records[0], records[1:]) for records in runs]


def tell(opening: Record, records: Sequence[Record]) -> History:
    """Put the records of one run together."""
    teller = _Teller()
    for one in records:
        teller.take(one)
    until = records[-1]["t"] if records else 0.0
    return History(opening, teller.stories, teller.workers, teller.evicted, until)


def _begins_a_run(text: str) -> bool:
    try:
        return _parse(text, "")["kind"] == "start"
    except ConfigError:
        return False


def _parse(text: str, where: str) -> Record:
    try:
        one: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where}: not valid JSON: {error.msg}") from error
    if not isinstance(one, dict) or not {"t", "kind"} <= one.keys():
        raise ConfigError(f"{where}: no record of a decision log")
    return one


class _Teller:
    """Builds stories, record by record."""

    def __init__(self) -> None:
        self.stories: dict[str, Story] = {}
        self.workers: list[Record] = []
        self.evicted: Counter[str] = Counter()
        self._turns_of: dict[str, int] = {}
        self._placed: dict[str, Record] = {}
        self._again: dict[str, str] = {}
        self._since: dict[str, tuple[float, int]] = {}

    def take(self, one: Record) -> None:
        """Take the next record. A kind that is not known here is left out."""
        turn, details = one.get("turn"), one.get("details", {})
        if one["kind"] == "arrival":
            self.stories[one["turn"]] = Story(one["turn"], one["t"], **details)
        elif one["kind"] == "evict":
            self.evicted[one["reason"]] += details["pages"]
        elif turn is None:
            self.workers.append(one)
        elif turn in self.stories:
            self._about_turn(self.stories[turn], one, details)

    def _about_turn(self, story: Story, one: Record, details: Record) -> None:
        match one["kind"]:
            case "place":
                self._placed[story.turn] = one
                self._join(story, one["session"])
            case "route":
                self._route(story, one, details)
            case "retry":
                self._again[story.turn] = one["reason"]
                self._since.pop(story.turn, None)
            case "first_token":
                story.first = FirstToken(
                    one["t"],
                    one["choice"],
                    details["ttft_s"],
                    details["predicted_ttft_s"],
                    details["prefill_s"],
                    details["computed"],
                )
                self._since[story.turn] = (one["t"], 1)
            case "admit" | "defer" | "order" | "pause" | "aside" | "restore":
                room = Room(one["t"], one["choice"], one["kind"], one["reason"], details)
                story.rooms.append(room)
            case "end":
                self._leave(story, one["t"], details["reply_len"])
                lengths = details["reply_len"], details["cached_len"]
                story.end = Ending(one["t"], one["choice"], one["reason"], *lengths)
            case _:
                self._move(story, one, details)

    def _join(self, story: Story, session: str) -> None:
        if story.session is None:
            story.session = session
            story.number = self._turns_of[session] = self._turns_of.get(session, 0) + 1

    def _route(self, story: Story, one: Record, details: Record) -> None:
        placed = self._placed[story.turn]
        story.attempts.append(
            Attempt(
                t=one["t"],
                owner=placed["choice"],
                place_reason=placed["reason"],
                prefill=one["choice"],
                route_reason=one["reason"],
                prompt_len=details["prompt_len"],
                cached_len=details["cached_len"],
                history=details["history"],
                options=details["options"],
                clear=placed.get("details", {}).get("clear", ()),
                again=self._again.pop(story.turn, None),
            )
        )

    def _move(self, story: Story, one: Record, details: Record) -> None:
        kind, t = one["kind"], one["t"]
        if kind == "move":
            gain_s, kv_len = details["gain_s"], details["kv_len"]
            move = Move(t, details["from"], one["choice"], one["reason"], gain_s, kv_len)
            story.moves.append(move)
        if not story.moves:
            return
        move = story.moves[-1]
        if kind == "moved":
            move.outcome, move.done_t = "moved", t
        elif kind == "move_failed":
            move.outcome, move.why_not, move.done_t = "failed", one["reason"], t
        elif kind == "resumed":
            stopped_t, replied = t - details["stop_s"], details["replied"]
            move.itl_before_s = self._itl(story, stopped_t, replied)
            self._leave(story, stopped_t, replied)
            move.stop_s, move.resumed_t = details["stop_s"], t
            self._since[story.turn] = (t, replied + 1)

    def _leave(self, story: Story, t: float, replied: int) -> None:
        """A row has left a worker: if it had moved there, tell how it fared."""
        arrived = [move for move in story.moves if move.resumed_t is not None]
        if arrived and story.turn in self._since:
            arrived[-1].itl_after_s = self._itl(story, t, replied)
        self._since.pop(story.turn, None)

    def _itl(self, story: Story, t: float, replied: int) -> float | None:
        """Return the mean time per token since a row began to decode where it is."""
        since, count = self._since.get(story.turn, (t, replied))
        return (t - since) / (replied - count) if replied > count else None
