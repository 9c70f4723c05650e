"""The lanes of a decision picture: where a turn was, when, and in which row it is drawn."""

from itertools import pairwise
from pathlib import Path

from benchmarks.lanes import Doing, lanes, moved, spans_of
from serving.metrics.history import read_history
from tests.serving.metrics.test_explain import (
    ARRIVAL,
    END,
    FIRST,
    MOVE,
    MOVED,
    PLACE,
    RESUMED,
    ROUTE,
    said,
    story_of,
    told,
)

LOG = Path(__file__).parents[2] / "docs" / "decisions.jsonl"


def spans(*records: dict, until: float = 9.0) -> list[tuple[str, str, float, float]]:
    return [(s.worker, s.doing.value, s.start, s.stop) for s in spans_of(story_of(*records), until)]


def test_a_turn_waits_is_prefilled_decodes_and_moves():
    assert spans(ARRIVAL, PLACE, ROUTE, FIRST, MOVE, MOVED, RESUMED, END) == [
        ("p0", "queue", 1.0, 1.25),
        ("p0", "prefill", 1.25, 2.0),
        ("d0", "decode", 2.0, 4.0),
        ("d1", "decode", 5.0, 5.5),
    ]


def test_what_has_not_ended_goes_on():
    assert spans(ARRIVAL, PLACE, ROUTE) == [("p0", "queue", 1.0, 9.0)]
    assert spans(ARRIVAL, PLACE, ROUTE, FIRST)[-1] == ("d0", "decode", 2.0, 9.0)
    assert spans(ARRIVAL) == []


def test_a_turn_that_begins_anew_decodes_at_its_next_owner():
    again = [said(3.0, "retry", "attempt 1", "worker_lost", replied=1), {**PLACE, "choice": "d1"}]
    decoding = spans(ARRIVAL, PLACE, ROUTE, FIRST, *again, {**ROUTE, "t": 3.0}, END)[2:]
    assert decoding == [("d0", "decode", 2.0, 3.0), ("d1", "decode", 3.0, 5.5)]


def test_no_two_turns_share_a_row_at_a_time():
    drawn = lanes(read_history(LOG))
    assert len(drawn) == 3
    for lane in drawn:
        for row in range(lane.rows):
            own = sorted((s for r, s in lane.spans if r == row), key=lambda span: span.start)
            assert own
            assert all(before.stop <= after.start for before, after in pairwise(own))


def test_every_arrow_has_two_ends():
    history = read_history(LOG)
    by_name = {lane.worker: lane for lane in lanes(history)}
    moves = [(story, move) for story in history.stories.values() for move in moved(story)]
    assert moves
    for story, move in moves:
        assert move.resumed_t is not None
        assert move.stop_s is not None
        assert by_name[move.source].row_at(story, move.resumed_t - move.stop_s) is not None
        assert by_name[move.to].row_at(story, move.resumed_t) is not None
        assert by_name[move.to].row_at(story, story.arrived) is None


def test_a_turn_keeps_its_row_from_queue_to_end():
    local = {**ROUTE, "choice": "d0"}
    history = told(ARRIVAL, PLACE, local, {**FIRST, "choice": "d0"}, END)
    lane = next(lane for lane in lanes(history) if lane.worker == "d0")
    assert [(row, span.doing) for row, span in lane.spans] == [
        (0, Doing.QUEUE),
        (0, Doing.PREFILL),
        (0, Doing.DECODE),
    ]
