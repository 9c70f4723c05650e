"""Records on disk: what was written comes back, and nothing else does."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from predictor.records import (
    SPLITS,
    Manifest,
    Origin,
    Records,
    RecordsError,
    add_shard,
    joined,
    open_manifest,
    read_records,
    read_texts,
    split_of,
)
from predictor.texts import Texts, texts_of

ORIGIN = Origin("weights", "tokens", 4, (1, 2), 0, 2, (0.8, 1.0), 20, 100, 0.1)
FAMILIES = ("adding", "sorting")


def made(seed: int, count: int = 5) -> Records:
    random = np.random.default_rng(seed)

    def numbers() -> np.ndarray:
        return random.integers(1, 50, count).astype(np.int32)

    return Records(
        hidden=random.normal(size=(count, 2, 4)).astype(np.float16),
        generated=numbers(),
        prompt_len=numbers(),
        turn=numbers(),
        remaining=numbers(),
        limit=numbers(),
        censored=random.random(count) < 0.5,
        session=numbers(),
        reply=numbers(),
        family=numbers() % 2,
        temperature=random.random(count).astype(np.float32),
    )


def said(seed: int) -> Texts:
    return texts_of([seed, seed + 10], [[seed, 2], [3]], [[4], [5, 6, seed]])


def same(a: Records, b: Records) -> bool:
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Records))


@pytest.fixture
def written(tmp_path: Path) -> Path:
    manifest = Manifest(ORIGIN, FAMILIES, {})
    for name, seed in (("train-00000.npz", 1), ("train-00001.npz", 2), ("test-00000.npz", 3)):
        manifest = add_shard(tmp_path, manifest, name, made(seed), said(seed))
    return tmp_path


def test_what_was_written_comes_back_by_split(written: Path):
    manifest, records = read_records(written, "train")
    assert (manifest.origin, manifest.families) == (ORIGIN, FAMILIES)
    assert same(records, joined([made(1), made(2)]))
    assert same(read_records(written, "test")[1], made(3))


def test_texts_come_back_by_their_reply(written: Path):
    texts = read_texts(written, "train")
    assert texts.reply.tolist() == [1, 11, 2, 12]
    assert texts.prompt_len.tolist() == [2, 1, 2, 1]
    assert [texts.text(i).tolist() for i in range(4)] == [
        [1, 2, 4],
        [3, 5, 6, 1],
        [2, 2, 4],
        [3, 5, 6, 2],
    ]


def test_a_run_goes_on_in_its_own_directory_only(written: Path):
    assert len(open_manifest(written, ORIGIN, FAMILIES).shards) == 3
    with pytest.raises(RecordsError, match=r"seed differs"):
        open_manifest(written, replace(ORIGIN, seed=1), FAMILIES)
    with pytest.raises(RecordsError, match="another run"):
        open_manifest(written, ORIGIN, ("else",))


def test_a_split_without_shards_says_so(written: Path):
    with pytest.raises(RecordsError, match=r"'tune'.*collect more"):
        read_records(written, "tune")


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_truncated_shard_is_named(written: Path, keep: int):
    path = written / "train-00001.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordsError, match=r"train-00001\.npz: truncated"):
        read_records(written, "train")


def test_a_missing_shard_is_named(written: Path):
    (written / "train-00000.npz").unlink()
    with pytest.raises(RecordsError, match=r"train-00000\.npz: cannot be read"):
        read_records(written, "train")


def test_a_shard_of_another_run_is_named(written: Path, tmp_path_factory: pytest.TempPathFactory):
    other = tmp_path_factory.mktemp("other")
    manifest = Manifest(replace(ORIGIN, tokenizer="another"), FAMILIES, {})
    add_shard(other, manifest, "train-00000.npz", made(1), said(1))
    (other / "train-00000.npz").replace(written / "train-00000.npz")
    with pytest.raises(RecordsError, match=r"train-00000\.npz: .*of another run"):
        read_records(written, "train")


def test_a_manifest_of_another_run_is_found(written: Path):
    path = written / "manifest.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RecordsError, match=r"train-00000\.npz: belongs to another run"):
        read_records(written, "train")


def test_any_damage_to_a_shard_is_told(written: Path):
    """Wherever it is: a compression that nobody knows, a password, or simply other numbers."""
    path = written / "train-00001.npz"
    whole, random = path.read_bytes(), np.random.default_rng(0)
    directory = whole.rindex(b"PK\x01\x02")  # the last file's entry; its method stands at 10
    places = [(directory + offset, bit) for offset in (6, 8, 10) for bit in (1, 8)]
    places += [(int(place), 1) for place in random.integers(0, len(whole), 50)]
    for place, bit in places:
        damaged = bytearray(whole)
        damaged[place] ^= bit
        path.write_bytes(damaged)
        with pytest.raises(RecordsError, match=r"not the file that was written"):
            read_records(written, "train")


def test_a_shard_that_was_replaced_by_one_of_the_same_run_is_named(written: Path):
    (written / "train-00000.npz").write_bytes((written / "train-00001.npz").read_bytes())
    with pytest.raises(RecordsError, match="not the file that was written"):
        read_records(written, "train")


def test_states_that_are_not_numbers_are_named(tmp_path: Path):
    records = made(1)
    records.hidden[2, 0, 1] = np.nan
    add_shard(tmp_path, Manifest(ORIGIN, FAMILIES, {}), "train-00000.npz", records, said(1))
    with pytest.raises(RecordsError, match=r"train-00000\.npz: holds hidden states"):
        read_records(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"version": 9}', b"\xff\xfe"])
def test_what_is_no_manifest_is_named(tmp_path: Path, content: bytes):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(RecordsError, match=r"manifest\.json"):
        read_records(tmp_path, "train")


def test_a_manifest_without_a_table_of_shards_is_named(written: Path):
    top = json.loads((written / "manifest.json").read_text())
    (written / "manifest.json").write_text(json.dumps({**top, "shards": 3}))
    with pytest.raises(RecordsError, match=r"manifest\.json: no manifest of records"):
        read_records(written, "train")


def test_of_twenty_sessions_fourteen_are_trained_on():
    splits = [split_of(number) for number in range(200)]
    assert [splits.count(split) for split in SPLITS] == [140, 30, 30]
