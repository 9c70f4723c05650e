"""The benchmark of the control plane runs, and its parts add up."""

from benchmarks.control_plane import measure


def test_the_control_plane_benchmark_measures_each_part_of_a_step():
    figures = measure(rows=3, steps=5)
    parts = [figures[name] for name in ("batcher.step", "batcher.complete", "coordinator.on")]
    assert all(part > 0 for part in parts)
    assert sum(parts) == figures["total"]
