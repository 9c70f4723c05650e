"""What the report of quantised weights says, by hand."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from benchmarks.quantisation import Scores, compare, encode, text_of
from train.tasks.conversation import Turn
from train.tokenizer import END, encode_prompt

DEMO = Path(__file__).parents[2] / "checkpoints" / "demo"


def test_errors_by_hand():
    one = Scores(np.array([-1.0, -2.0, -4.0, -1.0], np.float32), np.array([1, 2, 3, 4], np.int32))
    other = Scores(np.array([-1.5, -2.0, -3.0, -1.5], np.float32), np.array([1, 2, 9, 4], np.int32))
    found = compare(one, other)
    assert found["logprob_error"] == pytest.approx(0.5)
    assert found["top1_agreement"] == 0.75
    assert 0.9 < found["worst_1_percent"] <= 1.0


def test_only_replies_and_their_ends_count():
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    turns = [Turn("What is 2+2?", "Answer: 4"), Turn("And 3+3?", "Answer: 6")]
    text = encode(tokenizer, turns)
    messages = [("user", "What is 2+2?"), ("assistant", "Answer: 4"), ("user", "And 3+3?")]
    assert text.tokens[: len(encode_prompt(tokenizer, messages))] == encode_prompt(
        tokenizer, messages
    )
    counted = [token for token, own in zip(text.tokens, text.replied, strict=True) if own]
    end = tokenizer.token_to_id(END)
    replies = [tokenizer.encode(turn.reply).ids for turn in turns]
    assert counted == [*replies[0], end, *replies[1], end]


def test_the_table_has_a_row_for_each_format_and_kind_of_token():
    apart = {"logprob_error": 0.01, "top1_agreement": 0.995}
    whole = {"dtype": "float32", "quantize": "none", "weight_bytes": 4000}
    rows = [
        {**whole, "replies": {"loss": 0.25}},
        {
            **whole,
            "quantize": "int8",
            "weight_bytes": 1000,
            "replies": {"loss": 0.5, "against_float32": apart},
        },
    ]
    found = {"conversations": 3, "tokens": {"replies": 70}, "rows": rows}
    lines = text_of(found).splitlines()
    assert lines[-2] == "| float32 | none | replies | 4,000 | 0.25000 | - | - |"
    assert lines[-1] == "| float32 | int8 | replies | 1,000 | 0.50000 | 0.01000 | 99.500% |"
