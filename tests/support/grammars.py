"""Which texts does a grammar allow? Found out by trying, where a test has to know."""

from dataclasses import dataclass

from serving.api.tokenizer import Tokenizer
from serving.engine.grammars import Grammars
from serving.request import Grammar


@dataclass(frozen=True)
class Untried:
    """Checks grammars in the test's own process, which those of tests do not break."""

    grammars: Grammars

    async def check(self, grammar: Grammar) -> None:
        self.grammars.check(grammar)


def grammars_over(tokenizer: Tokenizer) -> Grammars:
    """Grammars over all of a tokenizer's tokens."""
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    return Grammars(pieces, tokenizer.special_ids)
