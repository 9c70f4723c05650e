"""ServeGen's format: what is drawn has the measured rates, gaps and lengths."""

import json
from collections import Counter
from itertools import pairwise
from math import sqrt
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import pytest

from serving.workload.lines import Skipped
from serving.workload.servegen import read_servegen
from serving.workload.session import BadLine, Workload

HALF_OF_EACH = {"input_tokens": {"10": 0.25, "30": 0.75}, "output_tokens": {"5": 0.5, "9": 0.5}}
EMPTY = {"input_tokens": {}, "output_tokens": {}}


def row(start: float, rate: float, pattern: str = "Gamma", shape: float = 1.0) -> list[Any]:
    return [start, rate, 1.0, pattern, shape, 1.0]


def client(*rows: list[Any], name: Any = 0, **windows: Any) -> dict[str, Any]:
    named = {start.removeprefix("at"): window for start, window in windows.items()}
    return {"client": name, "windows": named or {"0": HALF_OF_EACH}, "trace": list(rows)}


def read(
    path: Path, *records: Any, start_s: float = 0.0, seconds: float = 600.0, seed: int = 0,
    skip_bad: bool = False,
) -> Workload:  # fmt: skip
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines))
    return read_servegen(path, Skipped(skip_bad), start_s=start_s, seconds=seconds, seed=seed)


def starts(workload: Workload) -> list[float]:
    return [session.start_s for session in workload.sessions]


@pytest.mark.parametrize(
    ("pattern", "shape", "cv"),
    [
        ("Gamma", 0.25, 2.0),
        ("Gamma", 1.0, 1.0),
        ("Gamma", 4.0, 0.5),
        ("Weibull", 1.0, 1.0),
        ("Weibull", 0.5, sqrt(5)),
        ("Weibull", 2.0, 0.5227),
    ],
)
def test_gaps_have_the_rate_and_the_spread_that_were_measured(
    tmp_path: Path, pattern: str, shape: float, cv: float
):
    workload = read(tmp_path / "f.jsonl", client(row(0, 20.0, pattern, shape)))
    at = starts(workload)
    assert at == sorted(at)
    assert 0 <= at[0] < at[-1] < 600
    gaps = [b - a for a, b in pairwise(at)]
    assert fmean(gaps) == pytest.approx(1 / 20, rel=0.08)
    assert pstdev(gaps) / fmean(gaps) == pytest.approx(cv, rel=0.08)


@pytest.mark.parametrize(("pattern", "shape"), [("Gamma", 0.05), ("Weibull", 0.4), ("Gamma", 5.0)])
def test_even_rare_arrivals_come_at_the_rate(tmp_path: Path, pattern: str, shape: float):
    # Half an arrival in ten minutes on average: the first must be drawn with care.
    clients = [client(row(0, 1 / 1200, pattern, shape), name=i) for i in range(2000)]
    workload = read(tmp_path / "f.jsonl", *clients)
    assert workload.num_turns == pytest.approx(1000, rel=0.15)


def test_lengths_come_with_their_chances_and_independently(tmp_path: Path):
    workload = read(tmp_path / "f.jsonl", client(row(0, 10.0)))
    turns = [session.turns[0] for session in workload.sessions]
    assert all(turn.think_s == 0 and turn.keep is None and not turn.shared for turn in turns)
    seen = Counter((turn.new, turn.reply) for turn in turns)
    assert seen.keys() == {(10, 5), (10, 9), (30, 5), (30, 9)}
    for (new, _), times in seen.items():
        chance = (0.25 if new == 10 else 0.75) * 0.5
        assert times / len(turns) == pytest.approx(chance, abs=0.02)


def test_lengths_are_of_the_hours_around_or_of_those_before(tmp_path: Path):
    def always(prompt: int) -> dict[str, Any]:
        return {"input_tokens": {f"{prompt}": 1.0}, "output_tokens": {"1": 1.0}}

    windows = {"at2400": always(24), "at0": EMPTY, "at1800": EMPTY, "at1200": always(12)}
    rows = [row(600.0 * i, 0.1) for i in range(5)]
    workload = read(tmp_path / "f.jsonl", client(*rows, **windows), seconds=3000)
    for session in workload.sessions:
        # Before 1200 s nothing is known: the first that is known stands for it.
        assert session.turns[0].new == (24 if session.start_s >= 2400 else 12)
    assert {s.start_s // 600 for s in workload.sessions} == {0, 1, 2, 3, 4}


def test_a_span_of_the_day_is_drawn_and_silence_is_silent(tmp_path: Path):
    rows = [row(0, 1.0), [600.0, 0.0, 0.0, "", 0.0, 0.0], row(1200, 2.0)]
    workload = read(tmp_path / "f.jsonl", client(*rows), start_s=300, seconds=1200)
    at = starts(workload)
    assert at[0] >= 300
    assert at[-1] < 1500
    assert not [one for one in at if 600 <= one < 1200]
    assert len([one for one in at if one < 600]) == pytest.approx(300, rel=0.2)
    assert len([one for one in at if one >= 1200]) == pytest.approx(600, rel=0.2)


def test_what_comes_before_the_span_is_not_drawn(tmp_path: Path):
    path = tmp_path / "f.jsonl"
    whole = read(path, client(row(0, 1.0), row(600, 1.0)), start_s=600.0)
    assert whole == read(path, client(row(600, 1.0)), start_s=600.0)


def test_clients_are_merged_by_time_and_named(tmp_path: Path):
    workload = read(tmp_path / "f.jsonl", client(row(0, 0.5), name=3), client(row(0, 0.5), name=4))
    assert starts(workload) == sorted(starts(workload))
    ids = [session.id for session in workload.sessions]
    assert len(set(ids)) == len(ids)
    assert {name.rsplit("-", 1)[0] for name in ids} == {"servegen-3", "servegen-4"}
    assert workload.origin == "drawn from f.jsonl"


def test_a_seed_fixes_the_draw_of_each_client(tmp_path: Path):
    path = tmp_path / "f.jsonl"
    one, other = client(row(0, 0.5), name=1), client(row(0, 0.5), name=2)
    assert read(path, one, other, seed=7) == read(path, one, other, seed=7)
    assert read(path, one, other, seed=7) != read(path, one, other, seed=8)
    both = [s for s in read(path, one, other, seed=7).sessions if s.id.startswith("servegen-1-")]
    assert tuple(both) == read(path, one, seed=7).sessions
    assert starts(read(path, one, seed=7)) != starts(read(path, other, seed=7))


def changed(**window: Any) -> dict[str, Any]:
    return client(row(0, 1.0), name="b", at0={**HALF_OF_EACH, **window})


GOOD = client(row(0, 1.0), name="a")
PROBLEMS = [
    ("[]", "the line is not a JSON object ([])"),
    ({"client": "b", "trace": []}, "windows is not a JSON object (None)"),
    ({"client": "b", "windows": {}}, "trace is missing"),
    ({"windows": {}, "trace": []}, "client is missing"),
    (GOOD, "the name has come before ('a')"),
    (client(row(0, 1.0), name="b", at0=5), "a window is not a JSON object (5)"),
    (client(row(0, 1.0), name="b", atx=HALF_OF_EACH),
     "the start of a window is not a number ('x')"),
    (client(row(0, 1.0), name="b", atnan=HALF_OF_EACH),
     "the start of a window is not a finite number (nan)"),
    (client(row(0, 1.0), name="b", at0=EMPTY), "the client has a rate and no lengths"),
    (changed(input_tokens={"5": 0.0, "6": 0}), "the client has a rate and no lengths"),
    (client(row(0, 1.0), name="b", at0={}), "input_tokens is not a JSON object (None)"),
    (changed(output_tokens={"x": 1.0}),
     "output_tokens is not by whole numbers (invalid literal for int() with base 10: 'x')"),
    (changed(input_tokens={"-3": 1.0, "5": 0.5}), "a length is negative (-3)"),
    (changed(input_tokens={"0": 1.0}), "the reply has no token"),
    (changed(input_tokens={"5": 0.5, "5000000": 0.5}),
     "a length is more than 4194304 tokens (5000000)"),
    (changed(input_tokens={"5": "often"}), "a chance is not a number ('often')"),
    (changed(input_tokens={"5": -0.5, "6": 0.5}), "a chance is not in 0 to 1 (-0.5)"),
    (changed(input_tokens={"5": 1.5, "6": 0.5}), "a chance is not in 0 to 1 (1.5)"),
    (client([0, 1.0], name="b"),
     "trace is not rows of start, rate, cv, pattern, shape, scale ([0, 1.0])"),
    (client(row(0, 1.0, "Poisson"), name="b"), "pattern is not Gamma or Weibull ('Poisson')"),
    (client(row(0, 1.0, ""), name="b"), "pattern is not Gamma or Weibull ('')"),
    (client(row(0, -1.0), name="b"), "rate is not in 0 to 10000 (-1.0)"),
    (client(row(0, 1e12), name="b"), "rate is not in 0 to 10000 (1000000000000.0)"),
    (client(["0", 1.0, 1.0, "Gamma", 1.0, 1.0], name="b"), "start is not a number ('0')"),
    (client([0, "fast", 1.0, "Gamma", 1.0, 1.0], name="b"), "rate is not a number ('fast')"),
    (client(row(0, 1.0, shape=0.0), name="b"), "shape is not in 0.01 to 1e+06 (0.0)"),
    (client(row(0, 1.0), row(600, 1.0), row(900, 1.0), name="b"),
     "two rows of trace overlap (600.0 s and 900.0 s)"),
    ({**client(row(0, 1.0), name="b"), "windows": {"0": HALF_OF_EACH, "0.0": HALF_OF_EACH}},
     "two windows begin at once (0.0 s and 0.0 s)"),
    (client(row(0, 1.0, shape=1e308), name="b"), "shape is not in 0.01 to 1e+06 (1e+308)"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "problem"), PROBLEMS)
def test_a_bad_line_is_named_and_may_be_skipped(tmp_path: Path, bad: Any, problem: str):
    path, later = tmp_path / "f.jsonl", client(row(0, 1.0), name="later")
    with pytest.raises(BadLine) as caught:
        read(path, GOOD, bad, later)
    assert str(caught.value) == f"{path}:2: {problem}"
    rest = read(path, GOOD, bad, later, skip_bad=True)
    assert {session.id.split("-")[1] for session in rest.sessions} == {"a", "later"}
    assert rest.skipped == {f"lines: {problem.split(' (')[0]}": 1}


def test_lengths_without_a_chance_are_never_drawn(tmp_path: Path):
    window = {"input_tokens": {"1": 0.0, "2": 1.0, "3": 0.0}, "output_tokens": {"4": 1.0}}
    workload = read(tmp_path / "f.jsonl", client(row(0, 1.0), at0=window))
    assert {session.turns[0].new for session in workload.sessions} == {2}
