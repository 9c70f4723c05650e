"""Events come out whole, wherever the bytes were cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serving.replay.events import EventReader

STREAM = (
    b": a comment\n\n"
    b'data: {"text":"one"}\n\n'
    b"event: error\r\ndata:two\r\n\r\n"
    + 'data: {"text":"a\u2028b\x85c"}\n\n'.encode()
    + b"data: [DONE]\n\n"
)
EVENTS = [b'{"text":"one"}', b"two", '{"text":"a\u2028b\x85c"}'.encode(), b"[DONE]"]


@given(st.lists(st.integers(0, len(STREAM))))
def test_events_do_not_depend_on_where_bytes_were_cut(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    reader, found = EventReader(), []
    for begin, end in pairwise(edges):
        found += reader.feed(STREAM[begin:end])
    assert found == EVENTS


def test_an_event_is_out_as_soon_as_its_line_ends():
    reader = EventReader()
    assert reader.feed(b"data: 1") == []
    assert reader.feed(b"2\ndata: 3\nda") == [b"12", b"3"]
    assert reader.feed(b"ta: 4") == []
