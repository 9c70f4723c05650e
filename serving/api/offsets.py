"""Where in an answer's text does each token begin? In characters, of the text that clients get.

A token that is not in the text, such as a special one, has the place of what follows it, and one
that begins inside a character the place of that character.
"""

from collections.abc import Sequence

from serving.api.detokenize import Detokenizer


class TextOffsets:
    """Counts the characters before each token, from `start` on; `table` has the tokens' bytes."""

    def __init__(self, table: Sequence[bytes], start: int) -> None:
        self._table = table
        self._at = start
        self._text = Detokenizer(table)

    def push(self, ids: Sequence[int]) -> list[int]:
        """Return where each of the next tokens begins."""
        offsets: list[int] = []
        for token in ids:
            data = self._table[token]
            if data and not _continues(data[0]):
                # A character that is unfinished by now stays so: U+FFFD stands before this token.
                self._at += len(self._text.flush())
            offsets.append(self._at)
            self._at += len(self._text.push((token,)))
        return offsets


def prompt_offsets(table: Sequence[bytes], ids: Sequence[int], text: str) -> list[int]:
    """Return where each token of a prompt begins in `text`, which is the whole prompt's.

    Some tokenizers drop the space before a text's first word, so its tokens have more characters.
    """
    whole = b"".join(table[token] for token in ids).decode("utf-8", "replace")
    dropped = len(whole) - len(text)
    return [max(0, at - dropped) for at in TextOffsets(table, 0).push(ids)]


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80
