"""Which grammar follows from a chat's `tool_choice`, beside what else it asks for?

Knows nothing of how a grammar is followed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from serving.api.calls.forced import ForcedReply, arguments_schema, forced_reply
from serving.api.calls.formats import CallFormat
from serving.api.calls.lark import lark, lark_or_json
from serving.api.errors import ApiError, bad_request
from serving.api.schemas import ChatBody
from serving.api.structured import NOT_COMPILED, Asked, Compiler, asked_for, compiled
from serving.api.tools import is_forced
from serving.request import Grammar, GrammarKind


@dataclass(frozen=True, slots=True)
class Spelling:
    """How the model writes calls: a format, its template's source, and the ids of its markers.

    `special_ids` has those markers that are special tokens, by their text.
    """

    format: CallFormat
    template: str
    special_ids: Mapping[str, int]

    def forced(self, body: ChatBody) -> ForcedReply:
        """Describe the replies that call what a chat lets them call."""
        return forced_reply(
            self.format,
            self.template,
            body.tools or (),
            named=_named(body),
            parallel=body.parallel_tool_calls is not False,
        )


async def constrained(
    body: ChatBody, compiler: Compiler | None, spelling: Spelling | None
) -> Grammar | None:
    """Return the grammar of a chat's replies, if any, once it has been seen to compile.

    Raises a 400 that says what is wrong with it, and the one for a choice that cannot be forced.
    """
    asked = asked_for(body)
    if not is_forced(body.tool_choice):
        if asked is None or spelling is None or not body.tools or body.tool_choice == "none":
            return await compiled(asked, body, compiler)
        return await _joint(_or_call(asked, spelling, body), asked, body, compiler)
    if asked is not None:
        message = f"`tool_choice` and `{asked.param}` exclude each other: a reply is calls or text."
        raise bad_request(message, "tool_choice")
    if spelling is None:
        raise bad_request(
            "`tool_choice` must be `none` or `auto` here: it is not known how this model calls "
            "tools (--tool-call-parser).",
            "tool_choice",
        )
    text = lark(spelling.forced(body), spelling.special_ids)
    forced = Asked(Grammar(GrammarKind.LARK, text), "tool_choice", "`tool_choice`")
    return await _joint(forced, None, body, compiler)


def _named(body: ChatBody) -> str | None:
    choice = body.tool_choice
    return choice["function"]["name"] if isinstance(choice, dict) else None


def _or_call(asked: Asked, spelling: Spelling, body: ChatBody) -> Asked:
    """With tools a JSON format is for replies that do not call; other grammars leave no choice."""
    if asked.grammar.kind is not GrammarKind.JSON:
        return asked
    text = lark_or_json(spelling.forced(body), spelling.special_ids, json.loads(asked.grammar.text))
    return Asked(Grammar(GrammarKind.LARK, text), asked.param, asked.name)


async def _joint(
    joint: Asked, own: Asked | None, body: ChatBody, compiler: Compiler | None
) -> Grammar | None:
    """Return a grammar that was made of others; if it does not compile, the error names which."""
    try:
        return await compiled(joint, body, compiler)
    except ApiError as error:
        if error.code in NOT_COMPILED:
            await compiled(own, body, compiler)
            await _refuse_schemas(body, compiler)
        raise


async def _refuse_schemas(body: ChatBody, compiler: Compiler | None) -> None:
    """Raise the 400 that names the first function whose parameters cannot be followed."""
    for i, tool in enumerate(body.tools or ()):
        name = tool["function"]["name"]
        if _named(body) in (None, name):
            schema = Grammar(GrammarKind.JSON, json.dumps(arguments_schema(tool["function"])))
            param = f"tools[{i}].function.parameters"
            asked = Asked(schema, param, f"Invalid schema for function '{name}'")
            await compiled(asked, body, compiler)
