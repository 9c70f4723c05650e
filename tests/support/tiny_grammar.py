"""A language over the tiny model's 64 tokens, by a machine written by hand.

Lists of words and numbers in brackets, such as `[ab,17,c]`. `allowed_after` is the oracle of what
llguidance makes of the same language's regular expression: it tries every token.
"""

from collections.abc import Sequence
from itertools import product

from serving.engine.grammars import Grammars
from serving.request import Grammar, GrammarKind

END = 63
"""The token that ends a reply; it is no part of any text."""

_SINGLE = "abcde0123456789[],. {}"
PIECES = [text.encode() for text in _SINGLE]
PIECES += ["".join(pair).encode() for pair in product("ab1,]", repeat=2)]
PIECES += [
    b"[a",
    b"abc",
    b"1,2",
    b"],",
    b"",
    b"\xc3",
    b"17]",
    b",,",
    b"c,[",
    b"12",
    b"123",
    b"1234",
]
PIECES += [b""] * (END - len(PIECES)) + [b"<end>"]

LIST = Grammar(GrammarKind.REGEX, r"\[([a-c]+|[0-9]{1,3})(,([a-c]+|[0-9]{1,3}))*\]")
LONG = tuple((token, -50.0) for token, piece in enumerate(PIECES) if b"]" in piece)
"""A bias with which lists go on for as long as they may."""

START, CLOSED = "start", "closed"
_WORD, _DIGITS = "abc", "0123456789"
_NEXT: dict[str, dict[str, str]] = {
    START: {"[": "item"},
    "item": {**dict.fromkeys(_WORD, "word"), **dict.fromkeys(_DIGITS, "one digit")},
    "word": {**dict.fromkeys(_WORD, "word"), ",": "item", "]": CLOSED},
    "one digit": {**dict.fromkeys(_DIGITS, "two digits"), ",": "item", "]": CLOSED},
    "two digits": {**dict.fromkeys(_DIGITS, "three digits"), ",": "item", "]": CLOSED},
    "three digits": {",": "item", "]": CLOSED},
    CLOSED: {},
}


def grammars() -> Grammars:
    """Grammars over the tiny model's tokens."""
    return Grammars(PIECES, [END])


def text_of(reply: Sequence[int]) -> str:
    """The text of a reply, without the token that ends it."""
    return b"".join(PIECES[token] for token in reply if token != END).decode()


def allowed_after(reply: Sequence[int]) -> list[int]:
    """The tokens that may come next in a list; a complete one can only end."""
    state = _run(START, text_of(reply))
    assert state is not None, "the reply is no beginning of a list"
    if state == CLOSED:
        return [END]
    return [
        token
        for token, piece in enumerate(PIECES)
        if token != END and piece.isascii() and piece and _run(state, piece.decode()) is not None
    ]


def _run(state: str, text: str) -> str | None:
    for character in text:
        if character not in _NEXT[state]:
            return None
        state = _NEXT[state][character]
    return state
