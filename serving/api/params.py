"""How is a reply to be sampled? From a request's fields to `SamplingParams`, with the defaults.

The one place that knows what an absent field means. Knows nothing of prompts' texts or of HTTP.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from model.sampling_defaults import SamplingDefaults
from serving.api.choice import TextRules
from serving.api.errors import bad_request
from serving.api.schemas import ChatBody, CompletionBody, GenerationBody
from serving.request import Grammar, SamplingParams

COMPLETION_MAX_TOKENS = 16
"""OpenAI's default of `max_tokens` for completions; chat defaults to the rest of the context."""

SMALLEST = 1e-5
"""Below it `temperature` and `top_p` count as 0: float32 logits cannot be scaled any further."""

MAX_STOP_CHARACTERS = 4096
"""Stop strings are looked for in every new token's text, so their total length is bounded."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What this server's model and configuration allow."""

    max_model_len: int
    vocab_size: int
    eos_ids: tuple[int, ...]
    max_logprobs: int
    defaults: SamplingDefaults


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request's sampling, for a prompt of known length; `limit` 0 means no reply at all.

    `sampling.seed` is the seed of choice 0.
    """

    sampling: SamplingParams
    rules: TextRules

    @property
    def computes(self) -> bool:
        """Whether the engine is needed: for tokens, or for the prompt's log-probabilities."""
        return self.rules.limit > 0 or self.sampling.prompt_logprobs is not None


def choice_seed(seed: int, index: int) -> int:
    """Return the seed of choice `index`: reproducible by itself; choice 0 has the request's own."""
    if index == 0:
        return seed
    digest = hashlib.blake2b(f"{seed}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def wanted(
    body: GenerationBody,
    prompt_len: int,
    limits: Limits,
    fresh_seed: Callable[[], int],
    grammar: Grammar | None,
) -> Wanted:
    """Return how to sample; raises the 400 that names the field that cannot be honoured."""
    limit = _limit(body, prompt_len, limits)
    max_tokens = max(limit, 1)
    min_tokens = body.min_tokens or 0
    if min_tokens > limit:
        raise bad_request("`min_tokens` must not exceed the tokens asked for.", "min_tokens")
    stop_ids = _ids(body.stop_token_ids or (), "stop_token_ids", limits)
    eos_ids = () if body.ignore_eos else limits.eos_ids
    all_stops = tuple(dict.fromkeys((*eos_ids, *stop_ids)))
    if grammar is not None and not all_stops:
        raise bad_request(
            "This model has no token that ends a reply: with a grammar, name one here.",
            "stop_token_ids",
        )
    top_k, top_p = _nucleus(body, limits)
    sampling = SamplingParams(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        temperature=_temperature(body, limits.defaults),
        top_k=top_k,
        top_p=top_p,
        min_p=_or(body.min_p, limits.defaults.min_p),
        repetition_penalty=_or(body.repetition_penalty, limits.defaults.repetition_penalty),
        presence_penalty=_or(body.presence_penalty, 0.0),
        frequency_penalty=_or(body.frequency_penalty, 0.0),
        logit_bias=_logit_bias(body, limits),
        allowed_ids=_allowed(body, limits, all_stops if min_tokens else ()),
        stop_ids=all_stops,
        seed=fresh_seed() if body.seed is None else body.seed,
        logprobs=_logprobs(body, limits),
        prompt_logprobs=_prompt_logprobs(body, limits),
        grammar=grammar,
    )
    rules = TextRules(
        stop=_stops(body),
        include_stop=bool(body.include_stop_str_in_output),
        skip_special=body.skip_special_tokens is not False,
        stop_ids=frozenset(sampling.stop_ids),
        silent_stops=frozenset(eos_ids) - frozenset(stop_ids),
        min_tokens=min_tokens,
        limit=limit,
    )
    return Wanted(sampling, rules)


def _limit(body: GenerationBody, prompt_len: int, limits: Limits) -> int:
    """Tokens wanted; the context must hold them, whoever chose the number."""
    asked, field, prompt_field = body.max_tokens, "max_tokens", "prompt"
    if isinstance(body, ChatBody):
        prompt_field = "messages"
        if body.max_completion_tokens is not None:
            asked, field = body.max_completion_tokens, "max_completion_tokens"
    room = limits.max_model_len - prompt_len
    most = f"This model's maximum context length is {limits.max_model_len} tokens. However, "
    if room < 1:
        raise bad_request(
            f"{most}your request has {prompt_len} input tokens. "
            f"Please reduce the length of the {prompt_field}.",
            prompt_field,
            "context_length_exceeded",
        )
    if asked is not None and asked > room:
        raise bad_request(
            f"{most}you requested {prompt_len + asked} tokens ({prompt_len} in the {prompt_field}, "
            f"{asked} in the completion). Please reduce the length of the {prompt_field} or the "
            "completion.",
            field,
            "context_length_exceeded",
        )
    if asked is None:
        return room if isinstance(body, ChatBody) else min(COMPLETION_MAX_TOKENS, room)
    return asked


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _temperature(body: GenerationBody, defaults: SamplingDefaults) -> float:
    """Temperatures too small to divide by are greedy, like 0."""
    temperature = _or(body.temperature, defaults.temperature)
    return 0.0 if temperature < SMALLEST else temperature


def _nucleus(body: GenerationBody, limits: Limits) -> tuple[int | None, float]:
    """`top_k` 0 and -1 mean all tokens; `top_p` 0 leaves exactly the likeliest one."""
    top_p = _or(body.top_p, limits.defaults.top_p)
    if top_p < SMALLEST:
        return 1, 1.0
    top_k = limits.defaults.top_k if body.top_k is None else body.top_k
    return (top_k if 0 < top_k < limits.vocab_size else None), top_p


def _ids(ids: Iterable[int], param: str, limits: Limits) -> tuple[int, ...]:
    out = tuple(ids)
    for token in out:
        if not 0 <= token < limits.vocab_size:
            raise bad_request(f"`{param}`: token id {token} is outside the vocabulary.", param)
    return out


def _allowed(body: GenerationBody, limits: Limits, banned: Sequence[int]) -> tuple[int, ...] | None:
    """`banned` are the stop tokens that may not be sampled before `min_tokens`."""
    if body.allowed_token_ids is None:
        return None
    if not body.allowed_token_ids:
        raise bad_request("`allowed_token_ids` must not be empty.", "allowed_token_ids")
    if set(body.allowed_token_ids) <= set(banned):
        raise bad_request(
            "`min_tokens`: all `allowed_token_ids` end the reply, so none may come first.",
            "min_tokens",
        )
    return _ids(body.allowed_token_ids, "allowed_token_ids", limits)


def _logit_bias(body: GenerationBody, limits: Limits) -> tuple[tuple[int, float], ...]:
    """A bias of 0 has no effect, so its key is not even read."""
    bias: dict[int, float] = {}
    for key, value in (body.logit_bias or {}).items():
        if value == 0:
            continue
        if not (key.isascii() and key.isdigit()) or len(key) > 10:
            raise bad_request("`logit_bias`: every key must be a token id.", "logit_bias")
        bias[int(key)] = value
    _ids(bias, "logit_bias", limits)
    return tuple(bias.items())


def _stops(body: GenerationBody) -> tuple[str, ...]:
    match body.stop:
        case None:
            return ()
        case str(stop):
            return (stop,)
        case stops:
            if sum(map(len, stops)) > MAX_STOP_CHARACTERS:
                raise bad_request(f"`stop` exceeds {MAX_STOP_CHARACTERS} characters.", "stop")
            return tuple(stops)


def _at_most(value: int | None, most: int, param: str) -> int | None:
    if value is not None and value > most:
        raise bad_request(f"`{param}` must be at most {most}.", param)
    return value


def _logprobs(body: GenerationBody, limits: Limits) -> int | None:
    if isinstance(body, ChatBody):
        top = _at_most(body.top_logprobs, limits.max_logprobs, "top_logprobs")
        return (top or 0) if body.logprobs else None
    if isinstance(body, CompletionBody):
        return _at_most(body.logprobs, limits.max_logprobs, "logprobs")
    return None


def _prompt_logprobs(body: GenerationBody, limits: Limits) -> int | None:
    """Asked for directly, or by a completion that echoes its prompt with log-probabilities."""
    if body.stream and body.prompt_logprobs is not None:
        raise bad_request("`prompt_logprobs` cannot be streamed.", "prompt_logprobs")
    asked: Sequence[int | None] = (
        _at_most(body.prompt_logprobs, limits.max_logprobs, "prompt_logprobs"),
        body.logprobs if isinstance(body, CompletionBody) and body.echo else None,
    )
    return max((n for n in asked if n is not None), default=None)
