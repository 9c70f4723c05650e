"""What does a client see of one reply? One choice: its text, its tokens and why it ended.

Knows nothing of HTTP or JSON; it is fed with what the engine delivers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from serving.api.calls.reader import CallReader
from serving.api.detokenize import Detokenizer, StopStrings, TokenText
from serving.messages import SampledToken
from serving.request import FinishReason, TokenLogprobs


@dataclass(frozen=True, slots=True)
class TextRules:
    """How a reply's tokens become text, and where the text ends before the engine's own end.

    `limit` is the number of tokens the client asked for; it is below the engine's limit only when
    nothing but log-probabilities of the prompt was wanted (0). `stop_ids` are the turn's, of
    which `silent_stops` (end of sequence) are not named as the `stop_reason`.
    """

    stop: tuple[str, ...]
    include_stop: bool
    skip_special: bool
    stop_ids: frozenset[int]
    silent_stops: frozenset[int]
    min_tokens: int
    limit: int


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a choice ended; `stop_reason` is the stop string or stop token that ended it."""

    reason: FinishReason
    stop_reason: str | int | None


@dataclass(frozen=True, slots=True)
class Piece:
    """What one push adds: new text, and the tokens taken (the text may lag behind its tokens)."""

    text: str
    samples: Sequence[SampledToken]
    last: bool


class Choice:
    """One reply on its way to a client: push tokens, then close once.

    `finish` is set as soon as a stop string or the limit ends the choice; what is pushed later is
    ignored, so the result does not depend on how tokens were coalesced.
    """

    def __init__(
        self, index: int, rules: TextRules, text: TokenText, calls: CallReader | None
    ) -> None:
        """`calls` is told the same text as the client would be, to tell calls of tools from it."""
        self.index = index
        self.rules = rules
        self.text = text
        self.calls = calls
        self.tokens: list[int] = []
        self.finish: Finish | None = None
        self.prompt_logprobs: tuple[TokenLogprobs | None, ...] | None = None
        self._detokenizer = Detokenizer(text.table(skip_special=rules.skip_special))
        self._stops = StopStrings(rules.stop, include=rules.include_stop) if rules.stop else None

    def push(self, samples: Sequence[SampledToken]) -> Piece:
        """Take tokens in order; return the text they release."""
        if self.finish is not None:
            return Piece("", (), False)
        piece = self._pushed(samples)
        if self.calls is not None:
            self.calls.push(piece.text)
        return piece

    def _pushed(self, samples: Sequence[SampledToken]) -> Piece:
        if self._stops is not None:
            return self._push_watched(samples, self._stops)
        if len(self.tokens) + len(samples) > self.rules.limit:
            samples = samples[: self.rules.limit - len(self.tokens)]
            self.finish = Finish(FinishReason.LENGTH, None)
        ids = [sample.token for sample in samples]
        self.tokens += ids
        # A stop token is always the last one; it is part of the reply but not of its text.
        if ids and ids[-1] in self.rules.stop_ids and not self.rules.include_stop:
            ids.pop()
        return Piece(self._detokenizer.push(ids), samples, False)

    def close(self, reason: FinishReason) -> Piece:
        """End the choice, for the engine's `reason` unless it has ended before; flush the text."""
        text = "" if self._stopped_by_text else self._detokenizer.flush()
        if self._stops is not None and not self._stopped_by_text:
            hit = None
            if len(self.tokens) > self.rules.min_tokens:
                text, hit = self._stops.push(text)
            text += self._stops.flush()
            if hit is not None:
                self.finish = Finish(FinishReason.STOP, hit)
        if self.finish is None:
            self.finish = Finish(reason, self._stop_token(reason))
        if self.calls is not None:
            self.calls.push(text)
            self.calls.close()
        return Piece(text, (), True)

    @property
    def watches_text(self) -> bool:
        """Whether the text of a token may end the choice before the engine does."""
        return self._stops is not None

    @property
    def ending(self) -> dict[str, str | int | None]:
        """The fields that tell a client why the choice ended; all null before it has."""
        if self.finish is None:
            return {"finish_reason": None, "stop_reason": None}
        reason = self.finish.reason
        called = self.calls is not None and self.calls.called and reason is FinishReason.STOP
        return {
            "finish_reason": "tool_calls" if called else reason.value,
            "stop_reason": self.finish.stop_reason,
        }

    @property
    def _stopped_by_text(self) -> bool:
        return self.finish is not None and isinstance(self.finish.stop_reason, str)

    def _push_watched(self, samples: Sequence[SampledToken], stops: StopStrings) -> Piece:
        """Token by token: the reply ends with the very token that completes a stop string."""
        out = ""
        for number, sample in enumerate(samples):
            if len(self.tokens) == self.rules.limit:
                self.finish = Finish(FinishReason.LENGTH, None)
                return Piece(out, samples[:number], False)
            self.tokens.append(sample.token)
            if sample.token in self.rules.stop_ids and not self.rules.include_stop:
                continue
            text = self._detokenizer.push((sample.token,))
            if len(self.tokens) <= self.rules.min_tokens:
                out += text
                continue
            safe, hit = stops.push(text) if text else ("", None)
            out += safe
            if hit is not None:
                self.finish = Finish(FinishReason.STOP, hit)
                return Piece(out, samples[: number + 1], False)
        return Piece(out, samples, False)

    def _stop_token(self, reason: FinishReason) -> int | None:
        if reason is not FinishReason.STOP or not self.tokens:
            return None
        last = self.tokens[-1]
        return None if last in self.rules.silent_stops else last
