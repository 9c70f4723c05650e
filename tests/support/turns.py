"""How does a test ask for something? Turns that differ in what matters to it."""

from dataclasses import replace

from serving.request import GREEDY, SessionId, Slo, Turn, TurnId

SAMPLING = replace(GREEDY, max_tokens=8, temperature=1.0)


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
