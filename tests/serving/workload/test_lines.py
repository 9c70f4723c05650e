"""Lines of plain and compressed files, and what is said of those that cannot be read."""

import subprocess
from pathlib import Path

import pytest

from serving.workload.lines import (
    InOrder,
    Line,
    Once,
    Skipped,
    count,
    json_object,
    listed,
    mapping,
    name_of,
    number,
    only,
    read_lines,
)
from serving.workload.session import BadLine, WorkloadError

HERE = Line(Path("f"), 3, "")


def compressed(path: Path, content: bytes) -> bytes:
    command = ["zstd", "-qc"]
    data = subprocess.run(command, input=content, capture_output=True, check=True).stdout
    path.write_bytes(data)
    return data


def texts(path: Path) -> list[tuple[int, str]]:
    return [(line.number, line.text) for line in read_lines(path)]


CONTENT = "\ufeffone\r\n\n  \ntwo \u2028 still two\rand still\nlast".encode()
LINES = [(1, "one"), (4, "two \u2028 still two\rand still"), (5, "last")]


def test_lines_end_with_a_newline_only_and_blank_ones_count(tmp_path: Path):
    path = tmp_path / "f.txt"
    path.write_bytes(CONTENT)
    assert texts(path) == LINES
    assert next(read_lines(path)).where == f"{path}:1"


def test_compressed_files_have_the_same_lines(tmp_path: Path):
    path = tmp_path / "f.txt.zst"
    compressed(path, CONTENT)
    assert texts(path) == LINES


@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_without_text_is_empty(tmp_path: Path, content: bytes):
    for name in ("f.txt", "f.txt.zst"):
        path = tmp_path / name
        path.write_bytes(content)
        if name.endswith(".zst"):
            compressed(path, content)
        with pytest.raises(WorkloadError) as caught:
            texts(path)
        assert str(caught.value) == f"{path}: the file is empty"


@pytest.mark.parametrize("name", ["none.txt", "none.txt.zst"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str):
    path = tmp_path / name
    with pytest.raises(WorkloadError) as caught:
        texts(path)
    assert str(caught.value) == f"{path}: cannot be read (No such file or directory)"


@pytest.mark.parametrize("name", ["folder", "folder.zst"])
def test_a_folder_is_no_file(tmp_path: Path, name: str):
    path = tmp_path / name
    path.mkdir()
    with pytest.raises(WorkloadError) as caught:
        texts(path)
    assert str(caught.value) == f"{path}: cannot be read (Is a directory)"


def test_bytes_that_are_no_text_have_a_line_number(tmp_path: Path):
    for name in ("f.txt", "f.txt.zst"):
        path = tmp_path / name
        path.write_bytes(b"good\n\xff\xfe\n")
        if name.endswith(".zst"):
            compressed(path, b"good\n\xff\xfe\n")
        with pytest.raises(WorkloadError) as caught:
            texts(path)
        assert str(caught.value) == f"{path}:2: is not UTF-8 text"


@pytest.mark.parametrize("part", [0, 10, -3])
def test_a_compressed_file_with_a_part_missing_gives_no_line(tmp_path: Path, part: int):
    path = tmp_path / "f.zst"
    whole = compressed(path, b"".join(b"%d\n" % (i * i) for i in range(1000)))
    path.write_bytes(whole[:part])
    seen: list[Line] = []
    with pytest.raises(WorkloadError) as caught:
        seen.extend(read_lines(path))
    assert str(caught.value) == f"{path}: is no whole zstd file"
    assert not seen


def test_plain_text_named_zst_is_no_zstd_file(tmp_path: Path):
    path = tmp_path / "f.zst"
    path.write_text("plain\n")
    with pytest.raises(WorkloadError, match=r"f\.zst: is no whole zstd file$"):
        texts(path)


def test_a_name_that_begins_like_a_flag_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    compressed(Path("-q.zst"), b"text\n")
    assert texts(Path("-q.zst")) == [(1, "text")]


def test_without_zstd_the_message_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "f.zst"
    compressed(path, b"text\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorkloadError) as caught:
        texts(path)
    assert str(caught.value) == (
        f"{path}: needs the program zstd: install it, or decompress the file"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes at column 2)"),
        ('{"a": 1} x', "not JSON (Extra data at column 10)"),
        ("hello", "not JSON (Expecting value at column 1)"),
        ("[1, 2]", "the line is not a JSON object ([1, 2])"),
        ("null", "the line is not a JSON object (None)"),
        ("1" * 5000, "JSON that cannot be read (Exceeds the limit"),
        ("[" * 100_000, "JSON that cannot be read (maximum recursion depth"),
    ],
)
def test_what_is_not_a_json_object(text: str, problem: str):
    with pytest.raises(BadLine) as caught:
        json_object(Line(Path("f"), 3, text))
    assert str(caught.value).startswith(f"f:3: {problem}")
    assert "\n" not in str(caught.value)


RECORD = {
    "text": "7",
    "true": True,
    "null": None,
    "nan": float("nan"),
    "inf": float("-inf"),
    "huge": 10**400,
    "half": 2.5,
    "whole": 3.0,
    "int": 4,
    "empty": "",
    "list": [1],
}


@pytest.mark.parametrize(
    ("take", "key", "problem"),
    [
        (number, "none", "none is missing"),
        (number, "text", "text is not a number ('7')"),
        (number, "true", "true is not a number (True)"),
        (number, "null", "null is not a number (None)"),
        (number, "nan", "nan is not a finite number (nan)"),
        (number, "inf", "inf is not a finite number (-inf)"),
        (number, "huge", f"huge is not a finite number (1{'0' * 79}...)"),
        (count, "half", "half is not a whole number (2.5)"),
        (count, "inf", "inf is not a finite number (-inf)"),
        (count, "none", "none is missing"),
        (listed, "none", "none is missing"),
        (listed, "text", "text is not a list ('7')"),
        (name_of, "none", "none is missing"),
        (name_of, "true", "true is not a name (True)"),
        (name_of, "empty", "empty is not a name ('')"),
        (name_of, "half", "half is not a name (2.5)"),
    ],
)
def test_values_that_are_something_else(take, key: str, problem: str):
    with pytest.raises(BadLine) as caught:
        take(HERE, RECORD, key)
    assert str(caught.value) == f"f:3: {problem}"


@pytest.mark.parametrize(
    ("take", "key", "value"),
    [
        (number, "half", 2.5),
        (count, "whole", 3),
        (count, "int", 4),
        (listed, "list", [1]),
        (name_of, "text", "7"),
        (name_of, "int", "4"),
    ],
)
def test_values_that_are_as_they_should(take, key: str, value):
    assert take(HERE, RECORD, key) == value
    assert type(take(HERE, RECORD, key)) is type(value)


def test_only_known_keys_and_objects():
    only(HERE, {"a": 1}, frozenset({"a", "b"}))
    with pytest.raises(BadLine, match=r"^f:3: a key is not one of a, b \('c'\)$"):
        only(HERE, {"c": 1, "a": 2}, frozenset({"b", "a"}))
    with pytest.raises(BadLine, match=r"^f:3: a turn is not a JSON object \(5\)$"):
        mapping(HERE, 5, "a turn")


def test_times_may_stand_still_and_not_run_back():
    order = InOrder()
    for time_s in (-1.0, 2.5, 2.5, 1700158546.68):
        order.check(HERE, time_s)
    with pytest.raises(BadLine) as caught:
        order.check(HERE, 1700158546.5)
    assert str(caught.value) == (
        "f:3: the time is before that of a line above; sort the file"
        " (1700158546.5 s, after 1700158546.68 s)"
    )


def test_a_name_comes_once():
    once = Once()
    once.check(HERE, "a")
    once.check(HERE, "b")
    with pytest.raises(BadLine, match=r"^f:3: the name has come before \('a'\)$"):
        once.check(HERE, "a")


def positive(line: Line) -> int:
    value = int(line.text)
    if value < 0:
        raise BadLine(line.where, "negative", line.text)
    return value


def test_bad_lines_are_counted_by_reason_where_that_is_allowed():
    lines = [Line(Path("f"), i, text) for i, text in enumerate(("5", "-6", "7", "-8"))]
    skipped = Skipped(allowed=True)
    assert [skipped.attempt(positive, line) for line in lines] == [5, None, 7, None]
    assert skipped.counts == {"lines: negative": 2}


def test_bad_lines_are_errors_otherwise():
    skipped = Skipped(allowed=False)
    with pytest.raises(BadLine, match=r"^f:2: negative \(-6\)$"):
        skipped.attempt(positive, Line(Path("f"), 2, "-6"))
    assert not skipped.counts


def test_an_error_of_the_whole_file_is_never_skipped():
    def fail(line: Line) -> None:
        raise WorkloadError(f"{line.path}: is gone")

    with pytest.raises(WorkloadError, match="is gone"):
        Skipped(allowed=True).attempt(fail, HERE)
