"""Where in a rendered chat do replies stand that this server wrote? Their ids replace their text.

A reply is replaced only where it stands behind exactly the prompt that it answered, so nothing here
can change what a prompt says. Knows nothing of request bodies, nor of how a chat is rendered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.api.replies import ReplyStore, Tenant
from serving.api.tokenizer import Tokenizer

MAX_MISSES = 8
"""Replies of one chat that may turn out to be recorded for another: each costs a tokenisation."""

Messages = Sequence[Mapping[str, Any]]
Render = Callable[[Messages], str]


@dataclass(frozen=True, slots=True)
class _Place:
    """The reply recorded under `key`, whose `text` stands between `start` and `end`, if at all."""

    key: str
    text: str
    start: int
    end: int


class Splicer:
    """Makes the ids of a rendered chat; thread-safe."""

    def __init__(self, tokenizer: Tokenizer, replies: ReplyStore) -> None:
        self._tokenizer = tokenizer
        self._replies = replies

    def ids(self, messages: Messages, past: int, render: Render, tenant: Tenant) -> list[int]:
        """Return the ids of a chat, recorded replies among its first `past` messages in place."""
        normal = render(messages)
        written = messages[:past]
        known = self._known(written, tenant)
        # Templates that alter a reply mostly trim it: the others may still be spliced.
        trimmed = {i: text for i, text in known.items() if text.strip() == text}
        calls = self._calls(written, tenant)
        for texts in (known, trimmed, {}):
            starts = _starts(messages, texts, normal, render)
            if starts is not None:
                ids = self._joined(normal, _places(normal, texts, starts, calls), tenant)
                if ids is not None:
                    return ids
        return self._ids(normal)

    def _known(self, messages: Messages, tenant: Tenant) -> dict[int, str]:
        """Return the texts of messages that are replies without calls, by their index."""
        return {
            i: message["content"]
            for i, message in enumerate(messages)
            if message["role"] == "assistant"
            and not message.get("tool_calls")
            and self._replies.knows(tenant, message["content"])
        }

    def _calls(self, messages: Messages, tenant: Tenant) -> dict[int, tuple[str, str]]:
        """Return the keys and texts of replies with calls, as they were written, by their index.

        Which one it was tells the id of the first call, which is that reply's alone.
        """
        found: dict[int, tuple[str, str]] = {}
        for i, message in enumerate(messages):
            key = message["tool_calls"][0].get("id") if message.get("tool_calls") else None
            ids = self._replies.of_call(tenant, key) if isinstance(key, str) else None
            if isinstance(key, str) and ids is not None:
                found[i] = (
                    key,
                    b"".join(map(self._tokenizer.token_bytes, ids)).decode("utf-8", "replace"),
                )
        return found

    def _joined(self, normal: str, places: Sequence[_Place], tenant: Tenant) -> list[int] | None:
        """Return the ids with recorded replies in place; None if parts of it cannot be joined.

        The same text may stand at several places of which one is the reply's, behind its prompt.
        """
        ids: list[int] = []
        done, misses = 0, 0
        for place in places:
            at = normal.find(place.text, max(place.start, done), place.end)
            while at >= 0 and misses < MAX_MISSES:
                prefix = self._followed(ids, normal[done:at])
                if prefix is None:
                    return None
                recorded = self._replies.find(tenant, prefix, place.key)
                if recorded is not None:
                    ids, done = [*prefix, *recorded], at + len(place.text)
                    break
                misses += 1
                at = normal.find(place.text, at + 1, place.end)
        return self._followed(ids, normal[done:])

    def _ids(self, rendered: str) -> list[int]:
        """A template writes its special tokens itself."""
        return self._tokenizer.encode(rendered, add_special_tokens=False)

    def _followed(self, ids: Sequence[int], text: str) -> list[int] | None:
        """Return `ids` and those of the text behind them.

        Some tokenizers put a space before a text, and here it would stand within one: it is left
        out, or None returned where it is part of a longer token.
        """
        more = self._ids(text)
        if ids and self._leading_spaces(more) > len(text) - len(text.lstrip(" ")):
            if self._tokenizer.token_bytes(more[0]) != b" ":
                return None
            del more[0]
        return [*ids, *more]

    def _leading_spaces(self, ids: Sequence[int]) -> int:
        spaces = 0
        for token in ids:
            data = self._tokenizer.token_bytes(token)
            spaces += len(data) - len(data.lstrip(b" "))
            if data.strip(b" "):
                break
        return spaces


def _starts(
    messages: Messages, texts: Mapping[int, str], normal: str, render: Render
) -> dict[int, int] | None:
    """Return where in the rendering the texts of some messages begin; None if it alters them.

    Each text is replaced by a placeholder; if putting them back into the rendering gives exactly
    the normal one, the placeholders mark where they stand.
    """
    if not texts:
        return {}
    marks = {i: _placeholder(i, normal) for i in texts}
    marked = [
        {**message, "content": marks[i]} if i in marks else message
        for i, message in enumerate(messages)
    ]
    rest = render(marked)
    starts: dict[int, int] = {}
    whole = ""
    for i, text in texts.items():
        before, found, rest = rest.partition(marks[i])
        if not found:
            return None
        starts[i] = len(whole) + len(before)
        whole += before + text
    return starts if whole + rest == normal else None


def _places(
    normal: str,
    texts: Mapping[int, str],
    starts: Mapping[int, int],
    calls: Mapping[int, tuple[str, str]],
) -> list[_Place]:
    """Return where replies stand, in their order.

    One with calls is somewhere behind those before it: a template writes calls in its own way, so
    it is looked for as the model wrote it.
    """
    places: list[_Place] = []
    behind = 0
    for i in sorted(texts.keys() | calls.keys()):
        if i in texts:
            behind = starts[i] + len(texts[i])
            places.append(_Place(texts[i], texts[i], starts[i], behind))
        else:
            key, text = calls[i]
            places.append(_Place(key, text, behind, len(normal)))
    return places


def _placeholder(index: int, text: str) -> str:
    """A word that the text does not hold and that no template has a reason to change."""
    word = f"reply{index}"
    while word in text:
        word += "x"
    return f"{word}y"
