"""Which bytes does a token stand for? Read from the decoder that a tokenizer.json describes.

Knows nothing of chats or of ids: it maps a token's spelling in the vocabulary to UTF-8 bytes.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from tokenizers import Tokenizer

_HEX_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def spelling_decoder(tokenizer: Tokenizer) -> Callable[[str], bytes]:
    """Return the function from a token's spelling to the bytes it adds inside a text.

    Known are the byte-level vocabularies (each byte spelled as one character) and the
    SentencePiece ones (a mark for the space, `<0x..>` for single bytes). Other spellings stand for
    themselves. Raises ValueError for decoders that join tokens in other ways, such as WordPiece.
    """
    steps = list(_steps(json.loads(tokenizer.to_str()).get("decoder")))
    kinds = {step["type"] for step in steps}
    if unknown := kinds - {"ByteLevel", "Replace", "Metaspace", "ByteFallback", "Fuse", "Strip"}:
        raise ValueError(f"decoder {', '.join(sorted(unknown))} is not supported")
    if "ByteLevel" in kinds:
        return _byte_level
    replacements = [(old, new) for step in steps for old, new in _replacements(step)]
    by_byte = "ByteFallback" in kinds

    def decode(spelling: str) -> bytes:
        if by_byte and (found := _HEX_BYTE.fullmatch(spelling)):
            return bytes([int(found[1], 16)])
        for old, new in replacements:
            spelling = spelling.replace(old, new)
        return spelling.encode()

    return decode


def _steps(decoder: dict[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield the single steps of a decoder, which may be a sequence of them."""
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for step in decoder["decoders"]:
            yield from _steps(step)
    else:
        yield decoder


def _replacements(step: dict[str, Any]) -> Iterator[tuple[str, str]]:
    match step:
        case {"type": "Metaspace", "replacement": mark}:
            yield mark, " "
        case {"type": "Replace", "pattern": {"String": old}, "content": new}:
            yield old, new
        case {"type": "Replace"}:
            raise ValueError("decoder Replace by a regular expression is not supported")


def _byte_level(spelling: str) -> bytes:
    """Undo the byte-level spelling; a spelling with any other character stands for itself."""
    try:
        return bytes(_BYTE_OF[character] for character in spelling)
    except KeyError:
        return spelling.encode()


def _byte_spellings() -> dict[str, int]:
    """Return the byte of each character of the byte-level alphabet (GPT-2's).

    Printable Latin-1 characters stand for their own code; the other bytes, in rising order, for
    the characters from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + place): byte for place, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


_BYTE_OF = _byte_spellings()
