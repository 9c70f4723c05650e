"""The results file: what is kept, what is replaced, what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.machine import Machine, cpu_model, describe_code, describe_machine
from benchmarks.results import PartResult, Results, ResultsError, from_json, load, save, to_json

HERE = Machine(
    cpu="a", cores=2, ram_gib=4.0, system="Linux x", python="3.11.1", jax="1", jaxlib="1"
)
ELSEWHERE = Machine(**{**HERE, "cores": 64})


def part(code: str, rate: int) -> PartResult:
    return PartResult(code, "2026-01-02", 1.5, 0.1, 2, {"rate": rate})


def test_a_saved_document_comes_back(tmp_path: Path):
    results = Results(HERE, {"raw": part("c1", 7)})
    save(tmp_path / "new" / "bench.json", results)
    assert load(tmp_path / "new" / "bench.json", HERE) == results
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["bench.json"]


def test_a_part_is_replaced_and_the_others_stay():
    results = Results(HERE, {"raw": part("c1", 7), "turns": part("c1", 8)})
    merged = results.with_part("raw", part("c2", 9))
    assert merged.parts == {"raw": part("c2", 9), "turns": part("c1", 8)}


def test_only_the_same_code_on_the_same_machine_is_kept():
    results = Results(HERE, {"raw": part("c1", 7), "turns": part("c2", 8)})
    wanted = ("raw", "turns", "memory")
    assert results.kept(HERE, "c2", wanted) == ("turns",)
    assert results.kept(ELSEWHERE, "c2", wanted) == ()


def test_unknown_code_keeps_nothing():
    assert Results(HERE, {"raw": part("unknown", 7)}).kept(HERE, "unknown", ("raw",)) == ()


def test_results_of_another_machine_are_not_mixed_in(tmp_path: Path):
    save(tmp_path / "bench.json", Results(ELSEWHERE, {"raw": part("c1", 7)}))
    assert load(tmp_path / "bench.json", HERE) == Results(HERE, {})


def test_no_file_means_no_results(tmp_path: Path):
    assert load(tmp_path / "bench.json", HERE).parts == {}


def document() -> dict[str, Any]:
    return json.loads(json.dumps(to_json(Results(HERE, {"raw": part("c1", 7)}))))


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("schema",), 2, "schema"),
        (("machine", "cores"), "two", r"machine\.cores"),
        (("machine", "host"), "x", "machine"),
        (("parts",), [], "parts"),
        (("parts", "raw", "seconds"), None, r"parts\.raw\.seconds"),
        (("parts", "raw", "figures"), 3, r"parts\.raw\.figures"),
        (("parts", "raw"), {}, r"parts\.raw"),
    ],
)
def test_a_document_that_is_not_ours_is_named(path: tuple[str, ...], value: Any, problem: str):
    spoilt = document()
    inner = spoilt
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(ResultsError, match=problem):
        from_json(spoilt)


def test_a_truncated_file_is_refused(tmp_path: Path):
    (tmp_path / "bench.json").write_text('{"schema": 1,')
    with pytest.raises(ResultsError, match=r"bench\.json"):
        load(tmp_path / "bench.json", HERE)


def test_the_processor_is_named_by_cpuinfo():
    assert cpu_model("processor\t: 0\nmodel name\t: Chip 9\nmodel name\t: Chip 9\n") == "Chip 9"
    assert cpu_model("processor\t: 0\n") is None


def test_this_machine_fills_the_schema():
    described = json.loads(json.dumps(to_json(Results(describe_machine(), {}))))
    assert from_json(described).machine["cores"] >= 1


def test_code_outside_a_checkout_is_unknown(tmp_path: Path):
    assert describe_code(tmp_path) == "unknown"
