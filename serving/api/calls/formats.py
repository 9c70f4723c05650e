"""How do models write calls? One parser for each format, and which of them a template speaks.

A parser is a generator over the incoming text (`Incoming`). What is not a call is handed on exactly
as written, but for whitespace beside a call. Knows nothing of tokens, of ids or of HTTP.
"""

from collections.abc import Callable
from dataclasses import dataclass

from serving.api.calls.call_object import CallObject
from serving.api.calls.deltas import Outgoing
from serving.api.calls.incoming import Incoming, Reading

Parser = Callable[[Incoming, Outgoing], Reading[None]]

HERMES_BEGIN, HERMES_END = "<tool_call>", "</tool_call>"
PYTHON_TAG = "<|python_tag|>"
MISTRAL_CALLS, MISTRAL_ID, MISTRAL_ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


@dataclass(frozen=True, slots=True)
class CallFormat:
    """A format: its parser, the markers that may be special tokens, and how it spells ids.

    With `short_ids` its chat templates take ids of nine letters and digits only.
    """

    name: str
    parse: Parser
    markers: tuple[str, ...]
    short_ids: bool


def hermes(incoming: Incoming, out: Outgoing) -> Reading[None]:
    """`<tool_call>{"name": ..., "arguments": ...}</tool_call>`, any number, beside text."""
    called = False
    while (yield from incoming.content_before(HERMES_BEGIN, out.say, after_call=called)):
        called = yield from CallObject(incoming, out).read(needs_arguments=False)
        if called:
            yield from incoming.takes(HERMES_END, may_be_cut=True)
        else:
            out.say(incoming.marked())


def llama3_json(incoming: Incoming, out: Outgoing) -> Reading[None]:
    """`{"name": ..., "parameters": ...}`, several with `;` between, from the reply's beginning on.

    Or behind `<|python_tag|>`, wherever that stands. Replies may be other JSON: only an object with
    a name and arguments is a call.
    """
    incoming.mark()
    yield from incoming.takes(PYTHON_TAG)
    called = yield from _objects(incoming, out, separator=";", needs_arguments=True)
    while (yield from incoming.content_before(PYTHON_TAG, out.say, after_call=called)):
        called = yield from _objects(incoming, out, separator=";", needs_arguments=True)


def mistral(incoming: Incoming, out: Outgoing) -> Reading[None]:
    """`[TOOL_CALLS] [{"name": ..., "arguments": ...}, ...]`, or `[TOOL_CALLS]name[ARGS]{...}`.

    In the newer form every call has its marker; `[ARGS]` may be missing, and `[CALL_ID]` with an id
    stand before it.
    """
    called = False
    while (yield from incoming.content_before(MISTRAL_CALLS, out.say, after_call=called)):
        if (yield from incoming.takes("[")):
            called = yield from _objects(incoming, out, separator=",", needs_arguments=False)
            if called:
                yield from incoming.takes("]")
        else:
            called = yield from _named(incoming, out)


def _objects(
    incoming: Incoming, out: Outgoing, *, separator: str, needs_arguments: bool
) -> Reading[bool]:
    """Read calls behind a mark, as objects; return whether the last object was a call.

    If it was none, what was read of it is handed on, from the mark or the separator on.
    """
    while (yield from CallObject(incoming, out).read(needs_arguments=needs_arguments)):
        incoming.mark()
        if not (yield from incoming.takes(separator)):
            return True
    out.say(incoming.marked())
    return False


def _named(incoming: Incoming, out: Outgoing) -> Reading[bool]:
    """Read a call whose name stands before its object; if it is none, hand on what was read."""
    name = yield from incoming.word()
    if name and (yield from incoming.takes(MISTRAL_ID)):
        yield from incoming.word()  # the model's own id: ours are unique
    if name:
        yield from incoming.takes(MISTRAL_ARGUMENTS)
    if not name or (yield from incoming.ahead()) != "{":
        out.say(incoming.marked())
        return False
    incoming.unmark()
    out.begin(name)
    out.cut = not (yield from incoming.value(out.argue))
    return True


FORMATS = {
    one.name: one
    for one in (
        CallFormat("hermes", hermes, (HERMES_BEGIN, HERMES_END), short_ids=False),
        CallFormat("llama3_json", llama3_json, (PYTHON_TAG,), short_ids=False),
        CallFormat(
            "mistral", mistral, (MISTRAL_CALLS, MISTRAL_ID, MISTRAL_ARGUMENTS), short_ids=True
        ),
    )
}
AUTO, NONE = "auto", "none"


def format_in_force(parser: str, template: str) -> CallFormat | None:
    """Return the format of a `--tool-call-parser`; `auto`: the one that the template speaks.

    `template` is the source of the chat template, "" where there is none. None: calls stay text.
    """
    if parser != AUTO:
        return None if parser == NONE else FORMATS[parser]
    if MISTRAL_CALLS in template:
        return FORMATS["mistral"]
    if HERMES_BEGIN in template:
        # With these the tags hold XML (Qwen3-Coder), which is not read here.
        return None if "<function=" in template else FORMATS["hermes"]
    if PYTHON_TAG in template or '{"name": function name, "parameters":' in template:
        return FORMATS["llama3_json"]
    return None
