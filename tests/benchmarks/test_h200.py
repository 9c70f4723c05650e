"""The harness for accelerators: what it keeps, what it refuses, and that every part of it runs."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.h200 import __main__ as harness
from benchmarks.h200 import course, table
from benchmarks.h200.part import Part, alone
from benchmarks.h200.record import Record
from benchmarks.h200.rig import DisagreementError, Rig
from benchmarks.h200.scale import FULL, Prompt, Work, skew, uniform
from benchmarks.h200.steps import _needs
from model.attention.paged import BLOCKED
from model.config import load_config
from serving.costs.hardware import PRESETS
from serving.costs.measured import read_measured
from serving.costs.profile import Profile
from serving.costs.roofline import Roofline

ROOT = Path(__file__).parents[2]
ABSENT = ("fastapi", "starlette", "uvicorn", "pydantic", "prometheus_client", "click", "httpx")
"""What the machine with the accelerator lacks, or may lack."""
POINT = {"seconds": {"median": 0.008}, "bytes": 16e9, "flops": 4e12}


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The points that were measured, of three made-up parts."""
    names: list[str] = []

    def job(name: str, result: Any) -> Callable[[], Any]:
        def measure() -> Any:
            names.append(name)
            return result

        return measure

    def one(name: str, figures: dict[str, Any]) -> Part:
        return alone(lambda rig: job(name, figures)())

    decode = {"4 rows at 20": POINT, "1 rows at 8": POINT}
    fakes = {
        "agreement": one("agreement", {"attention_error_by_window": {"None": 0.0}, "tokens": 1}),
        "decode": Part(
            lambda rig: {name: job(name, point) for name, point in decode.items()},
            lambda rig, points: {"not_measured": {"x": "y"}},
        ),
        "grid": one("grid", {"points": 3, "file": "f"}),
    }
    monkeypatch.setattr(course, "PARTS", fakes)
    monkeypatch.setattr(harness, "PARTS", fakes)
    monkeypatch.setattr(harness, "describe_code", lambda root: "c1")
    return names


FIRST, LATER = "4 rows at 20", "1 rows at 8"


def run(out: Path, *flags: str) -> int:
    return harness.main(["--out", str(out), "--cpu-check", *flags])


def test_parts_are_kept_until_they_are_asked_for_again(measured: list[str], tmp_path: Path):
    out = tmp_path / "h.json"
    assert run(out, "--part", "decode") == 0
    assert measured == ["agreement", FIRST, LATER], "numbers are compared before anything is timed"
    document = json.loads(out.read_text())
    assert document["setting"]["cpu_check"] is True
    assert document["not_measured"] == {"grid": "not run yet", "decode: x": "y"}
    assert run(out) == 0
    assert measured[3:] == ["grid"]
    assert run(out) == 0
    assert run(out, "--part", "grid", "--again") == 0
    assert measured[4:] == ["grid"]
    assert run(out, "--again") == 0
    assert measured[5:] == ["agreement", FIRST, "grid", LATER], "first what the table asks for"


def test_what_fails_leaves_the_rest_and_is_tried_again_by_the_next_run(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, whole = tmp_path / "h.json", course.PARTS["decode"]

    def breaks() -> None:
        measured.append("broken")
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory\n  page after page")

    broken = Part(lambda rig: {**whole.jobs(rig), FIRST: breaks})
    monkeypatch.setitem(course.PARTS, "decode", broken)  # type: ignore[arg-type]
    assert run(out) == 3
    assert measured == ["agreement", "broken", "grid", LATER]
    document = json.loads(out.read_text())
    reason = "RuntimeError: RESOURCE_EXHAUSTED: out of memory"
    assert document["not_measured"] == {f"decode: {FIRST}": reason}
    assert list(document["parts"]["decode"]["figures"]["points"]) == [LATER]
    monkeypatch.setitem(course.PARTS, "decode", whole)  # type: ignore[arg-type]
    assert run(out) == 0
    assert measured[4:] == [FIRST]


def test_every_point_is_kept_before_the_next_is_measured(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, whole = tmp_path / "h.json", course.PARTS["decode"]

    def ends() -> None:
        raise KeyboardInterrupt

    ending = Part(lambda rig: {**whole.jobs(rig), LATER: ends})
    monkeypatch.setitem(course.PARTS, "decode", ending)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run(out, "--part", "decode")
    document = json.loads(out.read_text())
    assert list(document["parts"]["decode"]["figures"]["points"]) == [FIRST]
    assert document["not_measured"] == {"grid": "not run yet", f"decode: {LATER}": "not run yet"}


def test_nothing_begins_when_time_is_up(measured: list[str], tmp_path: Path):
    out = tmp_path / "h.json"
    assert run(out, "--seconds", "0") == 3
    assert measured == []
    assert json.loads(out.read_text())["not_measured"]["grid: all"] == "no time was left"
    assert run(out) == 0
    assert measured == ["agreement", FIRST, "grid", LATER]


def test_points_of_other_code_are_not_continued(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, whole = tmp_path / "h.json", course.PARTS["decode"]

    def breaks() -> None:
        raise RuntimeError

    broken = Part(lambda rig: {**whole.jobs(rig), LATER: breaks})
    monkeypatch.setitem(course.PARTS, "decode", broken)  # type: ignore[arg-type]
    assert run(out) == 3
    monkeypatch.setitem(course.PARTS, "decode", whole)  # type: ignore[arg-type]
    assert run(out, "--code", "c2") == 0
    assert measured[3:] == ["agreement", FIRST, LATER]
    assert json.loads(out.read_text())["parts"]["decode"]["code"] == "c2"


def test_a_processor_is_measured_with_the_demo_model(measured: list[str], tmp_path: Path):
    assert harness.main(["--out", str(tmp_path / "cpu.json"), "--cpu"]) == 0
    setting = json.loads((tmp_path / "cpu.json").read_text())["setting"]
    assert (setting["model"], setting["device"]["platform"]) == ("demo", "cpu")
    assert setting["cpu_check"] is False


def test_changed_code_is_compared_with_the_reference_again(
    measured: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = tmp_path / "h.json"
    run(out)
    monkeypatch.setattr(harness, "describe_code", lambda root: "c2")
    run(out, "--part", "decode", "--again")
    assert measured[4:] == ["agreement", FIRST, LATER]
    codes = {name: part["code"] for name, part in json.loads(out.read_text())["parts"].items()}
    assert codes == {"agreement": "c2", "decode": "c2", "grid": "c1"}


def test_nothing_is_timed_where_numbers_differ(
    measured: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    def differs(rig: Rig) -> dict[str, Any]:
        raise DisagreementError("token 3 is 5, the oracle says 6")

    monkeypatch.setitem(course.PARTS, "agreement", alone(differs))  # type: ignore[arg-type]
    assert run(tmp_path / "h.json") == 1
    assert measured == []
    assert not (tmp_path / "h.json").exists()
    assert capsys.readouterr().err.endswith("benchmarks.h200: token 3 is 5, the oracle says 6\n")


def test_what_cannot_be_measured_is_one_line_and_status_2(
    measured: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    out = tmp_path / "h.json"
    assert harness.main(["--out", str(out)]) == 2
    assert "no GPU here (JAX runs on cpu); --cpu measures the demo" in capsys.readouterr().err
    assert run(out, "--attention", "magic") == 2
    known = "auto or reference, blocked, gpu, tpu"
    assert f"--attention magic is unknown; use {known}" in capsys.readouterr().err
    assert run(out) == 0
    assert run(out, "--quantize", "int8", "--kv-dtype", "fp8") == 2
    expected = "weights: measured with random, this is random, int8, over pages of float8_e4m3fn"
    assert expected in capsys.readouterr().err
    assert run(out, "--attention", "reference") == 2
    assert "attention: measured with blocked, this is reference; choose another --out" in (
        capsys.readouterr().err
    )
    out.write_text("[]")
    assert run(out) == 2
    assert capsys.readouterr().err.count("\n") == 1


def record(kind: str, *, check: bool, weights: str = "random") -> Record:
    setting = {
        "cpu_check": check,
        "device": {"kind": kind},
        "machine": {"jax": "0"},
        "model": "llama-3.1-8b",
        "weights": weights,
        "attention": "blocked",
    }
    rates = {
        "copy_bytes_per_s": {"median": 4e12},
        "read_bytes_per_s": {"median": 3e12},
        "matmul_dtype": "bfloat16",
        "best_matmul_flops_per_s": 8e14,
    }
    points = {"32 rows at 1024": POINT}
    return Record(setting, {"rates": {"figures": rates}, "decode": {"figures": {"points": points}}})


def test_times_stand_beside_shares_of_the_devices_own_rates():
    (line,) = table.lines(record("NVIDIA H200", check=False))
    assert line["ms"] == pytest.approx(8.0)
    assert line["of_copy_bandwidth"] == pytest.approx(0.5)
    assert line["of_matrix_rate"] == pytest.approx(0.625)
    assert line["good_and_excellent_ms"] == (7.3, 6.6)
    text = table.render(record("NVIDIA H200", check=False), ["decode", "gaps"])
    assert "not measured: gaps (not run yet)" in text
    for other in (
        record("NVIDIA H100", check=False),
        record("NVIDIA H200", check=False, weights="random, int8"),
    ):
        assert table.lines(other)[0]["good_and_excellent_ms"] is None
    assert table.render(record("cpu", check=True), []).startswith("CPU CHECK: ")
    bare = Record(
        record("x", check=False).setting, {"decode": {"figures": {"points": {"a": POINT}}}}
    )
    assert table.lines(bare)[0]["of_copy_bandwidth"] is None


def test_the_table_says_what_pages_cost_where_that_was_measured():
    points = {"16": {"bytes": 1, "offload_and_fetch_bytes_per_s": {"median": 4e10}}}
    part = {"pages": {"figures": {"points": points}}}
    assert list(table._others(Record({}, part))) == ["16 pages, GB/s: offload and fetch 40"]
    points["16"]["offload_dispatch_s_per_page"] = {"median": 3e-5}
    points["16"]["fetch_dispatch_s_per_page"] = {"median": 4.5e-5}
    assert list(table._others(Record({}, part)))[1:] == [
        "16 pages, us of the thread a page: offload 30, fetch 45"
    ]


def needs(work: Work) -> dict[str, float]:
    config = load_config(ROOT / "benchmarks" / "shapes" / "llama-3.1-8b")
    rig = Rig(config, BLOCKED, FULL, Path("x"), print, lambda: 0.0, 0.0)
    return _needs(rig, [work])


def test_what_a_step_needs_is_what_arithmetic_says():
    """performance.md, section 1: 15.01 GB of weights, 131,072 bytes a token of context."""
    one = needs(uniform(1, 0))
    assert one["bytes"] == pytest.approx(15.01e9, rel=1e-3)
    assert one["flops"] == one["bytes"], "two operations and two bytes a parameter"
    many = needs(uniform(32, 1024))
    assert many["bytes"] - one["bytes"] == 32 * 1024 * 131_072
    assert many["flops"] == 32 * one["flops"] + 4 * 32 * 4096 * 32 * 1024


def test_the_points_are_those_of_the_projects_table():
    assert FULL.first == set(table.GOALS)
    for name in table.GOALS:
        assert any(name in points for points in (FULL.decode, FULL.mixed, FULL.prefill)), name
    uneven, even = skew(32768, 32, 512).values()
    assert sum(even.contexts) == pytest.approx(sum(uneven.contexts), rel=1e-3)
    assert [work.chunks[0].new_len for work in Prompt(20, 8).works] == [8, 8, 4]
    assert [work.chunks[0].cached_len for work in Prompt(20, 8).works] == [0, 8, 16]


@pytest.mark.slow
def test_every_part_runs_from_end_to_end_without_a_server_s_packages(tmp_path: Path):
    out = tmp_path / "check.json"
    code = f"""if True:
        import sys
        sys.modules.update(dict.fromkeys({ABSENT!r}))  # importing one raises ImportError
        from benchmarks.h200.__main__ import main
        sys.exit(main(["--out", {str(out)!r}, "--cpu-check"]))
    """
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("CPU CHECK: ")
    document = json.loads(out.read_text())
    assert set(document["parts"]) == set(course.PARTS)
    assert document["setting"]["note"].startswith("a check of the harness")
    assert set(document["not_measured"]) == {"pages: to another device"}
    assert len(document["table"]) == 6
    (moved,) = document["parts"]["pages"]["figures"]["points"].values()
    for way in ("offload", "fetch"):
        assert moved[f"{way}_dispatch_s_per_page"]["min"] > 0
    assert "us of the thread a page: offload " in done.stdout
    measured = read_measured(out.with_suffix(".costs.json"))
    grid = measured.grids[0]
    assert len(grid.steps) == document["parts"]["grid"]["figures"]["points"]
    costs = Profile(grid, Roofline(measured.origin.model, PRESETS["cpu"], 1))
    assert costs.mixed(1, 8, 4, 0).seconds > 0
    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout
    assert again.stderr.count("kept") == len(course.PARTS)


def test_a_pool_that_the_kernels_refuse_is_made_larger():
    config = load_config(ROOT / "benchmarks" / "shapes" / "llama-3.1-8b", kv_dtype="float8_e4m3fn")
    rig = Rig(config, BLOCKED, FULL, Path("x"), print, lambda: 0.0, 0.0)
    sizes, _ = rig._shapes([uniform(32, 1024)])
    assert sizes.num_pages * 2**20 > 2**32, "2 to 4 GiB of one-byte numbers are not countable"
    sizes, _ = rig._shapes([uniform(8, 1024)])
    assert sizes.num_pages == 1 + 8 * 65
