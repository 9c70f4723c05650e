"""The search for the highest rate, on a judge that a person can follow."""

import pytest

from serving.plan.judge import Verdict, highest


class Cliff:
    """All turns are in time up to a rate, and half of them beyond it."""

    def __init__(self, edge: float) -> None:
        self.edge = edge
        self.asked: list[float] = []

    def __call__(self, rate: float) -> Verdict:
        self.asked.append(rate)
        return Verdict(rate, 1.0 if rate <= self.edge else 0.5, 0.5, 0.0, 100.0, 10)


@pytest.mark.parametrize("start", [0.5, 3.0, 7.0])
def test_bisection_ends_at_the_edge(start: float):
    judge = Cliff(3.3)
    found = highest(judge, start, step=1.2, share=0.9, tolerance=0.02)
    assert found.sustained is not None
    assert found.failed is not None
    assert found.sustained.rate <= 3.3 < found.failed.rate <= found.sustained.rate * 1.02
    assert len(judge.asked) == len(set(judge.asked))


def test_nothing_may_be_sustained():
    judge = Cliff(0.0)
    found = highest(judge, 1.0, step=1.2, share=0.9, tolerance=0.02)
    assert found.sustained is None
    assert found.failed is not None
    assert len(judge.asked) == 12
