"""The load generator's reader: the same response, however the network cuts it."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.http_response import ProtocolError, ResponseReader

LENGTH = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    b"9\r\ndata: a\n\n\r\n10\r\ndata: [DONE]\n\nab\r\n0\r\n\r\n"
)


def read(data: bytes, cuts: list[int]) -> ResponseReader:
    reader = ResponseReader()
    edges = [0, *sorted(cuts), len(data)]
    done = [reader.feed(data[a:b]) for a, b in pairwise(edges) if a < b]
    assert done == [False] * (len(done) - 1) + [True]
    return reader


@given(st.lists(st.integers(1, len(LENGTH) - 1), unique=True))
def test_a_body_with_a_length(cuts: list[int]):
    reader = read(LENGTH, cuts)
    assert (reader.status, bytes(reader.body)) == (200, b"hello")


@given(st.lists(st.integers(1, len(CHUNKED) - 1), unique=True))
def test_a_body_in_chunks(cuts: list[int]):
    reader = read(CHUNKED, cuts)
    assert (reader.status, bytes(reader.body)) == (200, b"data: a\n\ndata: [DONE]\n\nab")


def test_an_empty_body_is_done_with_its_head():
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
    assert reader.status == 404


def test_a_chunk_size_may_have_an_extension():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
    reader = ResponseReader()
    assert reader.feed(head + b"2;x=1\r\nhi\r\n0\r\n\r\n")
    assert bytes(reader.body) == b"hi"


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"SMTP ready\r\n\r\n", "not a status line"),
        (b"HTTP/1.1 200 OK\r\nserver: x\r\n\r\n", "neither a length nor chunks"),
        (LENGTH + b"more", "after the end"),
        (CHUNKED + b"HTTP/1.1 200 OK", "after the end"),
        (CHUNKED.replace(b"9\r\n", b"zz\r\n", 1), "not a chunk size"),
        (CHUNKED.replace(b"9\r\n", b"4\r\n", 1), "longer than it said"),
    ],
)
def test_other_bytes_are_refused(data: bytes, problem: str):
    with pytest.raises(ProtocolError, match=problem):
        ResponseReader().feed(data)


def test_nothing_may_follow_a_whole_response():
    reader = ResponseReader()
    reader.feed(LENGTH)
    with pytest.raises(ProtocolError, match="after the end"):
        reader.feed(b"x")
