"""Which cells become which line, and by how much later turns come earlier."""

from pathlib import Path

import pytest

from benchmarks.host_memory_picture import draw, earlier, lines_of


def cell(policy: str, variant: str, rate: float, later_s: float, **changes) -> dict:
    made = {"cluster": "4", "workload": "mooncake", "policy": policy, "variant": variant}
    return {**made, "rate": rate, "ttft_later_mean": {"mean": later_s}, **changes}


CELLS = [
    cell("foretoken", "", 2.0, 0.3),
    cell("foretoken", "", 1.0, 0.2),
    cell("pd-full", "", 1.0, 0.4),
    cell("foretoken", "64 GiB of host memory", 1.0, 0.1),
    cell("pd-full", "64 GiB of host memory", 1.0, 9.0),  # nothing of it is drawn
    cell("replicas", "", 1.0, 9.0),
    cell("foretoken", "", 3.0, 9.0, cluster="16"),
    cell("foretoken", "", 3.0, 9.0, workload="weka"),
]


def test_lines_are_ours_by_host_memory_beside_the_baseline_in_order_of_load():
    lines = lines_of(CELLS, "4", "mooncake")
    assert lines == {
        "pd-full": {1.0: 0.4},
        "foretoken, none": {1.0: 0.2, 2.0: 0.3},
        "foretoken, 64 GiB": {1.0: 0.1},
    }
    assert list(lines["foretoken, none"]) == [1.0, 2.0]


def test_a_share_is_told_where_the_baseline_is_known():
    lines = lines_of(CELLS, "4", "mooncake")
    assert earlier(lines["foretoken, none"], lines["pd-full"]) == {1.0: pytest.approx(0.5)}


def test_the_picture_is_written(tmp_path: Path):
    path = tmp_path / "one.png"
    draw(lines_of(CELLS, "4", "mooncake"), path)
    assert path.stat().st_size > 1000
