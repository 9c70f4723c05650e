"""How does a test ask for something? Turns with every field spelled out once."""

from dataclasses import replace

from serving.request import SamplingParams, SessionId, Slo, Turn, TurnId

SAMPLING = SamplingParams(
    max_tokens=8,
    min_tokens=0,
    temperature=1.0,
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
)


def make_turn(
    name: str,
    tokens: tuple[int, ...] | list[int] | range,
    *,
    session: str | None = None,
    salt: str = "",
    priority: int = 0,
    **sampling: object,
) -> Turn:
    """A turn; `sampling` overrides single fields of SAMPLING."""
    return Turn(
        id=TurnId(name),
        session=None if session is None else SessionId(session),
        tokens=tuple(tokens),
        sampling=replace(SAMPLING, **sampling),  # type: ignore[arg-type]
        slo=Slo(None, None),
        priority=priority,
        salt=salt,
    )
