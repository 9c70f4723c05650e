"""Texts in batches: every record lies where its state would, and in one batch only."""

from dataclasses import replace

import numpy as np
import pytest

from predictor.records import Records
from predictor.text_batches import LENGTHS, counts_of, text_batches, text_rows
from predictor.texts import Texts, texts_of
from tests.predictor.test_records import made

PROMPTS = {3: 5, 4: 40, 9: 2}
PLACES = {3: (0, 1, 4), 4: (0,), 9: (2, 0, 30)}


def told() -> tuple[Texts, Records]:
    """Replies 3, 4 and 9; token i of each text is 100 times its reply's number, plus i."""
    texts = texts_of(
        list(PROMPTS),
        [[100 * n + i for i in range(length)] for n, length in PROMPTS.items()],
        [[100 * n + length + i for i in range(32)] for n, length in PROMPTS.items()],
    )
    generated = [place for own in PLACES.values() for place in own]
    reply = [number for number, own in PLACES.items() for _ in own]
    records = replace(
        made(0, len(reply)),
        generated=np.array(generated, np.int32),
        reply=np.array(reply, np.int32),
    )
    return texts, records


def last_read(record: int, records: Records) -> int:
    """The token before the one that a record is about."""
    number = int(records.reply[record])
    return 100 * number + PROMPTS[number] - 1 + int(records.generated[record])


def test_a_record_lies_at_the_last_token_that_it_has_seen():
    texts, records = told()
    for row in text_rows(texts, records, 512):
        found = row.tokens[row.positions].tolist()
        assert found == [last_read(record, records) for record in row.records]
        assert row.tokens[-1] == found[-1]


def test_of_a_long_prompt_the_end_is_kept():
    texts, records = told()
    rows = text_rows(texts, records, 8)
    assert [len(row.tokens) for row in rows] == [9, 8, 32]
    assert [row.tokens[0] for row in rows] == [300, 432, 900]
    for row in rows:
        assert row.tokens[row.positions[-1]] == last_read(int(row.records[-1]), records)


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_every_record_is_in_one_batch(seed: int | None):
    texts, records = told()
    rng = None if seed is None else np.random.default_rng(seed)
    batches = list(text_batches(text_rows(texts, records, 512), 64, rng))
    assert {batch.tokens.shape for batch in batches} == {(2, 32), (1, 64)}
    seen: list[int] = []
    for batch in batches:
        for row, column in np.argwhere(batch.record >= 0):
            record = int(batch.record[row, column])
            assert batch.tokens[row, column] == last_read(record, records)
            seen.append(record)
    assert sorted(seen) == list(range(len(records)))


def test_shuffling_is_by_seed():
    texts, records = told()
    rows = text_rows(texts, records, 512) * 5

    def order(seed: int) -> list[int]:
        batches = text_batches(rows, 64, np.random.default_rng(seed))
        return [int(batch.tokens[0, 0]) for batch in batches]

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_a_text_longer_than_all_lengths_still_fits():
    texts = texts_of([3], [[1] * (LENGTHS[-1] + 5)], [[2]])
    records = replace(made(0, 1), generated=np.zeros(1, np.int32), reply=np.array([3], np.int32))
    (batch,) = text_batches(text_rows(texts, records, 4000), 64, None)
    assert batch.tokens.shape == (1, 2 * LENGTHS[-1])


def test_counts_are_those_of_features():
    records = made(1, 2)
    generated, prompt_len, turn = counts_of(records).T
    assert (generated == records.generated).all()
    assert (prompt_len == records.prompt_len).all()
    assert (turn == records.turn).all()
