"""Which messages are under way from whom to whom, and which of them may be heard next?

First come, first heard between two parties, but for pages: these are heard of when they have come,
in their own order, and whatever their sender said after them may be heard before.
"""

from collections import deque
from collections.abc import Container

from serving.messages import Event, PagesReady, TransferId, WorkerMessage

Way = tuple[str, str]
"""From whom to whom."""
Message = Event | WorkerMessage


class Channels(dict[Way, deque[Message]]):
    """Messages by their way; a way without any is none."""

    def post(self, sender: str, receiver: str, message: Message) -> None:
        self.setdefault((sender, receiver), deque()).append(message)

    def ways(self, held: Container[Way]) -> list[tuple[Way, bool]]:
        """The ways by which a message may be heard next, and whether it is one of pages."""
        found: list[tuple[Way, bool]] = []
        for way, channel in self.items():
            if way not in held:
                pages = sum(isinstance(message, PagesReady) for message in channel)
                found += [(way, False)] * (pages < len(channel))
                found += [(way, True)] * (pages > 0)
        return found

    def take(self, way: Way, *, pages: bool) -> Message:
        """Hear the next message that is, or is not, one of pages."""
        channel = self[way]
        matches = (i for i, m in enumerate(channel) if isinstance(m, PagesReady) == pages)
        index = next(matches)
        message = channel[index]
        del channel[index]
        if not channel:
            del self[way]
        return message

    def announced(self) -> set[TransferId]:
        """The transfers whose pages are still to be heard of."""
        every = (message for channel in self.values() for message in channel)
        return {message.transfer for message in every if isinstance(message, PagesReady)}
