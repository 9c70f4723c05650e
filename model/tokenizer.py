"""How does a checkpoint turn text and conversations into token ids, and back?

Reads `tokenizer.json` (the one description of how text is cut), `tokenizer_config.json` (names of
special tokens, chat template), `chat_template.jinja`, `additional_chat_templates/*.jinja` and, as
older checkpoints name their special tokens there, `special_tokens_map.json`. Knows nothing of
models beyond their config, and nothing of requests.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tokenizers import Tokenizer

from model.chat_template import ChatTemplate, ChatTemplateError
from model.checkpoint_files import (
    CHAT_TEMPLATE,
    CHAT_TEMPLATES,
    SPECIAL_TOKENS,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from model.config import load_config
from model.errors import CheckpointError
from model.json_fields import Fields, read_json_object
from model.token_bytes import spelling_decoder

_SPECIAL_NAMES = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
_DEFAULT, _WITH_TOOLS = "default", "tool_use"  # names in a config that lists several templates


class ChatTokenizer:
    """A checkpoint's tokenizer and chat templates. Immutable; safe to share between threads.

    `vocab_size`: token ids lie in [0, vocab_size), the model's range, which may be larger than the
    tokenizer's. `eos_ids` end a reply: those of the model's config, then the tokenizer's own.
    `special_ids` are left out of text that skips special tokens. `special_tokens` maps names such
    as `bos_token` to their text.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        templates: Mapping[str, ChatTemplate],
        special_tokens: Mapping[str, str],
        vocab_size: int,
        eos_ids: tuple[int, ...],
    ) -> None:
        self._tokenizer = tokenizer
        self._templates = dict(templates)
        self._bytes_of = spelling_decoder(tokenizer)
        self.special_tokens = MappingProxyType(dict(special_tokens))
        self.vocab_size = vocab_size
        self.eos_ids = eos_ids
        added = tokenizer.get_added_tokens_decoder()
        self.special_ids = frozenset(token for token, entry in added.items() if entry.special)

    @property
    def has_chat_template(self) -> bool:
        """Whether conversations can be rendered at all."""
        return bool(self._templates)

    @property
    def template(self) -> str:
        """The source of the template for conversations with tools; "" where there is none."""
        found = self._template(tools=True)
        return "" if found is None else found.source

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return the ids of a text, with the tokenizer's own BOS or EOS around it if asked.

        Other threads run meanwhile: `encode` would keep the interpreter to itself, for a second a
        megabyte, where a batch of one lets it go (and leaves out offsets, in half the time).
        """
        batch = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return batch[0].ids

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Return the text of ids; ids that the tokenizer does not know add nothing."""
        return self._tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token: int) -> bytes:
        """Return the UTF-8 bytes that a token adds inside a text, maybe part of a character.

        Ids that the tokenizer does not know give b"".
        """
        spelling = self._tokenizer.id_to_token(token)
        return b"" if spelling is None else self._bytes_of(spelling)

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> str:
        """Return the text of a conversation, which already contains its special tokens.

        `variables` are further names the template may read. Raises ChatTemplateError, one line,
        for what the template refuses and when the checkpoint has none.
        """
        template = self._template(tools=bool(tools))
        if template is None:
            raise ChatTemplateError("this checkpoint has no chat template")
        return template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            tools=tools,
            variables={**self.special_tokens, **variables},
        )

    def _template(self, *, tools: bool) -> ChatTemplate | None:
        names = (_WITH_TOOLS, _DEFAULT) if tools else (_DEFAULT,)
        return next((self._templates[name] for name in names if name in self._templates), None)


def load_tokenizer(
    checkpoint_dir: Path | str, *, chat_template: Path | str | None = None
) -> ChatTokenizer:
    """Read the tokenizer of a checkpoint directory, and the ids that end its replies.

    `chat_template` is a Jinja file to be used instead of all that the checkpoint has. Raises
    CheckpointError for a file that is missing or malformed, a template that is not valid, and a
    vocabulary that does not fit the model's.
    """
    directory = Path(checkpoint_dir)
    config = load_config(directory)
    path = directory / TOKENIZER
    tokenizer = _read_tokenizer(path)
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if largest >= config.vocab_size:
        raise CheckpointError(
            path, f"holds token id {largest}, but the model's vocab_size is {config.vocab_size}"
        )
    settings_path = directory / TOKENIZER_CONFIG
    settings = read_json_object(settings_path) if settings_path.exists() else {}
    fields = Fields(settings_path, settings, prefix="")
    special_tokens = _special_tokens(fields)
    older = directory / SPECIAL_TOKENS
    if "added_tokens_decoder" not in fields and older.exists():
        special_tokens |= _special_tokens(Fields(older, read_json_object(older), prefix=""))
    eos_ids = list(config.eos_ids)
    if "eos_token" in special_tokens:
        own = tokenizer.token_to_id(special_tokens["eos_token"])
        if own is None:
            raise fields.error("eos_token", f"{special_tokens['eos_token']!r} is no token")
        eos_ids.append(own)
    try:
        return ChatTokenizer(
            tokenizer,
            templates=_templates(directory, fields, chat_template),
            special_tokens=special_tokens,
            vocab_size=config.vocab_size,
            eos_ids=tuple(dict.fromkeys(eos_ids)),
        )
    except ValueError as error:
        raise CheckpointError(path, str(error)) from None


def _read_tokenizer(path: Path) -> Tokenizer:
    if not path.is_file():
        raise CheckpointError(path, "no such file (other tokenizer formats are not read)")
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for malformed files
        raise CheckpointError(path, f"not a valid tokenizer: {error}") from None
    # A file may carry settings of its training; prompts are never cut or filled up.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _special_tokens(fields: Fields) -> dict[str, str]:
    """Return the text of each named special token; entries are strings or objects with content."""
    found = {}
    for name in _SPECIAL_NAMES:
        if name in fields:
            nested = isinstance(fields.raw(name), dict)
            found[name] = fields.inside(name).text("content") if nested else fields.text(name)
    return found


def _templates(
    directory: Path, fields: Fields, instead: Path | str | None
) -> dict[str, ChatTemplate]:
    """Return the chat templates by name.

    They are `instead`, or what the checkpoint has in files, or else what stands in its config.
    """
    files = _template_files(directory) if instead is None else {_DEFAULT: Path(instead)}
    sources = {name: (path, _text(path)) for name, path in files.items()}
    if not sources:
        sources = {name: (fields.path, text) for name, text in _listed(fields).items()}
    found: dict[str, ChatTemplate] = {}
    for name, (path, source) in sources.items():
        try:
            found[name] = ChatTemplate(source)
        except ChatTemplateError as error:
            raise CheckpointError(path, f"chat_template: {error}") from None
    return found


def _template_files(directory: Path) -> dict[str, Path]:
    files = {path.stem: path for path in sorted(directory.glob(CHAT_TEMPLATES))}
    default = directory / CHAT_TEMPLATE
    return files | ({_DEFAULT: default} if default.exists() else {})


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(path, f"cannot be read: {error}") from None


def _listed(fields: Fields) -> dict[str, str]:
    """Return what `chat_template` of the config says: a template, or a list of named ones."""
    listed = fields.raw("chat_template")
    if listed is None:
        return {}
    if not isinstance(listed, list):
        return {_DEFAULT: fields.text("chat_template")}
    entries = (
        Fields(fields.path, entry if isinstance(entry, dict) else {}, prefix="chat_template.")
        for entry in listed
    )
    return {entry.text("name"): entry.text("template") for entry in entries}
