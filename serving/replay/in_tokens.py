"""How is a conversation held in token ids? Prompts begin with the very ids that came before."""

from serving.replay.conversation import Ask
from serving.replay.reply import Reply
from serving.replay.settings import ReplayError
from serving.replay.text import Author
from serving.workload.session import TurnShape


class TokenConversation:
    """A conversation in token ids, so that every length is exactly what the workload says."""

    def __init__(self, author: Author) -> None:
        """Start with nothing said."""
        self._author = author
        self._tokens: list[int] = []

    def ask(self, turn: TurnShape, name: str) -> Ask:
        """Return the next turn's prompt."""
        prompt = self._tokens[: turn.keep]
        for span in turn.shared:
            prompt += self._author.shared_ids(span)
        # A conversation that was cut inside its own past still needs a token to answer to.
        prompt += self._author.own_ids(name, max(turn.new, 1 - len(prompt)))
        self._tokens = prompt
        fields = {"prompt": prompt, "return_token_ids": True}
        return Ask("/v1/completions", fields, len(prompt))

    def heard(self, reply: Reply) -> None:
        """Take the reply; raises ReplayError if the server did not tell its token ids."""
        if len(reply.token_ids) != reply.tokens:
            raise ReplayError(
                "the server returns no token ids (return_token_ids), so later prompts cannot begin"
                " with its replies; use --prompts chat"
            )
        # A new list: the one before belongs to the request.
        self._tokens = self._tokens + reply.token_ids
