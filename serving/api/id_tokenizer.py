"""What stands for text where a model has no tokenizer? Replies show their token ids in numbers.

Only for random weights, which make speed measurable where there is nothing but sizes. Prompts must
be token ids: a text or a chat is refused, since cutting it in any made-up way would measure prompts
of made-up lengths.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from serving.api.errors import ApiError, bad_request


class IdTokenizer:
    """A tokenizer for ids in [0, vocab_size): id 17 has the text "17 "."""

    special_ids: frozenset[int] = frozenset()
    template = ""

    def __init__(self, vocab_size: int, eos_ids: tuple[int, ...]) -> None:
        self.vocab_size = vocab_size
        self.eos_ids = eos_ids

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Raise the 400 that says what to send instead."""
        raise _refused("prompt")

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the ids as numbers, each with a space behind it."""
        return b"".join(map(self.token_bytes, ids)).decode()

    def token_bytes(self, token: int) -> bytes:
        """Return an id as a number with a space behind it."""
        return f"{token} ".encode()

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        """Raise the 400 that says what to send instead."""
        raise _refused("messages")


def _refused(param: str) -> ApiError:
    message = "This model has no tokenizer: send token ids, as `prompt` of /v1/completions."
    return bad_request(message, param, "no_tokenizer")
