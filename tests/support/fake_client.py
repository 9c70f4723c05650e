"""What does a client receive of one turn? Every token is compared with the oracle at once."""

from dataclasses import dataclass, field

from serving.messages import Completed, End, SampledToken
from serving.request import FinishReason, TokenLogprobs, Turn
from tests.support.fake_model import prompt_scores, reply_scores, reply_to


@dataclass
class Reply:
    """What a client has received of one turn."""

    turn: Turn
    expected: list[int]
    reason: FinishReason
    samples: list[SampledToken] = field(default_factory=list)
    prompt: tuple[TokenLogprobs | None, ...] | None = None
    end: End | None = None

    @classmethod
    def to(cls, turn: Turn) -> "Reply":
        return cls(turn, *reply_to(turn))

    @property
    def tokens(self) -> list[int]:
        return [sample.token for sample in self.samples]

    @property
    def computed(self) -> int:
        """Prompt tokens that were run through the model."""
        assert self.end is not None
        return self.end.prompt_len - self.end.cached_len

    def take(self, sample: SampledToken) -> None:
        assert self.end is None, "a token after the end"
        assert sample.reply_index == len(self.samples), "a token is missing or came twice"
        assert sample.token == self.expected[sample.reply_index], "a wrong token"
        self.samples.append(sample)

    def take_prompt(self, logprobs: tuple[TokenLogprobs | None, ...]) -> None:
        assert self.prompt is None, "the prompt was scored twice"
        assert not self.samples, "a token came before the prompt's scores"
        self.prompt = logprobs

    def close(self, end: End) -> None:
        assert self.end is None, "a turn ended twice"
        self.end = end
        assert end.reply_len == len(self.samples)
        assert end.prompt_len == self.turn.prompt_len
        assert 0 <= end.cached_len < end.prompt_len
        if isinstance(end.outcome, Completed):
            assert self.tokens == self.expected
            assert end.outcome.reason == self.reason
            self._check_scores()

    def _check_scores(self) -> None:
        sampling = self.turn.sampling
        scores = [sample.logprobs for sample in self.samples]
        if sampling.logprobs is None:
            assert scores == [None] * len(scores)
        else:
            assert scores == reply_scores(self.turn, self.expected)
        wanted = prompt_scores(self.turn) if sampling.prompt_logprobs is not None else None
        assert self.prompt == wanted
