"""How is a conversation held in messages? For servers that return no token ids."""

from dataclasses import dataclass

from serving.replay.conversation import Ask
from serving.replay.reply import Reply
from serving.replay.text import Author
from serving.workload.session import TurnShape


@dataclass(frozen=True, slots=True)
class Message:
    """Something said, with its length in tokens: a word counts as one."""

    role: str
    text: str
    tokens: int


class ChatConversation:
    """A conversation in messages; lengths are approximate."""

    def __init__(self, author: Author) -> None:
        """Start with nothing said."""
        self._author = author
        self._messages: tuple[Message, ...] = ()

    def ask(self, turn: TurnShape, name: str) -> Ask:
        """Return the next turn's prompt."""
        kept, words = keep_of(self._messages, turn.keep)
        for span in turn.shared:
            words += self._author.shared_words(span)
        words += self._author.own_words(name, max(turn.new, 1 - len(words)))
        self._messages = (*kept, Message("user", " ".join(words), len(words)))
        messages = [{"role": one.role, "content": one.text} for one in self._messages]
        length = sum(one.tokens for one in self._messages)
        return Ask("/v1/chat/completions", {"messages": messages}, length)

    def heard(self, reply: Reply) -> None:
        """Take the reply."""
        tokens = reply.tokens if reply.usage is None else reply.usage.reply
        self._messages += (Message("assistant", reply.text, tokens),)


def keep_of(
    messages: tuple[Message, ...], keep: int | None
) -> tuple[tuple[Message, ...], list[str]]:
    """Return the exchanges that fit in `keep` tokens whole, and words of the question behind them.

    Roles go on taking turns, as many chat templates ask for: the words begin the next question.
    """
    if keep is None:
        return messages, []
    left = keep
    whole = 0
    while whole < len(messages):
        size = sum(one.tokens for one in messages[whole : whole + 2])
        if size > left:
            return messages[:whole], messages[whole].text.split()[:left]
        left -= size
        whole += 2
    return messages, []
