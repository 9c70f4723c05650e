"""The stop of a move is the one gap between the source's last token and the destination's first."""

import pytest

from benchmarks.engine import Recorder
from benchmarks.moves_child import ROW, WARM_UP, Source, _figures
from serving.messages import Decision, SampledToken, TaskId, Tokens, WorkerId
from serving.request import TurnId

D0, D1 = WorkerId("d0"), WorkerId("d1")
STEP, STOP = 0.01, 0.025
BEFORE = WARM_UP + 5


def told(worker: WorkerId, index: int) -> Tokens:
    task = TaskId(TurnId(ROW), 0)
    return Tokens(worker, [task], [SampledToken(index, 7, None)])


def test_the_stop_is_measured_where_the_teller_changes():
    recorder, source = Recorder(), Source()
    times, now = recorder.times.setdefault(TurnId(ROW), []), 0.0
    for index in range(BEFORE + 4):
        source([told(D0 if index < BEFORE else D1, index)])
        now += STOP if index == BEFORE else STEP
        times.append(now)
    moved = Decision("moved", TurnId(ROW), None, "d1", "benchmark", {"kv_len": 80, "took_s": 0.1})
    recorder.moved_bytes = 4096
    figures = _figures(recorder, source, (BEFORE - 2, moved))
    assert figures["stop_steps"] == pytest.approx(STOP / STEP)
    assert figures["step_there_s"] == pytest.approx(STEP)
    assert (figures["kv_len"], figures["bytes"]) == (80, 4096)


def test_other_rows_do_not_count_as_told():
    source = Source()
    source([Tokens(D1, [TaskId(TurnId("other"), 0)], [SampledToken(3, 1, None)])])
    assert source.told_by == {}
