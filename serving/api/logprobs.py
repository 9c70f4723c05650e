"""How do log-probabilities look on the wire? The shapes of chat, completions and prompts.

Knows nothing of choices or streams. An engine scores more alternatives than were asked for, so each
shape is told how many to write (`most`). A log-probability of minus infinity has no JSON; it is
sent as `FLOOR`.
"""

from collections.abc import Sequence
from typing import Any

from serving.api.detokenize import TokenText
from serving.messages import SampledToken
from serving.request import TokenLogprobs

FLOOR = -9999.0


class LogprobWriter:
    """Writes tokens as text, or as `token_id:N` where the client asked for ids."""

    def __init__(self, text: TokenText, *, as_ids: bool) -> None:
        self._bytes = text.every
        self._as_ids = as_ids

    def name(self, token: int) -> str:
        """Return how a token is named."""
        if self._as_ids:
            return f"token_id:{token}"
        return self._bytes[token].decode("utf-8", "replace")

    def chat(self, samples: Sequence[SampledToken], most: int) -> dict[str, Any]:
        """Return chat's `logprobs` for these tokens: each with the `most` likeliest."""
        content = []
        for sample in samples:
            if sample.logprobs is not None:
                top = [self._item(token, value) for token, value in sample.logprobs.top[:most]]
                item = self._item(sample.token, sample.logprobs.chosen)
                content.append({**item, "top_logprobs": top})
        return {"content": content, "refusal": None}

    def completion(
        self,
        tokens: Sequence[tuple[int, TokenLogprobs | None]],
        offsets: Sequence[int],
        most: int,
    ) -> dict[str, Any]:
        """Return completions' `logprobs` for these tokens, which begin at `offsets` in the text.

        Beside the `most` likeliest stands the token itself, if it is none of them. A token without
        log-probabilities (the first of an echoed prompt) has null in their place.
        """
        names, chosen, top = [], [], []
        for token, logprobs in tokens:
            names.append(self.name(token))
            chosen.append(None if logprobs is None else _finite(logprobs.chosen))
            top.append(None if logprobs is None else self._top(token, logprobs, most))
        fields = {"tokens": names, "token_logprobs": chosen, "top_logprobs": top}
        return {**fields, "text_offset": offsets}

    def prompt(
        self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs | None], most: int
    ) -> list[dict[str, Any] | None]:
        """Return `prompt_logprobs`: by position, token id to its log-probability and text.

        These are the `most` likeliest, and the prompt's own token.
        """
        out: list[dict[str, Any] | None] = []
        for token, entry in zip(ids, logprobs, strict=True):
            if entry is None:
                out.append(None)
                continue
            values = dict(entry.top[:most]) | {token: entry.chosen}
            out.append(
                {
                    str(t): {"logprob": _finite(value), "decoded_token": self.name(t)}
                    for t, value in values.items()
                }
            )
        return out

    def _top(self, token: int, logprobs: TokenLogprobs, most: int) -> dict[str, float]:
        """The chosen token is always among them; of equal names the likelier one is kept."""
        top: dict[str, float] = {}
        for other, value in logprobs.top[:most]:
            top.setdefault(self.name(other), _finite(value))
        top.setdefault(self.name(token), _finite(logprobs.chosen))
        return top

    def _item(self, token: int, value: float) -> dict[str, Any]:
        data = list(self._bytes[token])
        return {"token": self.name(token), "logprob": _finite(value), "bytes": data}


def _finite(value: float) -> float:
    return max(value, FLOOR)
