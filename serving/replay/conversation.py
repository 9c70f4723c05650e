"""What does a session's next request say? What it keeps of the conversation, then new text.

Two ways to say it: `in_tokens` knows every token, `in_chat` only words.
"""

from dataclasses import dataclass
from typing import Any, Protocol

from serving.replay.reply import Reply
from serving.workload.session import TurnShape


@dataclass(frozen=True, slots=True)
class Ask:
    """The prompt of a turn: where to send it, its fields, and its length in tokens."""

    path: str
    fields: dict[str, Any]
    prompt_len: int


class Conversation(Protocol):
    """One session as its client knows it; `ask` and `heard` take turns."""

    def ask(self, turn: TurnShape, name: str) -> Ask:
        """Return the next turn's prompt; its new text depends on its name."""
        ...

    def heard(self, reply: Reply) -> None:
        """Take the reply to it; raises ReplayError if the conversation cannot go on from it."""
        ...
