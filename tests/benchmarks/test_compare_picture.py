"""The comparison's picture and table, from a summary made by hand."""

from pathlib import Path

from benchmarks.compare import goodput, summarise
from benchmarks.compare_picture import draw, lines_of, table_of
from tests.benchmarks.test_compare import cell

CELLS = summarise(
    [
        cell(1.0, 0.95),
        cell(2.0, 0.85),
        cell(1.0, 0.99, policy="foretoken"),
        cell(2.0, 0.95, policy="foretoken"),
        cell(2.0, 0.5, policy="foretoken", variant="no moves"),
        cell(2.0, 0.5, cluster="16"),
    ]
)


def test_lines_leave_variants_and_other_clusters_out():
    lines = lines_of(CELLS, "4")
    assert lines == {
        "mooncake": {"foretoken": ([1.0, 2.0], [0.99, 0.95]), "local": ([1.0, 2.0], [0.95, 0.85])}
    }


def test_the_best_rate_of_a_workload_stands_out():
    table = table_of({"goodput": goodput(CELLS)}, "4").splitlines()
    assert table[0] == "| workload | local | foretoken |"
    assert table[2] == "| mooncake | 1.50 | **above 2.00** |"
    other = table_of({"goodput": goodput(CELLS)}, "16").splitlines()
    assert other[2] == "| mooncake | **below 2.00** |"


def test_a_picture_is_written(tmp_path: Path):
    path = tmp_path / "compare.png"
    draw(lines_of(CELLS, "4"), path)
    assert path.read_bytes().startswith(b"\x89PNG")
