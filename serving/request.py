"""What does a client ask for, and what does it get back? Values of one turn.

Knows nothing of HTTP, text, workers or pages: everything is token ids and numbers.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

TurnId = NewType("TurnId", str)
SessionId = NewType("SessionId", str)


class FinishReason(StrEnum):
    """Why a reply ended; the values are OpenAI's `finish_reason`."""

    STOP = "stop"
    LENGTH = "length"


class GrammarKind(StrEnum):
    """In what language a grammar is written; the values are vLLM's."""

    JSON = "json"  # a JSON schema
    REGEX = "regex"  # Rust's regular expressions; the whole reply matches
    CHOICE = "choice"  # a JSON list of texts, one of which is the reply
    LARK = "grammar"  # llguidance's Lark, in which `%json {...}` is a rule too


@dataclass(frozen=True, slots=True)
class Grammar:
    """Which replies are allowed: those that `text`, written in the language `kind`, describes.

    Whoever makes one has seen that it compiles.
    """

    kind: GrammarKind
    text: str


class GrammarError(ValueError):
    """A grammar that cannot be compiled; its text says in one line why."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one reply is sampled. Every field is explicit; the endpoint owns the defaults.

    `temperature` 0 is greedy, whatever the filters say. `top_k` None keeps the whole vocabulary.
    `stop_ids` end the reply and are part of it as its last token. `seed` is a signed 64-bit number;
    the noise of token i of a reply depends on (seed, i) alone, so it survives chunking, hand-off,
    preemption and batch neighbours. `logprobs` and `prompt_logprobs` are how many alternatives are
    wanted beside the token itself (0: that one only, None: none).

    With a `grammar` every token is one that it allows; where it is complete the `stop_ids` are
    allowed too, and nothing else where it allows no more. It goes before `min_tokens`, which then
    only keeps a reply from ending where it could go on.
    """

    max_tokens: int
    min_tokens: int
    temperature: float
    top_k: int | None
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    logit_bias: tuple[tuple[int, float], ...]
    allowed_ids: tuple[int, ...] | None
    stop_ids: tuple[int, ...]
    seed: int
    logprobs: int | None
    prompt_logprobs: int | None
    grammar: Grammar | None

    def __post_init__(self) -> None:
        """Check what every caller must have ensured; raises ValueError naming the field."""
        if self.max_tokens < 1:
            raise ValueError("max_tokens must be at least 1")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ValueError("min_tokens must lie between 0 and max_tokens")
        if self.temperature < 0:
            raise ValueError("temperature must not be negative")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError("top_k must be at least 1")
        if not 0 < self.top_p <= 1:
            raise ValueError("top_p must lie in (0, 1]")
        if not 0 <= self.min_p <= 1:
            raise ValueError("min_p must lie in [0, 1]")
        if self.repetition_penalty <= 0:
            raise ValueError("repetition_penalty must be positive")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError("seed must fit 64 signed bits")
        if self.grammar is not None and not self.stop_ids:
            raise ValueError("a grammar needs stop_ids: one of them ends the reply")

    def may_end_after(self, replied: int) -> bool:
        """Say whether a reply of so many tokens is free to end with its next one.

        Clients may want so many at least, or `max_tokens` in any case: then its length says nothing
        of the model's own.
        """
        return bool(self.stop_ids) and replied >= self.min_tokens

    @property
    def needs_planes(self) -> bool:
        """Whether sampling reads per-vocabulary state (penalties, bias, allowed or banned ids)."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
            or bool(self.logit_bias)
            or self.allowed_ids is not None
            or self.min_tokens > 0
            or self.grammar is not None
        )


GREEDY = SamplingParams(
    max_tokens=1,
    min_tokens=0,
    temperature=0.0,
    top_k=None,
    top_p=1.0,
    min_p=0.0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    logit_bias=(),
    allowed_ids=None,
    stop_ids=(),
    seed=0,
    logprobs=None,
    prompt_logprobs=None,
    grammar=None,
)
"""One token, the likeliest. Whoever builds parameters in code replaces what differs from it."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Targets in seconds; None means that the client set no target."""

    ttft_s: float | None
    tpot_s: float | None

    def or_else(self, default: "Slo") -> "Slo":
        """Return these targets, those of `default` where none is set."""
        return Slo(
            default.ttft_s if self.ttft_s is None else self.ttft_s,
            default.tpot_s if self.tpot_s is None else self.tpot_s,
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """One prompt and the reply asked for, within a session.

    `session` is the client's key if it sent one; else the coordinator derives it from the prefix.
    `salt` names the tenant: pages and sessions are never shared between different salts.
    `priority`: smaller is earlier. `number` counts the replies before it in its conversation.
    `follows`: it starts with the first token of that turn, which has the same prompt.
    """

    id: TurnId
    session: SessionId | None
    tokens: tuple[int, ...]
    sampling: SamplingParams
    slo: Slo
    priority: int
    salt: str
    number: int = 0
    follows: TurnId | None = None

    @property
    def prompt_len(self) -> int:
        """Tokens in the prompt."""
        return len(self.tokens)

    @property
    def max_total_len(self) -> int:
        """The most tokens that prompt and reply may reach."""
        return len(self.tokens) + self.sampling.max_tokens


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities of one position under the model's own distribution (before penalties).

    `top` holds (token id, log-probability), most likely first: at least as many as were wanted. A
    step scores the same number for all rows; whoever shows them shows what was asked for.
    """

    chosen: float
    top: tuple[tuple[int, float], ...]
