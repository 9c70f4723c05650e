"""What may a reply look like? `response_format` and `structured_outputs` become a grammar.

Knows nothing of tokens or of how a grammar is followed.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from serving.api.errors import bad_request
from serving.api.schemas import GenerationBody
from serving.request import Grammar, GrammarKind

MAX_CHARACTERS = 131_072
"""Of a grammar's text: more than any schema that people write, and soon read."""

NOT_COMPILED = ("invalid_json_schema", "invalid_grammar")
"""What errors are called if a grammar does not compile: one that is a schema, and any other."""

ANY_OBJECT = '{"type": "object"}'
_FORMAT, _OUTPUTS = "response_format", "structured_outputs"


class Compiler(Protocol):
    """What knows whether a grammar can be followed."""

    async def check(self, grammar: Grammar) -> None:
        """Raise ValueError, with one line that says why, if it cannot."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """A grammar, the field it was asked for in, and how errors name it."""

    grammar: Grammar
    param: str
    name: str

    @property
    def is_schema(self) -> bool:
        """Whether it was written as a JSON schema."""
        return self.grammar.kind is GrammarKind.JSON


async def structured(body: GenerationBody, compiler: Compiler | None) -> Grammar | None:
    """Return the grammar that a request asks for, if any: `asked_for`, and `compiled`."""
    return await compiled(asked_for(body), body, compiler)


async def compiled(
    asked: Asked | None, body: GenerationBody, compiler: Compiler | None
) -> Grammar | None:
    """Return the grammar once it has been seen to compile.

    Raises a 400 that says what is wrong with it. `compiler` None: there is no tokenizer, so there
    is no text that could follow one.
    """
    if asked is None:
        return None
    if body.ignore_eos:
        message = f"`ignore_eos` and `{asked.param}` exclude each other: it says where replies end."
        raise bad_request(message, "ignore_eos")
    if compiler is None:
        message = (
            f"This model has no tokenizer: replies have no text to which `{asked.param}` fits."
        )
        raise bad_request(message, asked.param, "no_tokenizer")
    if len(asked.grammar.text) > MAX_CHARACTERS:
        message = f"The grammar that `{asked.param}` asks for exceeds {MAX_CHARACTERS} characters."
        raise bad_request(message, asked.param)
    try:
        await compiler.check(asked.grammar)
    except ValueError as error:
        code = NOT_COMPILED[0 if asked.is_schema else 1]
        raise bad_request(f"{asked.name}: {error}", asked.param, code) from None
    return asked.grammar


def asked_for(body: GenerationBody) -> Asked | None:
    """Return what a request asks for, or None; raises a 400 for what cannot be asked."""
    by_format = None if body.response_format is None else _of_format(body.response_format)
    by_output = None if body.structured_outputs is None else _of_outputs(body.structured_outputs)
    if by_format is not None and by_output is not None:
        raise bad_request(f"`{_FORMAT}` and `{_OUTPUTS}` exclude each other.", _OUTPUTS)
    return by_format or by_output


def _of_format(wanted: Mapping[str, Any]) -> Asked | None:
    match wanted.get("type"):
        case "text":
            return None
        case "json_object":
            return Asked(Grammar(GrammarKind.JSON, ANY_OBJECT), _FORMAT, f"`{_FORMAT}`")
        case "json_schema":
            return _of_schema(wanted.get("json_schema"))
        case _:
            kinds = "`text`, `json_object` or `json_schema`"
            raise bad_request(f"`{_FORMAT}.type` must be {kinds}.", _FORMAT)


def _of_schema(described: Any) -> Asked:
    """OpenAI's form: a name, the schema, and `strict`, which every schema is here."""
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        message = f"`{_FORMAT}.json_schema.schema` must be there: a JSON schema, as an object."
        raise bad_request(message, f"{_FORMAT}.json_schema")
    name = described.get("name")
    if not isinstance(name, str):
        message = f"`{_FORMAT}.json_schema.name` must be there, and a text."
        raise bad_request(message, f"{_FORMAT}.json_schema.name")
    title = f"Invalid schema for response_format '{name[:64]}'"
    return Asked(Grammar(GrammarKind.JSON, _json(described["schema"], _FORMAT)), _FORMAT, title)


def _of_outputs(wanted: Mapping[str, Any]) -> Asked:
    """vLLM's form: exactly one of the languages, or `json_object`."""
    given = {key: value for key, value in wanted.items() if value not in (None, False)}
    forms = ("json", "json_object", "regex", "choice", "grammar")
    if len(given) != 1 or not given.keys() <= set(forms):
        message = f"`{_OUTPUTS}` must have exactly one of {', '.join(forms)}, and nothing else."
        raise bad_request(message, _OUTPUTS)
    ((form, value),) = given.items()
    if form == "json_object" and value is True:
        return Asked(Grammar(GrammarKind.JSON, ANY_OBJECT), _OUTPUTS, f"`{_OUTPUTS}`")
    kind, text = _written(form, value)
    return Asked(Grammar(kind, text), _OUTPUTS, f"Invalid {form} for {_OUTPUTS}")


def _written(form: str, value: Any) -> tuple[GrammarKind, str]:
    match form, value:
        case "json", str():
            return GrammarKind.JSON, _json(_read(value), _OUTPUTS)
        case "json", dict():
            return GrammarKind.JSON, _json(value, _OUTPUTS)
        case (("regex" | "grammar"), str()) if value:
            return GrammarKind(form), value
        case "choice", list() if value and all(isinstance(text, str) for text in value):
            return GrammarKind.CHOICE, _json(value, _OUTPUTS)
    kinds = {
        "json": "a JSON schema, as an object or its text",
        "json_object": "true",
        "choice": "a list of texts",
        "regex": "a text that is not empty",
        "grammar": "a text that is not empty",
    }
    message = f"`{_OUTPUTS}.{form}` must be {kinds[form]}."
    raise bad_request(message, _OUTPUTS)


def _read(text: str) -> dict[str, Any]:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise bad_request(f"`{_OUTPUTS}.json` is not valid JSON: {error}.", _OUTPUTS) from None
    if not isinstance(schema, dict):
        raise bad_request(f"`{_OUTPUTS}.json` must be a JSON schema, as an object.", _OUTPUTS)
    return schema


def _json(value: Any, param: str) -> str:
    """Write a value as a request brought it; numbers beyond all bounds have no JSON."""
    try:
        return json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise bad_request(f"`{param}`: {error}.", param) from None
