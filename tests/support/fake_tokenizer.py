"""A tokenizer you can compute by hand: bytes are ids, a few words have ids of their own."""

from collections.abc import Mapping, Sequence
from typing import Any

EOS, BOS, USER, ASSISTANT, SYSTEM = 256, 257, 258, 259, 260
SPECIALS = {EOS: "<eos>", BOS: "<bos>", USER: "<user>", ASSISTANT: "<assistant>", SYSTEM: "<sys>"}
WORDS = {261: "ab", 262: "abc", 263: "hello", 264: " world", 265: "é", 266: "\n\n"}


class TemplateRefused(Exception):
    pass


class FakeTokenizer:
    """Greedy longest match over words and specials, else one id per UTF-8 byte.

    The template writes `<role>content` and `<eos>` after every assistant message; it refuses the
    role `function` and takes the variable `shout` (upper case) and, if asked to, tools.
    """

    vocab_size = 300
    eos_ids: tuple[int, ...] = (EOS,)
    special_ids = frozenset(SPECIALS)
    template = ""

    def __init__(self, takes_tools: bool = True, trims: bool = False) -> None:
        self.takes_tools = takes_tools
        self.trims = trims
        self._pieces = sorted(
            ((text, i) for i, text in {**SPECIALS, **WORDS}.items()), key=lambda p: -len(p[0])
        )

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        ids = [BOS] if add_special_tokens else []
        at = 0
        while at < len(text):
            for piece, i in self._pieces:
                if text.startswith(piece, at):
                    ids.append(i)
                    at += len(piece)
                    break
            else:
                ids += text[at].encode("utf-8", "surrogatepass")
                at += 1
        return ids

    def token_bytes(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return {**SPECIALS, **WORDS}.get(token, "").encode()

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        kept = [i for i in ids if not (skip_special_tokens and i in SPECIALS)]
        return b"".join(map(self.token_bytes, kept)).decode("utf-8", "replace")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool,
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any],
    ) -> str:
        text = "<bos>"
        if tools and self.takes_tools:
            text += f"<sys>tools:{len(tools)}"
        for message in messages:
            if message["role"] == "function":
                raise TemplateRefused("role function is unknown to this template")
            content = message["content"].strip() if self.trims else message["content"]
            mark = {"system": "<sys>", "assistant": "<assistant>"}.get(message["role"], "<user>")
            text += mark + (content.upper() if variables.get("shout") else content)
            text += "<eos>" if message["role"] == "assistant" else ""
        return text + ("<assistant>" if add_generation_prompt else "")
