"""How does a conversation become one text? Renders a checkpoint's Jinja chat template.

Knows nothing of tokens or files. Templates come from strangers: they run in Jinja's immutable
sandbox, with the names and filters that Hugging Face gives them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplateError(ValueError):
    """A conversation that the template refuses, or a template that fails on it; one line."""

    def __init__(self, problem: str) -> None:
        super().__init__(" ".join(problem.split()))


class ChatTemplate:
    """One compiled template. Raises ChatTemplateError when it is not valid Jinja."""

    def __init__(self, source: str) -> None:
        self.source = source
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ChatTemplateError(f"not a valid template: {error}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        """Return the text of a conversation. `variables` are further names it may read.

        Raises ChatTemplateError with the template's own words where it calls `raise_exception`,
        and for anything else that goes wrong in it.
        """
        names = {
            "documents": None,
            **variables,
            "messages": messages,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render(names)
        except Exception as error:  # a template is a program, and may fail in any way
            raise ChatTemplateError(str(error) or type(error).__name__) from error


class _GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}`, which marks replies for training: no effect."""

    tags = {"generation"}  # noqa: RUF012 - the attribute that jinja2 asks for

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller: Any) -> str:
        return caller()


def _to_json(value: Any, ensure_ascii: bool = False, **layout: Any) -> str:
    """Dump JSON; unlike Jinja's own filter it leaves HTML characters as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **layout)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(layout: str) -> str:
    return datetime.now().strftime(layout)
