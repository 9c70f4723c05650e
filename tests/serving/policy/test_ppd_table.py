"""PPD's classes, its nearest cell, its score, and the document that holds them."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.ppd_table import (
    CONTEXT_CLASSES,
    WORKLOAD_CLASSES,
    Cell,
    CellKey,
    PpdTable,
    context_class,
    workload_class,
)

CELL = Cell(ttft_remote_s=0.2, ttft_local_s=0.1, tpot_remote_s=0.01, tpot_local_s=0.012)


@pytest.mark.parametrize(("length", "expected"), [(512, "small"), (513, "large"), (9999, "large")])
def test_the_class_of_a_context(length: int, expected: str):
    assert context_class(length) == expected


@pytest.mark.parametrize(
    ("new_len", "reply_len", "expected"),
    [
        (15, 64, "tiny"),
        (15, 65, "short_gen"),
        (15, 256, "short_gen"),
        (15, 512, "long_gen"),
        (15, 513, "very_long_gen"),
        (16, 64, "small_bal"),  # a quarter is balanced
        (64, 32, "small_bal"),  # so is twice
        (65, 64, "mid_bal"),
        (256, 100, "mid_paste"),
        (257, 100, "big_paste"),
        (512, 100, "big_paste"),
        (513, 100, "huge_paste"),
        (3, 0, "mid_paste"),
    ],
)
def test_the_class_of_a_workload(new_len: int, reply_len: float, expected: str):
    assert workload_class(new_len, reply_len) == expected


def test_the_score_weighs_relative_gain_against_relative_loss():
    assert CELL.score(1.0, 1.0) == pytest.approx(0.5 - 0.2)
    assert CELL.score(2.0, 10.0) == pytest.approx(2 * 0.5 - 10 * 0.2)


def test_a_time_of_zero_counts_as_no_change():
    assert Cell(0.0, 0.1, 0.0, 0.1).score(1.0, 1.0) == 0


def table(*rates: float) -> PpdTable:
    return PpdTable.of({CellKey("small", "huge_paste", rate): CELL for rate in rates})


def rate_found(measured: PpdTable, rate: float) -> float | None:
    """The rate of the cell that was found, which alone holds CELL."""
    for key in measured.cells:
        marked = PpdTable.of({**dict.fromkeys(measured.cells, Cell(1, 1, 1, 1)), key: CELL})
        found = marked.nearest(context_len=1, new_len=600, reply_len=1, rate=rate)
        if found == CELL:
            return key.turns_per_s
    return None


@pytest.mark.parametrize(("rate", "nearest"), [(0.0, 1), (2.4, 1), (2.5, 4), (99.0, 4)])
def test_the_nearest_rate_counts_and_the_higher_of_two(rate: float, nearest: float):
    assert rate_found(table(1, 4), rate) == nearest


def test_a_class_without_a_measurement_at_the_nearest_rate_is_unknown():
    cells = {CellKey("small", "huge_paste", 1.0): CELL, CellKey("large", "tiny", 4.0): CELL}
    measured = PpdTable.of(cells)
    assert measured.nearest(context_len=1, new_len=600, reply_len=1, rate=4.0) is None


def test_an_empty_table_knows_nothing():
    assert PpdTable.of({}).nearest(context_len=1, new_len=1, reply_len=1, rate=1.0) is None


SECONDS = st.floats(0, 1e3)


@given(
    st.dictionaries(
        st.builds(
            CellKey, st.sampled_from(CONTEXT_CLASSES), st.sampled_from(WORKLOAD_CLASSES), SECONDS
        ),
        st.builds(Cell, SECONDS, SECONDS, SECONDS, SECONDS),
        max_size=4,
    )
)
def test_a_written_table_reads_back_the_same(cells):
    measured = PpdTable.of(cells)
    assert PpdTable.parse(json.loads(json.dumps(measured.to_json()))) == measured


def document(**changed) -> dict:
    cell = table(1.0).to_json()["cells"][0]
    return {"schema": 1, "cells": [{**cell, **changed}]}


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ([], "table: expected an object"),
        ({"schema": 2, "cells": []}, "schema 1"),
        ({"schema": 1}, "cells: expected a list"),
        ({"schema": 1, "cells": [3]}, r"cells\[0\]: expected an object"),
        (document(context="huge"), "no such class"),
        (document(workload=None), "no such class"),
        (document(ttft_local_s="1"), "ttft_local_s: expected a number"),
        (document(tpot_local_s=True), "tpot_local_s: expected a number"),
        (document(turns_per_s=-1), "turns_per_s: expected a finite number"),
        (document(ttft_remote_s=float("inf")), "ttft_remote_s: expected a finite number"),
        ({"schema": 1, "cells": document()["cells"] * 2}, r"cells\[1\]: measured twice"),
    ],
)
def test_a_broken_document_is_refused_with_its_fault(broken, problem: str):
    with pytest.raises(ValueError, match=problem):
        PpdTable.parse(broken)
