"""Which token ids is a prompt? Templates are rendered and texts tokenised here.

Knows nothing of sampling, turns or HTTP.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from serving.api.conversation import checked
from serving.api.errors import ApiError, bad_request
from serving.api.replies import ReplyStore, Tenant
from serving.api.schemas import ChatBody, CompletionBody, TokenizeBody
from serving.api.splicing import Splicer
from serving.api.tokenizer import Tokenizer

MAX_PROMPTS = 2048
"""Prompts of one completion request: beyond it, a small body could ask for unbounded work."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """How a chat is put through the template."""

    add_generation_prompt: bool
    continue_final_message: bool
    tools: Sequence[Mapping[str, Any]] | None
    variables: Mapping[str, Any]


_CONTINUED = "this-goes-on "
"""Stands behind a final message that is to be continued, to find its end in the rendering. A
template that trims the message takes the space."""

LONG_BODY_BYTES = 16_384
"""Requests above it are tokenised in a thread: a few ms of work that would delay other streams."""

T = TypeVar("T")


async def away(body_bytes: int, work: Callable[[], T]) -> T:
    """Do the work on a request's text: here if it is short, else in a thread."""
    return await asyncio.to_thread(work) if body_bytes > LONG_BODY_BYTES else work()


class Prompts:
    """Makes prompts; thread-safe, so that long texts need not block the event loop."""

    def __init__(self, tokenizer: Tokenizer, replies: ReplyStore) -> None:
        self._tokenizer = tokenizer
        self._splicer = Splicer(tokenizer, replies)

    def chat(
        self, body: ChatBody | TokenizeBody, tenant: Tenant
    ) -> tuple[tuple[int, ...], frozenset[str]]:
        """Return a chat's ids and the fields that made no difference to them.

        Messages that this server wrote for the tenant keep the ids they were sampled with. Raises
        a 400 for messages or variables that the template refuses, with the template's own words.
        """
        messages = checked(body.messages or ())
        rendering, unused = self._rendering(body, messages)
        past = len(messages) - rendering.continue_final_message

        def render(messages: Sequence[Mapping[str, Any]]) -> str:
            return self._render(messages, rendering)

        ids = self._splicer.ids(messages, past, render, tenant)
        if not ids:
            raise bad_request("The chat template makes an empty prompt of this.", "messages")
        return tuple(ids), unused

    def completion(self, body: CompletionBody) -> list[tuple[int, ...]]:
        """Return the ids of every prompt; raises a 400 for a form or id that is none."""
        special = body.add_special_tokens is not False
        match body.prompt:
            case str(text):
                prompts = [self._text(text, special)]
            case [int(), *_]:
                prompts = [self._checked_ids(body.prompt, "prompt")]
            case [str(), *_] | [list(), *_]:
                if len(body.prompt) * (body.n or 1) > MAX_PROMPTS:
                    raise bad_request(f"At most {MAX_PROMPTS} prompts times `n`.", "prompt")
                prompts = [
                    self._text(p, special)
                    if isinstance(p, str)
                    else self._checked_ids(p, f"prompt[{i}]")
                    for i, p in enumerate(body.prompt)
                ]
            case _:
                raise bad_request(
                    "`prompt` must be a text, token ids, or a list of either.", "prompt"
                )
        if not all(prompts):
            raise bad_request("`prompt` must not be empty.", "prompt")
        return prompts

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of a prompt, for repeating it."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def asked(self, body: TokenizeBody, tenant: Tenant) -> Sequence[int]:
        """Return the ids of a text, or those that the chat would be prefilled with."""
        if body.prompt is None:
            return self.chat(body, tenant)[0]
        return self._text(body.prompt, body.add_special_tokens is not False)

    def _text(self, text: str, special: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=special))

    def _checked_ids(self, ids: Any, param: str) -> tuple[int, ...]:
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise bad_request(f"`{param}` must hold token ids only.", param)
        if ids and not (min(ids) >= 0 and max(ids) < self._tokenizer.vocab_size):
            raise bad_request(f"`{param}` has a token id outside the vocabulary.", param)
        return tuple(ids)

    def _rendering(
        self, body: ChatBody | TokenizeBody, messages: Sequence[Mapping[str, Any]]
    ) -> tuple[Rendering, frozenset[str]]:
        continues = bool(body.continue_final_message)
        if continues and body.add_generation_prompt:
            raise bad_request(
                "`continue_final_message` and `add_generation_prompt` exclude each other.",
                "continue_final_message",
            )
        plain = Rendering(
            add_generation_prompt=not continues and body.add_generation_prompt is not False,
            continue_final_message=continues,
            tools=None,
            variables=dict(body.chat_template_kwargs or {}),
        )
        rendering, unused = plain, set[str]()
        if body.reasoning_effort is not None:
            variables = {**plain.variables, "reasoning_effort": body.reasoning_effort}
            rendering = Rendering(plain.add_generation_prompt, continues, None, variables)
            if self._render(messages, rendering) == self._render(messages, plain):
                rendering = plain
                unused.add("reasoning_effort")
        if not body.tools:
            return rendering, frozenset(unused)
        if body.tool_choice == "none":
            return rendering, frozenset({*unused, "tools"})
        tooled = Rendering(
            rendering.add_generation_prompt, continues, body.tools, rendering.variables
        )
        if self._render(messages, tooled) == self._render(messages, rendering):
            raise bad_request("The model's chat template takes no `tools`.", "tools")
        return tooled, frozenset(unused)

    def _render(self, messages: Sequence[Mapping[str, Any]], rendering: Rendering) -> str:
        if not rendering.continue_final_message:
            return self._applied(messages, rendering)
        final = messages[-1]["content"]
        marked = [*messages[:-1], {**messages[-1], "content": final + _CONTINUED}]
        text, found, after = self._applied(marked, rendering).rpartition(_CONTINUED.rstrip())
        if final.strip() and not after.startswith(" "):
            text = text[: len(text) - len(final) + len(final.rstrip())]
        if not found or not text.rstrip().endswith(final.strip()):
            raise bad_request(
                "The chat template does not keep the final message as it is.",
                "continue_final_message",
            )
        return text

    def _applied(self, messages: Sequence[Mapping[str, Any]], rendering: Rendering) -> str:
        try:
            return self._tokenizer.apply_chat_template(
                messages,
                add_generation_prompt=rendering.add_generation_prompt,
                tools=rendering.tools,
                variables=rendering.variables,
            )
        except ApiError:
            raise  # there is no template to ask
        except Exception as error:
            # Templates are programs that may raise anything, always because of what they were
            # given: the same request would fail again, so it is never a 500.
            raise bad_request(f"The chat template refuses this: {error}", "messages") from error
