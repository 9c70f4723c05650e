"""How does the demo model's text become tokens?

A byte-level BPE, so that any text survives the round trip, in which every digit is one token. Each
role and the end of a message are special tokens, so text never merges across a message's edge: the
prompt of a next turn starts exactly with the last prompt, the reply's tokens and the end token.
Knows nothing of tasks: the corpus is an argument.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

PAD, SYSTEM, USER, ASSISTANT, END = SPECIALS = (
    "<|pad|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ('system', 'user', 'assistant') -%}"
    "{{ raise_exception('Roles are system, user and assistant, not ' ~ message['role']) }}"
    "{%- endif -%}"
    "{{ '<|' ~ message['role'] ~ '|>' ~ message['content'] ~ '<|end|>' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}"
)


def train_tokenizer(corpus: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """Learn the merges of a byte-level BPE with single digits from texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def token_id(tokenizer: Tokenizer, token: str) -> int:
    """Return a special token's id; raises ValueError if the tokenizer has no such token."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no token {token!r}")
    return found


def encode_prompt(tokenizer: Tokenizer, messages: Iterable[tuple[str, str]]) -> list[int]:
    """Return the token ids of the chat template with the generation prompt.

    `messages` are (role, content) pairs.
    """
    ids: list[int] = []
    for role, content in messages:
        ids += [token_id(tokenizer, f"<|{role}|>"), *tokenizer.encode(content).ids]
        ids.append(token_id(tokenizer, END))
    return [*ids, token_id(tokenizer, ASSISTANT)]
