"""Which turns wait for the first token of another? The further choices of a prompt.

They start when the prompt's pages are there. Knows nothing of replies or of the coordinator.
"""

from serving.request import Turn, TurnId


class Followers:
    """Turns by the one that they follow, in the order in which they came."""

    def __init__(self) -> None:
        """Start empty."""
        self._waiting: dict[TurnId, list[Turn]] = {}

    def __contains__(self, leader: TurnId) -> bool:
        """Whether a turn is waited for."""
        return leader in self._waiting

    def __bool__(self) -> bool:
        """Whether any turn is waited for."""
        return bool(self._waiting)

    def add(self, turn: Turn, leader: TurnId) -> None:
        """Let a turn wait for its leader."""
        self._waiting.setdefault(leader, []).append(turn)

    def pop(self, leader: TurnId) -> list[Turn]:
        """Return who waits for this leader, and forget them."""
        return self._waiting.pop(leader, [])

    def leave(self, turn: TurnId) -> Turn | None:
        """Forget one that waits, and return it; None if it does not wait."""
        for leader, waiting in self._waiting.items():
            for one in waiting:
                if one.id == turn:
                    waiting.remove(one)
                    if not waiting:
                        del self._waiting[leader]
                    return one
        return None
