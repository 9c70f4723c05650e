"""Which texts does a grammar allow? Found out by trying, where a test has to know."""

from serving.api.tokenizer import Tokenizer
from serving.engine.grammars import Grammars


def grammars_over(tokenizer: Tokenizer) -> Grammars:
    """Grammars over all of a tokenizer's tokens."""
    pieces = [tokenizer.token_bytes(token) for token in range(tokenizer.vocab_size)]
    return Grammars(pieces, tokenizer.special_ids)
