"""Text from tokens does not depend on how the tokens arrive."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.api.detokenize import Detokenizer, StopStrings, TokenText
from tests.support.fake_tokenizer import EOS, FakeTokenizer

TEXT = TokenText(FakeTokenizer())
IDS = st.lists(st.integers(0, 299), max_size=30) | st.text(max_size=10).map(
    lambda text: FakeTokenizer().encode(text, add_special_tokens=False)
)


def cut(values: list, cuts: list[int]) -> list[list]:
    """Split at the given places, wherever they fall."""
    places = sorted({min(c, len(values)) for c in cuts} | {0, len(values)})
    return [values[a:b] for a, b in pairwise(places)]


@given(IDS, st.lists(st.integers(0, 30), max_size=6), st.booleans())
def test_pushes_and_flush_joined_are_the_whole_text(ids: list[int], cuts: list[int], skip: bool):
    detokenizer = Detokenizer(TEXT.table(skip_special=skip))
    out = "".join(detokenizer.push(part) for part in cut(ids, cuts)) + detokenizer.flush()
    assert out == TEXT.text(ids, skip_special=skip)
    assert out == FakeTokenizer().decode(ids, skip_special_tokens=skip)


@given(st.text(max_size=20))
def test_no_push_shows_part_of_a_character(text: str):
    detokenizer = Detokenizer(TEXT.table(skip_special=True))
    ids = list(text.encode("utf-8", "replace"))
    shown = ""
    for token in ids:
        shown += detokenizer.push([token])
        assert text.encode("utf-8", "replace").decode().startswith(shown)


def test_special_tokens_are_skipped_only_if_wanted():
    assert TEXT.text([97, EOS, 98], skip_special=True) == "ab"
    assert TEXT.text([97, EOS, 98], skip_special=False) == "a<eos>b"


LETTERS = st.text("ab", max_size=20)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3)


@given(st.lists(st.text("ab", max_size=3), max_size=12), STOPS, st.booleans())
def test_stop_strings_against_a_search_after_every_push(
    parts: list[str], stops: list[str], include: bool
):
    watcher = StopStrings(stops, include=include)
    out, seen = "", ""
    for part in parts:
        seen += part
        safe, hit = watcher.push(part)
        out += safe
        found = [(seen.find(stop), i) for i, stop in enumerate(stops) if stop in seen]
        if found:
            at, i = min(found)
            assert hit == stops[i]
            assert out == seen[: at + len(stops[i])] if include else out == seen[:at]
            return
        assert hit is None
        assert seen.startswith(out)
        held = seen[len(out) :]
        # Exactly what may still become a stop string is held back.
        assert not held or any(stop.startswith(held) for stop in stops)
        assert not any(
            stop.startswith(seen[k:]) for stop in stops for k in range(len(out)) if seen[k:]
        )
    assert out + watcher.flush() == seen
