"""What a grammar allows, by llguidance and by machines and lists written by hand."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine import grammars as module
from serving.engine.grammars import Grammars, Matcher
from serving.request import Grammar, GrammarError, GrammarKind
from tests.support.fake_tokenizer import FakeTokenizer
from tests.support.grammars import grammars_over
from tests.support.tiny_grammar import END, LIST, PIECES, allowed_after, grammars

TINY = grammars()
BYTES = grammars_over(FakeTokenizer())


def ids_of(matcher: Matcher) -> tuple[list[int], bool]:
    found = matcher.next_ids()
    assert found is not None
    words, complete = found
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little")).tolist(), complete


def after(grammar: Grammar, text: str) -> tuple[set[str], bool]:
    """The characters that may come after a text, and whether it may end there."""
    matcher = BYTES.start(grammar)
    assert matcher.consume(list(text.encode()))
    ids, complete = ids_of(matcher)
    return {chr(token) for token in ids if token < 128}, complete


def accepts(grammar: Grammar, text: str) -> bool:
    """Whether a text, byte by byte, is a whole reply by the grammar."""
    matcher = BYTES.start(grammar)
    for token in text.encode():
        if token not in ids_of(matcher)[0]:
            return False
        matcher.consume((token,))
    return ids_of(matcher)[1]


@settings(deadline=None)
@given(st.data())
def test_every_token_that_the_machine_allows_is_allowed_and_no_other(data: st.DataObject):
    matcher, reply = TINY.start(LIST), []
    for _ in range(data.draw(st.integers(0, 12))):
        wanted = allowed_after(reply)
        ids, complete = ids_of(matcher)
        assert (ids or [END], complete) == (wanted, wanted == [END])
        if complete:
            return
        reply.append(data.draw(st.sampled_from(wanted)))
        assert matcher.consume(reply[-1:])


def test_a_place_is_that_of_the_tokens_however_they_are_told():
    reply = [PIECES.index(piece) for piece in (b"[a", b"abc", b",", b"1,", b"17]")]
    whole = TINY.start(LIST)
    whole.consume(reply[:4])
    piecemeal = TINY.start(LIST)
    for token in reply[:4]:
        piecemeal.next_ids()  # to ask changes nothing
        piecemeal.consume((token,))
    assert ids_of(whole) == ids_of(piecemeal) == (allowed_after(reply[:4]), False)
    assert whole.consumed == piecemeal.consumed == 4


def test_what_a_grammar_forbids_leaves_no_place_and_says_why():
    matcher = TINY.start(LIST)
    assert not matcher.consume([PIECES.index(b"a")])
    assert matcher.next_ids() is None
    assert "doesn't satisfy the grammar" in matcher.problem
    assert "\n" not in matcher.problem


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "colour": {"enum": ["red", "green"]}},
    "required": ["n", "colour"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    "text",
    [
        '{"n":1,"colour":"red"}',
        '{"n": -17, "colour": "green"}',
        '{\n  "n": 0,\n  "colour": "red"\n}',
        '{\n\t"n": 0,\n\t"colour": "red"\n}',
    ],
)
def test_json_may_be_written_close_or_in_lines(text: str):
    assert accepts(Grammar(GrammarKind.JSON, json.dumps(SCHEMA)), text)


@pytest.mark.parametrize(
    "text",
    [
        '{"n":1}',
        '{"n":1.5,"colour":"red"}',
        '{"n":1,"colour":"blue"}',
        '{"n":1,"colour":"red","more":1}',
        ' {"n":1,"colour":"red"}',
        '{"n":1,"colour":"red"} ',
        '{"n":1,   "colour":"red"}',
        '{"n":1,\n\n"colour":"red"}',
    ],
)
def test_what_the_schema_forbids_and_endless_spaces_are_none(text: str):
    assert not accepts(Grammar(GrammarKind.JSON, json.dumps(SCHEMA)), text)


def test_a_schema_may_choose_its_own_spaces():
    own = {**SCHEMA, "x-guidance": {"whitespace_flexible": False}}
    assert not accepts(Grammar(GrammarKind.JSON, json.dumps(own)), '{"n": 1,"colour":"red"}')
    assert accepts(Grammar(GrammarKind.JSON, json.dumps(own)), '{"n":1,"colour":"red"}')


TOOL = """start: "<call>" body "</call>"
body: %json {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
"""


@pytest.mark.parametrize(
    ("grammar", "text", "no"),
    [
        (Grammar(GrammarKind.REGEX, "a/b+|ä"), "a/bb", "a/"),
        (Grammar(GrammarKind.REGEX, "a/b+|ä"), "ä", "a"),
        (Grammar(GrammarKind.REGEX, "x\ny"), "x\ny", "x y"),
        (Grammar(GrammarKind.CHOICE, '["yes", "no", "\\"\\n"]'), '"\n', "y"),
        (Grammar(GrammarKind.CHOICE, '["yes", "no"]'), "no", "yesno"),
        (Grammar(GrammarKind.LARK, TOOL), '<call>{"x": 5}</call>', '{"x": 5}'),
        (Grammar(GrammarKind.LARK, 'root ::= "a" b*\nb ::= [0-9]'), "a123", "b"),
    ],
)
def test_each_language_says_what_a_reply_is(grammar: Grammar, text: str, no: str):
    assert accepts(grammar, text)
    assert not accepts(grammar, no)


def test_forced_text_may_be_cut_into_any_tokens():
    hello = [i for i in range(300) if b"hello".startswith(FakeTokenizer().token_bytes(i) or b"?")]
    ids, _ = ids_of(BYTES.start(Grammar(GrammarKind.REGEX, "hello world")))
    assert ids == hello
    assert len(hello) > 1


@pytest.mark.parametrize("size", [299, 300, 318, 319, 320])
def test_what_ends_a_grammar_is_no_token(size: int):
    pieces = [FakeTokenizer().token_bytes(token) for token in range(size)]
    matcher = Grammars(pieces, []).start(Grammar(GrammarKind.REGEX, "a"))
    assert matcher.consume([ord("a")])
    assert ids_of(matcher) == ([], True)


def test_special_tokens_are_no_text():
    text = Grammar(GrammarKind.REGEX, "(?s:.)*")
    ids, complete = ids_of(BYTES.start(text))
    assert complete
    assert not FakeTokenizer.special_ids & set(ids)
    named = Grammar(GrammarKind.LARK, 'start: "a" <eos>')
    matcher = BYTES.start(named)
    matcher.consume([ord("a")])
    assert ids_of(matcher) == ([FakeTokenizer.eos_ids[0]], False)


@pytest.mark.parametrize(
    ("grammar", "why"),
    [
        (Grammar(GrammarKind.JSON, '{"type": "foo"}'), "Invalid type: foo"),
        (Grammar(GrammarKind.JSON, '{"not": {}}'), 'Unimplemented keys: ["not"]'),
        (Grammar(GrammarKind.JSON, '{"$ref": "#/x"}'), "Pointer '/x' does not exist"),
        (Grammar(GrammarKind.REGEX, "a("), "unclosed group"),
        (Grammar(GrammarKind.LARK, 'start: "a"\nx: ['), "line 2, column "),
        (Grammar(GrammarKind.LARK, "nonsense"), "cannot be read as GBNF"),
    ],
)
def test_what_cannot_be_compiled_says_why_in_one_line(grammar: Grammar, why: str):
    with pytest.raises(GrammarError) as raised:
        BYTES.start(grammar)
    assert why in str(raised.value)
    assert "\n" not in str(raised.value)


def test_thousands_of_texts_are_one_thing_to_follow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_ITEMS", 100)
    texts = [f"é {7919 * i}" for i in range(5000)]
    matcher = grammars_over(FakeTokenizer()).start(Grammar(GrammarKind.CHOICE, json.dumps(texts)))
    for token in texts[-1].encode():
        assert token in ids_of(matcher)[0]
        matcher.consume((token,))
    assert ids_of(matcher)[1]


def test_grammars_are_compiled_once_and_the_oldest_are_let_go(monkeypatch: pytest.MonkeyPatch):
    own = Grammars(PIECES, [END])
    compiled: list[str] = []
    compile_one = own._compile
    monkeypatch.setattr(own, "_compile", lambda g: (compiled.append(g.text), compile_one(g))[1])
    monkeypatch.setattr(module, "KEPT", 2)

    def start(*texts: str) -> list[str]:
        compiled.clear()
        for text in texts:
            own.start(Grammar(GrammarKind.REGEX, text))
        return list(compiled)

    assert start("a", "b", "a", "b") == ["a", "b"]
    assert start("c", "b", "c") == ["c"]
    assert start("a") == ["a"]
    own.forget(Grammar(GrammarKind.REGEX, "a"))
    assert start("a") == ["a"]


def test_replies_of_one_grammar_do_not_disturb_each_other():
    def reply(seed: int) -> bool:
        draw, matcher, said = np.random.default_rng(seed), TINY.start(LIST), []
        while (wanted := allowed_after(said)) != [END] and len(said) < 60:
            if ids_of(matcher)[0] != wanted:
                return False
            said.append(int(draw.choice(wanted)))
            matcher.consume(said[-1:])
        return True

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(reply, range(40)))
