"""Text survives tokens, bytes agree with decoding, and damaged files get one clear line."""

import json
from itertools import count
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from model.chat_template import ChatTemplateError
from model.errors import CheckpointError
from model.tokenizer import ChatTokenizer, load_tokenizer
from tests.model.checkpoints import copied, edit_json

CORPUS = ["the cat sat on the mat", "naïve café, 漢字 and 🙂", "def f(x):\n    return x + 1"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


def byte_level() -> Any:
    """A byte-level BPE, as the Llama 3 and Qwen families have."""
    tokenizer: Any = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=290,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken("<tool>", special=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def sentence_piece() -> Any:
    """A BPE with a mark for the space and bytes as a fallback, as Llama 2 and Mistral have."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "t", "h", "e", "▁t", "▁th", "▁the", "c", "a", "ca", "cat"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("c", "a"), ("ca", "t")]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    tokenizer: Any = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def write(directory: Path, tokenizer: Any, **settings: Any) -> Path:
    """Put a tokenizer into a copy of a golden checkpoint with room for its ids."""
    directory = copied("llama", directory)
    edit_json(directory / "config.json", lambda config: config.update(vocab_size=320))
    tokenizer.save(str(directory / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": {"content": "</s>"}}
    (directory / "tokenizer_config.json").write_text(json.dumps(names | settings))
    return directory


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return load_tokenizer(
        write(tmp_path_factory.mktemp("plain"), byte_level(), chat_template=TEMPLATE)
    )


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> ChatTokenizer:
    return load_tokenizer(write(tmp_path_factory.mktemp("pieces"), sentence_piece()))


@given(text=st.text(max_size=40))
def test_text_survives(plain: ChatTokenizer, text: str):
    ids = plain.encode(text, add_special_tokens=False)
    assert plain.decode(ids, skip_special_tokens=False) == text
    assert b"".join(map(plain.token_bytes, ids)).decode() == text


@given(text=st.text(max_size=40))
def test_text_survives_pieces(pieces: ChatTokenizer, text: str):
    ids = pieces.encode(text, add_special_tokens=False)
    found = b"".join(map(pieces.token_bytes, ids)).decode()
    assert found.removeprefix(" ") == pieces.decode(ids, skip_special_tokens=False)


@given(data=st.data())
def test_the_bytes_of_any_ids_are_their_text(plain: ChatTokenizer, data: st.DataObject):
    ids = data.draw(st.lists(st.integers(0, 300), max_size=20))
    found = b"".join(map(plain.token_bytes, ids)).decode("utf-8", "replace")
    assert found == plain.decode(ids, skip_special_tokens=False)


def test_bytes_of_single_tokens(plain: ChatTokenizer, pieces: ChatTokenizer):
    (space_the,) = pieces.encode("the", add_special_tokens=False)
    assert pieces.token_bytes(space_the) == b" the"
    assert pieces.token_bytes(3 + 0xE6) == b"\xe6"
    assert plain.token_bytes(plain.encode("<tool>", add_special_tokens=False)[0]) == b"<tool>"
    assert plain.token_bytes(319) == b""  # the model's range is larger than the tokenizer's


def test_special_tokens(plain: ChatTokenizer):
    ids = plain.encode("a</s>", add_special_tokens=True)
    assert ids[0] == 0
    assert ids[-1] == 1
    assert plain.decode(ids, skip_special_tokens=True) == "a"
    assert plain.decode(ids, skip_special_tokens=False) == "<s>a</s>"
    assert plain.special_ids == {0, 1}
    assert plain.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_sizes_and_end_tokens_are_the_models(plain: ChatTokenizer, pieces: ChatTokenizer):
    assert plain.vocab_size == 320
    assert plain.eos_ids == (1, 2)  # config.json's, the tokenizer's among them
    assert pieces.eos_ids == (1, 2)


def test_the_tokenizers_own_end_token_counts(tmp_path: Path):
    tokenizer = byte_level()
    found = load_tokenizer(write(tmp_path, tokenizer, eos_token="<tool>"))
    assert found.eos_ids == (1, 2, tokenizer.token_to_id("<tool>"))


def test_settings_of_the_training_do_not_cut_prompts(tmp_path: Path):
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)
    found = load_tokenizer(write(tmp_path, tokenizer))
    text = "the cat sat on the mat"
    ids = found.encode(text, add_special_tokens=False)
    assert found.decode(ids, skip_special_tokens=False) == text


def test_older_checkpoints_name_special_tokens_in_a_file_of_their_own(tmp_path: Path):
    directory = write(tmp_path, byte_level(), bos_token=None, eos_token="<nowhere>")
    names = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"}
    (directory / "special_tokens_map.json").write_text(json.dumps(names))
    found = load_tokenizer(directory)
    assert found.special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}
    newer = {"eos_token": "</s>", "added_tokens_decoder": {"1": {"content": "</s>"}}}
    (directory / "tokenizer_config.json").write_text(json.dumps(newer))
    assert load_tokenizer(directory).special_tokens == {"eos_token": "</s>"}


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def test_the_chat_template(plain: ChatTokenizer):
    text = plain.apply_chat_template(CHAT, add_generation_prompt=True)
    assert text == "<s><user>hi</s><assistant>yo</s><assistant>"
    text = plain.apply_chat_template(
        CHAT[:1], add_generation_prompt=False, tools=None, variables={"bos_token": "B"}
    )
    assert text == "B<user>hi</s>"


def test_a_template_file_wins(tmp_path: Path):
    directory = write(tmp_path, byte_level(), chat_template="from the config")
    (directory / "chat_template.jinja").write_text("from the file")
    found = load_tokenizer(directory)
    assert found.apply_chat_template(CHAT, add_generation_prompt=True) == "from the file"


def test_a_template_given_wins_over_all_of_the_checkpoints(tmp_path: Path):
    directory = write(tmp_path, byte_level(), chat_template="from the config")
    (directory / "chat_template.jinja").write_text("from the file")
    given = tmp_path / "given.jinja"
    given.write_text("given")
    found = load_tokenizer(directory, chat_template=given)
    assert found.apply_chat_template(CHAT, add_generation_prompt=True) == "given"
    given.write_text("{% if %}")
    with pytest.raises(CheckpointError, match=r"given\.jinja: chat_template: not a valid template"):
        load_tokenizer(directory, chat_template=given)
    with pytest.raises(CheckpointError, match=r"nowhere: cannot be read"):
        load_tokenizer(directory, chat_template=tmp_path / "nowhere")


def test_named_templates(tmp_path: Path):
    listed = [
        {"name": "default", "template": "plain"},
        {"name": "tool_use", "template": "tools {{ tools[0]['name'] }}"},
    ]
    found = load_tokenizer(write(tmp_path, byte_level(), chat_template=listed))
    assert found.apply_chat_template(CHAT, add_generation_prompt=True) == "plain"
    tools = [{"name": "f"}]
    assert found.apply_chat_template(CHAT, add_generation_prompt=True, tools=tools) == "tools f"
    assert found.template == "tools {{ tools[0]['name'] }}"


def test_named_templates_in_files(tmp_path: Path):
    directory = write(tmp_path, byte_level(), chat_template="from the config")
    (directory / "chat_template.jinja").write_text("plain")
    (directory / "additional_chat_templates").mkdir()
    tool_use = directory / "additional_chat_templates" / "tool_use.jinja"
    tool_use.write_text("tools {{ tools[0]['name'] }}")
    found = load_tokenizer(directory)
    assert found.apply_chat_template(CHAT, add_generation_prompt=True) == "plain"
    tools = [{"name": "f"}]
    assert found.apply_chat_template(CHAT, add_generation_prompt=True, tools=tools) == "tools f"
    tool_use.write_text("{% if %}")
    with pytest.raises(CheckpointError, match=r"tool_use\.jinja: chat_template: not a valid"):
        load_tokenizer(directory)


def test_no_template(pieces: ChatTokenizer):
    assert not pieces.has_chat_template
    assert pieces.template == ""
    with pytest.raises(ChatTemplateError, match="this checkpoint has no chat template"):
        pieces.apply_chat_template(CHAT, add_generation_prompt=True)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"chat_template": "{% if %}"}, "chat_template: not a valid template"),
        ({"chat_template": 7}, "chat_template: expected a string"),
        ({"chat_template": [{"name": "default"}]}, "chat_template.template: missing"),
        ({"eos_token": "<nowhere>"}, "eos_token: '<nowhere>' is no token"),
        ({"bos_token": 3}, "bos_token: expected a string"),
    ],
)
def test_bad_settings(tmp_path: Path, settings: dict[str, Any], problem: str):
    directory = write(tmp_path, byte_level(), **settings)
    with pytest.raises(CheckpointError) as caught:
        load_tokenizer(directory)
    assert str(caught.value).startswith(f"{directory / 'tokenizer_config.json'}: {problem}")
    assert "\n" not in str(caught.value)


def test_bad_tokenizer_files(tmp_path: Path):
    directory = write(tmp_path, byte_level())
    path = directory / "tokenizer.json"
    edit_json(directory / "config.json", lambda config: config.update(vocab_size=96))
    with pytest.raises(CheckpointError, match="the model's vocab_size is 96"):
        load_tokenizer(directory)
    edit_json(directory / "config.json", lambda config: config.update(vocab_size=320))
    edit_json(path, lambda config: config.update(decoder={"type": "CTC"} | CTC))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: decoder CTC is not supported"):
        load_tokenizer(directory)
    path.write_text('{"model": ')
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not a valid tokenizer"):
        load_tokenizer(directory)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file"):
        load_tokenizer(directory)


CTC = {"pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True}


def test_other_threads_run_while_a_long_text_is_cut(plain):
    """A server's other clients get their tokens meanwhile."""
    text, counted, cut = CORPUS[0] * 50_000, count(), Event()

    def counting() -> None:
        while not cut.is_set():
            next(counted)

    other = Thread(target=counting)
    other.start()
    before = next(counted)
    plain.encode(text, add_special_tokens=False)
    after = next(counted)
    cut.set()
    other.join()
    assert after - before > 1000
