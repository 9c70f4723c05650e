"""What will each simulated turn reply? Its length is fixed beforehand; its tokens say whose it is.

A turn's number, which travels as the seed of its sampling, finds its reply. All tokens of a reply
are alike but the last, which ends it, so that pages of different replies never have equal names.
"""

from serving.workload.session import END_OF_NAMES, LONGEST

STOP = 0
"""The token that ends every reply."""
FIRST_OWN = END_OF_NAMES
"""Tokens from here on belong to one turn: two each. Shared text has its names for tokens."""


def own_text(number: int) -> int:
    """Return the token of which a turn's new text is made."""
    return FIRST_OWN + 2 * number


def reply_token(number: int) -> int:
    """Return the token of which a turn's reply is made, but for its end."""
    return FIRST_OWN + 2 * number + 1


class Replies:
    """Reply lengths by the turn's number, in tokens; grows as turns are submitted."""

    def __init__(self) -> None:
        """Start with no turn."""
        self._lengths: list[int] = []

    def __len__(self) -> int:
        """Count the turns."""
        return len(self._lengths)

    def add(self, length: int) -> int:
        """Add a turn; returns its number. Raises ValueError for a length that cannot be."""
        if not 1 <= length <= LONGEST:
            raise ValueError(f"a reply cannot have {length} tokens")
        self._lengths.append(length)
        return len(self._lengths) - 1

    def length(self, number: int) -> int:
        """Return how long a turn's reply is in the end."""
        return self._lengths[number]

    def tokens(self, number: int) -> tuple[int, ...]:
        """Return a turn's whole reply."""
        return (reply_token(number),) * (self._lengths[number] - 1) + (STOP,)
