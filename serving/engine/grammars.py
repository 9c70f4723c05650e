"""Which replies does a grammar allow? Grammars over one vocabulary, compiled by llguidance.

The one place that knows that library. Knows nothing of slots, steps or requests.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from threading import Lock
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper, regex_to_lark
from llguidance.gbnf_to_lark import any_to_lark
from numpy.typing import NDArray

from model.id_masks import mask_words
from serving.request import Grammar, GrammarError, GrammarKind

KEPT = 64
"""Compiled grammars that are kept: enough for the schemas that clients of one server repeat."""

MOST_STATES = 50_000
"""States of a grammar's lexer, of 1 to 2 kB each (by its authors); it makes them as replies come to
them. A schema of 632 lines has between one and two thousand after a whole reply."""

MOST_ITEMS = 20_000
"""What a grammar's parser may have open at once: some four for each property of an object that may
come next, so that a thousand may. Up to a few milliseconds a mask, 30 at the limit."""

SPACE = r" |\n {0,20}|\n\t{0,8}"
"""Where JSON may have spaces: one, or a line end and an indentation. A model that has seen little
JSON would else, now and then, go on with spaces until its reply is cut."""

_NOTHING_FOLLOWS = "NoExtensionBias"
"""What llguidance says where no token may come and the text may not end."""

_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): (?:failed to compile JSON schema: )?")


class Grammars:
    """Compiles grammars over one vocabulary. Safe to share between threads.

    What a grammar forces may be cut into tokens in any way: the model chooses, as everywhere.
    """

    def __init__(self, pieces: Sequence[bytes], special_ids: Collection[int]) -> None:
        """`pieces` [V] are the bytes of each token; special ones are no part of any text.

        Takes about 0.3 s for 128,000 tokens.
        """
        self.vocab_size = len(pieces)
        self.pieces = tuple(pieces)
        self.special_ids = frozenset(special_ids)
        self._tokenizer = LLTokenizer(TokenizerWrapper(_Vocabulary(pieces, special_ids)))
        self._limits = LLParserLimits(
            max_lexer_states=MOST_STATES, max_items_in_row=MOST_ITEMS, verbose_errors=False
        )
        self._compiled: OrderedDict[Grammar, LLMatcher] = OrderedDict()
        self._lock = Lock()

    def start(self, grammar: Grammar) -> "Matcher":
        """Return a reply's place in a grammar before its first token; GrammarError if it has none.

        Takes microseconds if the grammar is kept, milliseconds if not.
        """
        with self._lock:
            compiled = self._compiled.get(grammar)
            if compiled is not None:
                self._compiled.move_to_end(grammar)
        if compiled is None:
            compiled = self._compile(grammar)
            with self._lock:
                self._compiled[grammar] = compiled
                while len(self._compiled) > KEPT:
                    self._compiled.popitem(last=False)
        return Matcher(compiled.deep_copy(), self.vocab_size)

    def check(self, grammar: Grammar) -> None:
        """Raise GrammarError if a grammar does not compile, or allows not even a first token."""
        matcher = self.start(grammar)
        if matcher.next_ids() is None:
            nothing = matcher.problem == _NOTHING_FOLLOWS
            why = "allows no text at all" if nothing else f"is too complex: {matcher.problem}"
            raise GrammarError(f"it {why}")

    def keeps(self, grammar: Grammar) -> bool:
        """Whether a grammar is there, compiled."""
        with self._lock:
            return grammar in self._compiled

    def forget(self, grammar: Grammar) -> None:
        """Compile a grammar anew the next time: what replies came to may have filled its lexer."""
        with self._lock:
            self._compiled.pop(grammar, None)

    def _compile(self, grammar: Grammar) -> LLMatcher:
        lark = LLMatcher.grammar_from_lark(f'{_lark(grammar)}\n%llguidance {{"no_forcing": true}}')
        compiled = LLMatcher(self._tokenizer, lark, log_level=0, limits=self._limits)
        if compiled.is_error():
            raise GrammarError(_one_line(compiled.get_error(), grammar.kind))
        return compiled


class Matcher:
    """One reply's place in a grammar: a function of the grammar and of the tokens consumed."""

    def __init__(self, matcher: LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._words = np.zeros(mask_words(vocab_size + 1), np.uint32)
        self._end = vocab_size
        self.consumed = 0

    def consume(self, tokens: Sequence[int]) -> bool:
        """Go on with tokens; False if the grammar does not allow one of them."""
        self.consumed += len(tokens)
        return self._matcher.consume_tokens(list(tokens))

    def next_ids(self) -> tuple[NDArray[np.uint32], bool] | None:
        """Return what may come next as a mask, u32 [ceil(V / 32)], and whether the reply may end.

        None if that cannot be said: what was consumed is not allowed, or takes too long to match.
        """
        words = self._words
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.is_error():
            return None
        word, bit = divmod(self._end, 32)
        complete = bool(words[word] >> np.uint32(bit) & 1)
        words[word] &= np.uint32((1 << bit) - 1)
        return words[: mask_words(self._end)], complete

    @property
    def problem(self) -> str:
        """Say in one line what is wrong with what was consumed; empty if nothing is."""
        return self._matcher.get_error().partition("\n")[0]


class _Vocabulary:
    """The tokens as llguidance wants to be told of them, with one more that ends a reply.

    That one is no token of the model's: which of those end a reply is for whoever asked to say.
    """

    bos_token_id = None

    def __init__(self, pieces: Sequence[bytes], special_ids: Collection[int]) -> None:
        self.eos_token_id = len(pieces)
        self.tokens = [*pieces, b"end of the grammar"]
        self.special_token_ids = [*sorted(special_ids), len(pieces)]

    def __call__(self, text: bytes) -> list[int]:
        """Cut a text into tokens: nothing is forced, so nobody asks for it."""
        raise NotImplementedError


def _lark(grammar: Grammar) -> str:
    """Write any grammar in Lark; raises GrammarError for what cannot even be read."""
    match grammar.kind:
        case GrammarKind.JSON:
            schema: dict[str, Any] = json.loads(grammar.text)
            schema.setdefault("x-guidance", {"whitespace_pattern": SPACE})
            return f"start: %json {json.dumps(schema)}"
        case GrammarKind.REGEX:
            return f"start: /{regex_to_lark(grammar.text, '')}/"
        case GrammarKind.CHOICE:
            # One lexeme: as many as there are texts would be more than the parser follows at once.
            texts = " | ".join(json.dumps(text) for text in json.loads(grammar.text))
            return f"start: TEXT\nTEXT: {texts}"
        case GrammarKind.LARK:
            try:
                return any_to_lark(grammar.text)
            except Exception as error:  # the library raises whatever its parser trips over
                raise GrammarError(f"cannot be read as GBNF: {error}") from error


def _one_line(problem: str, kind: GrammarKind) -> str:
    """Take what matters out of llguidance's message, which shows the whole text with marks."""
    lines = problem.splitlines() or [""]
    said = next((line for line in lines if line.startswith("error: ")), None)
    place = _PLACE.match(lines[0])
    if place is None:
        return said or lines[0]
    why = (said or lines[0][place.end() :]).removeprefix("error: ")
    return f"line {place[1]}, column {place[2]}: {why}" if kind is GrammarKind.LARK else why
