"""Which backend is chosen, and what is said when one cannot serve."""

import pytest

from model.attention import choice
from model.attention.choice import AttentionError, choose
from model.attention.paged import BLOCKED, Portable
from tests.model.test_sharding import CONFIG


class Picky(Portable):
    """A backend for accelerators that wants small pages and no more than two shards."""

    def refusal(self, config, *, page_size, degree, platform):
        if page_size > 16:
            return f"its pages hold at most 16 positions, not {page_size}"
        return None if degree <= 2 else f"it cannot be split {degree} times"


@pytest.fixture(autouse=True)
def picky(monkeypatch):
    monkeypatch.setitem(choice.BACKENDS, "picky", lambda: Picky("reference"))
    monkeypatch.setitem(choice.PREFERRED, "gpu", "picky")


def chosen(wanted, *, page_size=16, degrees=(1,), platform="gpu"):
    return choose(wanted, CONFIG, page_size=page_size, degrees=degrees, platform=platform)


def test_a_backend_is_taken_by_its_name_wherever_it_runs():
    for name in ("reference", "blocked"):
        assert str(chosen(name)) == name == chosen(name).backend.name


def test_auto_is_the_preferred_one_of_the_platform():
    assert isinstance(chosen("auto").backend, Picky)
    assert chosen("auto", platform="cpu").backend is BLOCKED


def test_auto_falls_back_and_says_why_in_one_line():
    got = chosen("auto", page_size=32)
    assert got.backend is BLOCKED
    assert str(got) == "blocked (picky cannot serve: its pages hold at most 16 positions, not 32)"
    assert "split 4 times" in str(chosen("auto", degrees=(1, 4)))


def test_a_backend_asked_for_by_name_fails_instead():
    with pytest.raises(AttentionError, match="picky cannot serve: its pages hold at most 16"):
        chosen("picky", page_size=32)
    with pytest.raises(AttentionError, match="flash is unknown; use auto or reference, blocked"):
        chosen("flash")
