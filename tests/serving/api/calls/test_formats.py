"""Calls are told from text in each format, however the text comes; nothing of a reply is lost."""

import json
from collections.abc import Sequence
from itertools import chain, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.api.calls.deltas import Arguments, CallBegins, Content, Delta, Outgoing
from serving.api.calls.formats import FORMATS, format_in_force
from serving.api.calls.incoming import Incoming
from serving.config import TOOL_CALL_PARSERS
from tests.support import tool_templates

Call = tuple[str, str]
"""The name of a function and its arguments."""

HERMES = '<tool_call>\n{"name": "f", "arguments": {"x": 1}}\n</tool_call>'
LLAMA = '{"name": "f", "parameters": {"x": 1}}'
LIST = '[TOOL_CALLS] [{"name": "f", "arguments": {"x": 1}}]'
NAMED = '[TOOL_CALLS]f[ARGS]{"x": 1}'
ONE = [("f", '{"x": 1}')]


def deltas(parser: str, parts: Sequence[str], only_first: bool = False) -> list[list[Delta]]:
    """What each part adds, and then the end."""
    incoming, out = Incoming(), Outgoing(only_first=only_first)
    reading = FORMATS[parser].parse(incoming, out)
    found: list[list[Delta]] = []
    for part in parts:
        incoming.add(part)
        next(reading, None)
        found.append(out.take())
    incoming.end()
    next(reading, None)
    return [*found, out.take()]


def parsed(parser: str, parts: Sequence[str], only_first: bool = False) -> tuple[str, list[Call]]:
    """The content and the calls; every call begins once, in order, before its arguments."""
    content, calls = "", list[Call]()
    for delta in chain.from_iterable(deltas(parser, parts, only_first)):
        match delta:
            case Content(text):
                content += text
            case CallBegins(index, name):
                assert index == len(calls)
                calls.append((name, ""))
            case Arguments(index, text):
                assert index == len(calls) - 1
                calls[-1] = (calls[-1][0], calls[-1][1] + text)
    return content, calls


@pytest.mark.parametrize(
    ("parser", "text", "content", "calls"),
    [
        ("hermes", HERMES, "", ONE),
        ("hermes", HERMES.replace("\n", ""), "", ONE),
        ("hermes", f"Let me look.\n{HERMES}", "Let me look.", ONE),
        ("hermes", f"{HERMES}\n{HERMES}\n", "", [*ONE, *ONE]),
        ("hermes", f"a {HERMES}\nb\n\n{HERMES} c ", "a\nb c ", [*ONE, *ONE]),
        ("llama3_json", LLAMA, "", ONE),
        ("llama3_json", f" \n{LLAMA}\n", "", ONE),
        ("llama3_json", f"<|python_tag|>{LLAMA}", "", ONE),
        ("llama3_json", f"Hm. <|python_tag|> {LLAMA}", "Hm.", ONE),
        ("llama3_json", f"{LLAMA}; {LLAMA};{LLAMA}", "", ONE * 3),
        ("llama3_json", '{"type": "function", ' + LLAMA[1:], "", ONE),
        ("mistral", LIST, "", ONE),
        ("mistral", LIST.replace(" ", ""), "", [("f", '{"x":1}')]),
        ("mistral", f"Well {LIST[:-1]}, {LIST[14:]}", "Well", [*ONE, *ONE]),
        ("mistral", NAMED, "", ONE),
        ("mistral", '[TOOL_CALLS]f{"x": 1}', "", ONE),
        ("mistral", '[TOOL_CALLS] f [CALL_ID]aB3[ARGS] {"x": 1}', "", ONE),
        ("mistral", NAMED * 2, "", [*ONE, *ONE]),
    ],
)
def test_what_models_write_is_read(parser: str, text: str, content: str, calls: list[Call]):
    assert parsed(parser, [text]) == (content, calls)
    assert parsed(parser, list(text)) == (content, calls)


TAGS = "<tool_call>{}</tool_call>"


@pytest.mark.parametrize(
    ("written", "calls"),
    [
        ('{"arguments": {"x": 1}, "name": "f"}', ONE),
        ('{"name": "f", "parameters": {"x": 1}}', ONE),
        ('{"name": "f", "arguments": "{\\"x\\": 1}"}', ONE),
        ('{"name": "f", "arguments": "{\\"x\\":\n1}"}', [("f", '{"x":\n1}')]),
        ('{"name": "f", "arguments": "x"}', [("f", '"x"')]),
        ('{"name": "f", "arguments": "[1]"}', [("f", '"[1]"')]),
        ('{"name": "f", "arguments": "\\ud800"}', [("f", '"\\ud800"')]),
        ('{"name": "f", "arguments": [1, "]"]}', [("f", '[1, "]"]')]),
        ('{"name": "f", "arguments": null}', [("f", "null")]),
        ('{"name": "f", "arguments": 12 }', [("f", "12")]),
        ('{"name": "f"}', [("f", "{}")]),
        ('{"id": "7", "name": "f", "arguments": {"x": 1}, "more": {"y": [2]}}', ONE),
        ('{"name": "g\\u0022", "arguments": {}}', [('g"', "{}")]),
        ('{"name": "made up!", "arguments": {}}', [("made up!", "{}")]),
        ('{ "name" :\t"f" , "arguments" :\n{"x": 1} }', ONE),
        ('{"name": "f", "arguments": {"x": "}\\\\\\"</tool_call>"}}',
         [("f", '{"x": "}\\\\\\"</tool_call>"}')]),
        # Broken inside its arguments, which are then the client's to refuse.
        ('{"name": "f", "arguments": {"x": 1,,}}', [("f", '{"x": 1,,}')]),
        # Without its last brace.
        ('{"name": "f", "arguments": {"x": 1}', ONE),
    ],
)  # fmt: skip
def test_an_object_is_read_as_it_was_meant(written: str, calls: list[Call]):
    text = TAGS.format(written)
    assert parsed("hermes", [text]) == ("", calls)
    assert parsed("hermes", list(text)) == ("", calls)


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        ("hermes", ""),
        ("hermes", " \n"),
        ("hermes", "a < b <tool_cal l>"),
        ("hermes", "<tool_call"),
        ("hermes", "ask for a <tool_call> "),
        ("hermes", TAGS.format("f(1)")),
        ("hermes", TAGS.format('{"name": 5, "arguments": {}}')),
        ("hermes", TAGS.format('{"name": "", "arguments": {}}')),
        ("hermes", TAGS.format('{"name": "\\x", "arguments": {}}')),
        ("hermes", TAGS.format('{"name": "\\ud800", "arguments": {}}')),
        ("hermes", TAGS.format('{"name" "f"}')),
        ("hermes", TAGS.format("{'name': 'f'}")),
        ("hermes", TAGS.format('{"name": "f", "arguments": }')),
        ("hermes", TAGS.format('{"arguments": {}}')),
        ("hermes", TAGS.format('{"name": "f", "name": "g"}')),
        ("hermes", TAGS.format('{"arguments": {}, "parameters": {}, "name": "f"}')),
        ("hermes", TAGS.format("[]")),
        ("hermes", TAGS.format("{}")),
        ("llama3_json", f"See: {LLAMA}"),
        ("llama3_json", '{"name": "Bob", "age": 3}'),
        ("llama3_json", '{"name": "Bob"}'),
        ("llama3_json", ' {"answer": 42} '),
        ("llama3_json", '<|python_tag|>search.call(query="x")'),
        ("llama3_json", "[1]; "),
        ("mistral", "[TOOL_CALL"),
        ("mistral", "[TOOL_CALLS]"),
        ("mistral", "[TOOL_CALLS] [] "),
        ("mistral", "[TOOL_CALLS] [7]"),
        ("mistral", "[TOOL_CALLS]f[ARGS] 7"),
        ("mistral", "[TOOL_CALLS]f[CALL_ID]x"),
        ("mistral", "[TOOL_CALLS]f g{}"),
        ("mistral", '[TOOL_CALLS]{"name": "f"}'),
        ("mistral", "[ARGS]{}"),
    ],
)
def test_what_is_no_call_stays_text(parser: str, text: str):
    assert parsed(parser, [text]) == (text, [])
    assert parsed(parser, list(text)) == (text, [])


@pytest.mark.parametrize(
    ("parser", "text", "content", "calls"),
    [
        ("hermes", f"{HERMES}{TAGS.format('oops')}", TAGS.format("oops"), ONE),
        ("hermes", f"{TAGS.format('oops')}{HERMES}", TAGS.format("oops"), ONE),
        ("hermes", f"<tool_call> {HERMES}", "<tool_call>", ONE),
        ("hermes", HERMES.replace("}}", "}}}"), "}\n</tool_call>", ONE),
        ("llama3_json", f"{LLAMA}; and then", "; and then", ONE),
        ("llama3_json", f"{LLAMA} done", " done", ONE),
        ("mistral", f"{LIST[:-1]}, 5] x", ", 5] x", ONE),
        ("mistral", f"{LIST} x", " x", ONE),
    ],
)
def test_what_is_broken_beside_a_call_is_text(
    parser: str, text: str, content: str, calls: list[Call]
):
    assert parsed(parser, [text]) == (content, calls)
    assert parsed(parser, list(text)) == (content, calls)


def parser_of(text: str) -> str:
    return {"<": "hermes", "{": "llama3_json"}.get(text[0], "mistral")


@pytest.mark.parametrize("text", [HERMES, LLAMA, LIST, NAMED])
def test_a_reply_that_is_cut_keeps_all_that_was_written(text: str):
    begins = text.index('{"x"')
    for end in range(len(text)):
        content, calls = parsed(parser_of(text), [text[:end]])
        if end <= begins:
            assert (content, calls) == (text[:end], [])
        else:
            assert (content, calls) == ("", [("f", text[begins : min(end, begins + 8)])])


@pytest.mark.parametrize("text", [HERMES, LLAMA, LIST, NAMED])
def test_only_calls_with_an_end_are_whole(text: str):
    for end, cut in ((text.index("}"), True), (text.index("}") + 1, False)):
        incoming, out = Incoming(), Outgoing(only_first=False)
        reading = FORMATS[parser_of(text)].parse(incoming, out)
        incoming.add(text[:end])
        incoming.end()
        next(reading, None)
        assert (out.calls, out.cut) == (1, cut)


@pytest.mark.parametrize("text", [HERMES, LLAMA, LIST, NAMED])
def test_what_has_been_handed_on_is_not_kept(text: str):
    incoming, out = Incoming(), Outgoing(only_first=False)
    reading = FORMATS[parser_of(text)].parse(incoming, out)
    for part in (text[: text.index("x")], *["x"] * 1000):
        incoming.add(part)
        next(reading, None)
    assert len(incoming._text) < 10


@pytest.mark.parametrize("parser", FORMATS)
def test_of_several_calls_only_the_first_is_reported_if_so_wanted(parser: str):
    text = {"hermes": HERMES * 2, "llama3_json": f"{LLAMA}; {LLAMA}", "mistral": LIST * 2}[parser]
    assert parsed(parser, list(text), only_first=True) == ("", ONE)
    assert parsed(parser, [text], only_first=True) == ("", ONE)


def test_text_goes_out_as_soon_as_it_can_be_no_call_any_more():
    parts = [
        "a",
        " ",
        "<",
        "b",
        "<tool_",
        "call>",
        '{"name": "f", ',
        '"arguments"',
        ": {",
        '"x',
        "}",
    ]
    found = deltas("hermes", parts)
    none: list[Delta] = []
    assert found[:4] == [[Content("a")], none, none, [Content(" <b")]]
    assert found[4:8] == [none] * 4
    assert found[8:] == [
        [CallBegins(0, "f"), Arguments(0, "{")],
        [Arguments(0, '"x')],
        [Arguments(0, "}")],  # of the string, which has no end
        none,
    ]


PIECES = st.sampled_from(
    [
        *(*HERMES.split(), HERMES, LLAMA, LIST, "<tool_call>", "</tool_call>", "<|python_tag|>"),
        *("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "f", "{", "}", "[", "]", '"', "\\", ":", ",", "1"),
        *('"name"', '"arguments"', '"parameters"', '"f"', '{"x": 1}', "é", "null", " ", "\n", "<"),
        *("|", "; "),
    ]
)
REPLIES = st.lists(PIECES, max_size=14).map("".join)
CUTS = st.lists(st.integers(0, 120), max_size=12)


def cut(text: str, places: list[int]) -> list[str]:
    at = sorted({min(place, len(text)) for place in places} | {0, len(text)})
    return [text[a:b] for a, b in pairwise(at)]


@given(st.sampled_from(list(FORMATS)), REPLIES, CUTS)
@example("hermes", HERMES, [3, 20, 44])
def test_what_is_found_does_not_depend_on_the_pieces(parser: str, text: str, places: list[int]):
    assert parsed(parser, cut(text, places)) == parsed(parser, [text])


@given(st.sampled_from(list(FORMATS)), REPLIES)
def test_nothing_is_made_up_and_nothing_repeated(parser: str, text: str):
    """Content and arguments are parts of the reply, in its order; without calls all of it."""
    content, calls = parsed(parser, [text])
    if not calls:
        assert content == text
    left = iter(text)
    assert all(character in left for character in content)
    at = 0
    for _, arguments in calls:
        if arguments in text[at:]:
            at = text.index(arguments, at) + len(arguments)
        else:  # a call without any, or with an object in a string
            assert arguments == "{}" or json.dumps(arguments) in text


NAMES = st.from_regex(r"[a-zA-Z0-9_-]{1,8}", fullmatch=True)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)
CALLS = st.lists(
    st.tuples(NAMES, st.dictionaries(st.text(max_size=4), JSON)), min_size=1, max_size=3
)


@given(CALLS, st.booleans(), st.booleans(), CUTS)
def test_whatever_is_called_comes_back(
    calls: list[tuple[str, dict]], compact: bool, escaped: bool, places: list[int]
):
    layout = (",", ":") if compact else (", ", ": ")
    texts = [(n, json.dumps(a, separators=layout, ensure_ascii=escaped)) for n, a in calls]
    objects = [f'{{"name": "{name}", "arguments": {text}}}' for name, text in texts]
    replies = {
        "hermes": "\n".join(f"<tool_call>\n{one}\n</tool_call>" for one in objects),
        "llama3_json": "; ".join(objects),
        "mistral": f"[TOOL_CALLS] [{', '.join(objects)}]",
    }
    for parser, reply in replies.items():
        assert parsed(parser, cut(reply, places)) == ("", texts)
    named = "".join(f"[TOOL_CALLS]{name}[ARGS]{text}" for name, text in texts)
    assert parsed("mistral", cut(named, places)) == ("", texts)


def test_the_settings_are_the_formats():
    assert ("auto", "none", *FORMATS) == TOOL_CALL_PARSERS


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (tool_templates.HERMES, "hermes"),
        (tool_templates.LLAMA, "llama3_json"),
        (tool_templates.MISTRAL_LIST, "mistral"),
        (tool_templates.MISTRAL_NAMED, "mistral"),
        ('Respond in the format {"name": function name, "parameters": dictionary}', "llama3_json"),
        ("<tool_call>\n<function=example>\n<parameter=x>", None),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", None),
        ("", None),
    ],
)
def test_a_template_tells_how_its_model_writes_calls(template: str, name: str | None):
    found = format_in_force("auto", template)
    assert (found and found.name) == name
    assert format_in_force("none", template) is None
    assert format_in_force("hermes", template) is FORMATS["hermes"]
