"""Who asks, and when? Each session sends its next turn a think time after the reply before it.

The prompt of a turn continues with the very tokens that were replied before. A session whose turn
fails, or is refused, ends there, as a person would give up.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import repeat

from serving.messages import Completed, End
from serving.request import GREEDY, SessionId, Slo, Turn, TurnId
from serving.sim.agenda import Agenda
from serving.sim.replies import FIRST_OWN, STOP, Replies, own_text
from serving.workload.session import (
    SessionShape,
    TurnShape,
    Workload,
    WorkloadError,
    check_fits,
)

NO_TARGETS = Slo(None, None)


class _Conversation:
    """One session on its way: the tokens so far and the turns to come."""

    __slots__ = ("next_turn", "number", "shape", "tokens")

    def __init__(self, shape: SessionShape) -> None:
        self.shape = shape
        self.tokens: tuple[int, ...] = ()
        self.next_turn = 0
        self.number = 0  # of its turn that runs, in `Replies`


class Clients:
    """The only writer of conversations."""

    def __init__(
        self,
        workload: Workload,
        replies: Replies,
        agenda: Agenda,
        max_model_len: int,
        submit: Callable[[Turn], None],
    ) -> None:
        """Enter the starts of all sessions; `submit` sends a turn now.

        Raises WorkloadError for a turn that is longer than `max_model_len`.
        """
        check_fits(workload, max_model_len)
        self._replies = replies
        self._agenda = agenda
        self._max_model_len = max_model_len
        self._submit = submit
        self._running: dict[TurnId, _Conversation] = {}
        self.given_up = 0
        for shape in workload.sessions:
            conversation = _Conversation(shape)
            begins = shape.start_s + shape.turns[0].think_s
            agenda.at(begins, lambda one=conversation: self._ask(one))

    def on_end(self, end: End) -> None:
        """A turn has ended; its session goes on after a while, if it has more to say."""
        conversation = self._running.pop(end.turn)
        left = conversation.shape.turns[conversation.next_turn :]
        if not isinstance(end.outcome, Completed):
            self.given_up += len(left)
            return
        if not left:
            return
        conversation.tokens += self._replies.tokens(conversation.number)
        self._agenda.at(self._agenda.now + left[0].think_s, lambda: self._ask(conversation))

    def _ask(self, conversation: _Conversation) -> None:
        shape = conversation.shape.turns[conversation.next_turn]
        index = conversation.next_turn
        conversation.next_turn += 1
        number = conversation.number = self._replies.add(shape.reply)
        tokens = conversation.tokens = self._prompt(conversation.tokens, shape, number)
        name = f"{conversation.shape.id}.{index}"
        room = self._max_model_len - len(tokens)
        sampling = replace(GREEDY, max_tokens=room, stop_ids=(STOP,), seed=number)
        session = SessionId(conversation.shape.id)
        turn = Turn(TurnId(name), session, tokens, sampling, NO_TARGETS, 0, "", index)
        self._running[turn.id] = conversation
        self._submit(turn)

    @staticmethod
    def _prompt(before: tuple[int, ...], shape: TurnShape, number: int) -> tuple[int, ...]:
        kept = list(before if shape.keep is None else before[: shape.keep])
        for name, length in shape.shared:
            if not 0 < name < FIRST_OWN:
                raise WorkloadError(f"shared text is named {name}; names lie in (0, {FIRST_OWN})")
            kept += repeat(name, length)
        # A conversation that was cut inside its own past still needs a token to answer to.
        kept += repeat(own_text(number), max(shape.new, 1 - len(kept)))
        return tuple(kept)
