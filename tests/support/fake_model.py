"""What would a model say? A pure function in place of one, small enough to compute by hand.

The KV of a position is a number made of everything before it, so a page under a wrong prefix is as
wrong here as in a transformer. A sampled token is a number made of the whole history, the seed and
its place in the reply, or where there is a grammar the next one that it allows after the reply so
far. `reply_to` is the oracle: plain lists, no pages, no steps, no workers.
"""

from collections.abc import Sequence

from serving.request import FinishReason, Grammar, GrammarKind, TokenLogprobs, Turn

VOCABULARY = 50
GRAMMAR = Grammar(GrammarKind.REGEX, "made up")
NEVER = VOCABULARY
"""A token that no row samples: something must end a reply with a grammar."""


def kv_of(history: Sequence[int], token: int, position: int) -> int:
    """The KV of `token` at `position` after positions with the KV `history`."""
    return hash((hash(tuple(history)), token, position))


def sample(history: Sequence[int], seen: Sequence[int], seed: int, reply_index: int) -> int:
    """The token that follows KV `history`; `seen` is what penalties look at."""
    return hash((tuple(history), tuple(seen), seed, reply_index)) % VOCABULARY


def constrained(token: int, grammar: Grammar | None, reply: Sequence[int]) -> int:
    """The next token from `token` on that may follow a reply: a grammar allows one in three."""
    if grammar is None:
        return token
    while hash((*reply, token % VOCABULARY)) % 3:
        token += 1
    return token % VOCABULARY


def score(history: Sequence[int], token: int) -> TokenLogprobs:
    """The log-probabilities of `token` after KV `history`."""
    return TokenLogprobs(-float(hash((tuple(history), token)) % 1000), ())


def kv_of_prompt(tokens: Sequence[int]) -> list[int]:
    """The KV of every position of `tokens`."""
    history: list[int] = []
    for position, token in enumerate(tokens):
        history.append(kv_of(history, token, position))
    return history


def reply_to(turn: Turn) -> tuple[list[int], FinishReason]:
    """The whole reply to a turn, and why it ends."""
    tokens = list(turn.tokens)
    history = kv_of_prompt(tokens)
    reply: list[int] = []
    while True:
        token = sample(history, tokens, turn.sampling.seed, len(reply))
        token = constrained(token, turn.sampling.grammar, reply)
        history.append(kv_of(history, token, len(tokens)))
        tokens.append(token)
        reply.append(token)
        if token in turn.sampling.stop_ids:
            return reply, FinishReason.STOP
        if len(reply) == turn.sampling.max_tokens:
            return reply, FinishReason.LENGTH


def prompt_scores(turn: Turn) -> tuple[TokenLogprobs | None, ...]:
    """The log-probabilities of a turn's prompt; the first token has none."""
    history = kv_of_prompt(turn.tokens)
    scores = [score(history[:i], turn.tokens[i]) for i in range(1, turn.prompt_len)]
    return (None, *scores)


def reply_scores(turn: Turn, reply: Sequence[int]) -> list[TokenLogprobs]:
    """The log-probabilities of a reply's tokens."""
    history = kv_of_prompt([*turn.tokens, *reply])
    start = turn.prompt_len
    return [score(history[: start + i], token) for i, token in enumerate(reply)]
