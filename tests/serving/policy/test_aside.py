"""Who stands aside for a task that waits for memory."""

from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.aside import Aside, AsideConfig, asks, give_way
from serving.policy.aside import aside as choose
from serving.policy.views import AsideView, AskingView

CONFIG = AsideConfig()
ASKING = AskingView(priority=0, tokens=10, left=20.0, left_s=1.0, ask_from_s=6.0, blocks=False)


def aside(asking: AskingView, rows: list[AsideView]) -> Aside | None:
    return choose(asking, rows, CONFIG)


def row(
    spare_s: float = 0.0,
    *,
    tokens: int = 1,
    left: float = 1.0,
    left_s: float = inf,
    again_s: float = 0.0,
    priority: int = 0,
    back_s: float = inf,
    late: bool = False,
    leads: bool = False,
) -> AsideView:
    return AsideView(priority, tokens, left, left_s, again_s, spare_s, back_s, late, leads)


@pytest.mark.parametrize(
    ("left_s", "answer"), [(6.1, False), (6.0, True), (0.0, True), (-0.1, False)]
)
def test_it_asks_when_little_time_is_left_and_not_when_it_is_late(left_s: float, answer: bool):
    assert asks(replace(ASKING, left_s=left_s)) is answer


def test_one_that_nobody_may_go_before_asks_whether_it_is_late_or_not():
    for left_s in (100.0, 1.0, -100.0):
        assert asks(replace(ASKING, left_s=left_s, blocks=True))


def test_who_can_spare_most_time_stands_aside():
    assert aside(ASKING, [row(9.0), row(30.0), row(20.0)]) == Aside(1, "spare")


def test_time_that_is_hardly_worth_the_way_is_not_spared():
    assert aside(ASKING, [row(CONFIG.least_spare_s - 0.1)]) is None
    assert aside(ASKING, [row(CONFIG.least_spare_s)]) == Aside(0, "spare")


def test_one_that_has_just_come_back_spares_no_time():
    early = row(50.0, back_s=CONFIG.stay_s - 0.1)
    assert aside(ASKING, [early]) is None
    assert aside(ASKING, [early, row(20.0)]) == Aside(1, "spare")
    assert aside(ASKING, [row(50.0, back_s=CONFIG.stay_s), row(20.0)]) == Aside(0, "spare")
    assert aside(ASKING, [replace(early, tokens=900)]) == Aside(0, "longer")


def test_one_whose_kv_takes_long_to_have_again_keeps_it():
    cheap, dear = 0.1 * CONFIG.least_spare_s, 0.11 * CONFIG.least_spare_s
    assert aside(ASKING, [row(CONFIG.least_spare_s, again_s=cheap)]) == Aside(0, "spare")
    assert aside(ASKING, [row(CONFIG.least_spare_s, again_s=dear)]) is None
    late = row(late=True, left_s=20.0, again_s=2.0)
    assert aside(ASKING, [late]) == Aside(0, "late")
    assert aside(ASKING, [replace(late, again_s=2.1)]) is None
    assert give_way([replace(late, again_s=2.1)], 0, CONFIG) is None
    long = row(tokens=900, left=20.0, left_s=20.0, again_s=2.1)
    assert aside(ASKING, [long]) is None


def test_before_others_goes_who_misses_its_target_anyhow_and_of_these_who_holds_most_for_longest():
    rows = [row(90.0), row(late=True, tokens=10, left=5.0), row(late=True, tokens=5, left=30.0)]
    assert aside(ASKING, rows) == Aside(2, "late")


def test_where_nobody_has_time_the_longest_gives_its_target_up_if_it_is_much_longer():
    # The one that asks will hold 20 * (10 + 10) = 400 token-steps.
    assert aside(ASKING, [row(tokens=40, left=15.0), row(tokens=20, left=20.0)]) == Aside(
        0, "longer"
    )
    assert (
        aside(ASKING, [row(tokens=20, left=20.0)]) is None
    )  # 600, no more than half as much again
    assert aside(ASKING, [row(tokens=21, left=20.0)]) == Aside(0, "longer")


def test_the_first_of_all_never_stands_aside_nor_who_is_more_urgent():
    assert aside(ASKING, [row(50.0, leads=True), row(50.0, priority=-1)]) is None
    assert aside(ASKING, [row(50.0, priority=3), row(10.0)]) == Aside(0, "spare")


ROWS = st.builds(
    AsideView,
    priority=st.integers(-1, 1),
    tokens=st.integers(1, 50),
    left=st.floats(0.0, 50.0),
    left_s=st.floats(0.0, 50.0),
    again_s=st.sampled_from([0.0, 1.0]),
    spare_s=st.floats(-20.0, 20.0),
    back_s=st.sampled_from([0.0, CONFIG.stay_s, inf]),
    late=st.booleans(),
    leads=st.booleans(),
)


Rank = tuple[int, float] | None


def area(one: AsideView | AskingView) -> float:
    return one.left * (one.tokens + one.left / 2)


def rank(one: AsideView, priority: int, above: float) -> Rank:
    """Kind, then size, of a row that may be chosen."""
    if one.leads or one.priority < priority or one.again_s > CONFIG.again * one.left_s:
        return None
    if one.late:
        return 2, area(one)
    spares = one.spare_s >= CONFIG.least_spare_s and one.again_s <= CONFIG.again * one.spare_s
    if spares and one.back_s >= CONFIG.stay_s:
        return 1, one.spare_s
    return (0, area(one)) if area(one) > above else None


def check_chosen(chosen: Aside | None, ranks: list[Rank]) -> None:
    if chosen is None:
        assert all(one is None for one in ranks)
        return
    own = ranks[chosen.row]
    assert own is not None
    assert own == max(one for one in ranks if one is not None)
    assert chosen.reason == ("longer", "spare", "late")[own[0]]


@given(rows=st.lists(ROWS, max_size=6))
def test_whoever_is_chosen_beats_every_other_in_kind_and_then_in_size(rows: list[AsideView]):
    ranks = [rank(one, ASKING.priority, CONFIG.longer * area(ASKING)) for one in rows]
    check_chosen(aside(ASKING, rows), ranks)


@given(rows=st.lists(ROWS, max_size=6), priority=st.integers(-1, 1))
def test_where_pages_run_out_one_has_to_go_however_small(rows: list[AsideView], priority: int):
    check_chosen(give_way(rows, priority, CONFIG), [rank(one, priority, -1.0) for one in rows])
