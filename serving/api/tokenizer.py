"""What does the endpoint need from a tokenizer? The seam between text and token ids.

Knows nothing of files or of any tokenizer library.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """A checkpoint's tokenizer with its chat template."""

    @property
    def vocab_size(self) -> int:
        """Token ids lie in [0, vocab_size)."""
        ...

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply."""
        ...

    @property
    def special_ids(self) -> frozenset[int]:
        """Tokens that `skip_special_tokens` leaves out of the text."""
        ...

    @property
    def template(self) -> str:
        """The source of the template that chats with tools are put through; "": there is none."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text, with the special tokens (BOS) put around a plain prompt."""
        ...

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that a token stands for inside a text (maybe part of a character).

        The bytes of a reply's tokens, joined, are the reply's text. Unused ids give b"".
        """
        ...

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        """Return the prompt's text. `variables` are further names the template may read.

        Raises whatever the template raises: the endpoint reports it as the client's error.
        """
        ...
