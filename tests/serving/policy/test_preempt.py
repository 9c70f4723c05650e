"""Who gives way, and that everybody ends: a small worker with too few pages, simulated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.policy.preempt import preempt
from serving.policy.views import HolderView


def holder(
    arrived: float,
    *,
    priority: int = 0,
    pages: int = 1,
    loss_s: float = 1.0,
    suffices: bool = True,
) -> HolderView:
    return HolderView(priority, arrived, pages, loss_s, suffices)


def test_the_cheapest_to_restore_gives_up_its_pages():
    views = [
        holder(1.0),
        holder(2.0, loss_s=3),
        holder(3.0, loss_s=2),
        holder(4.0, loss_s=4),
    ]
    assert preempt(views) == 2


def test_pages_do_not_make_up_for_a_dearer_loss():
    assert preempt([holder(1.0), holder(2.0, loss_s=2), holder(3.0, pages=9, loss_s=3)]) == 1


def test_of_those_after_whom_no_other_must_follow_the_cheapest_goes():
    views = [
        holder(1.0, loss_s=9),
        holder(2.0, loss_s=1, suffices=False),
        holder(3.0, loss_s=4),
        holder(4.0, loss_s=3),
    ]
    assert preempt(views) == 3


def test_if_nobody_leaves_enough_the_cheapest_goes():
    views = [holder(float(i), loss_s=9 - i, suffices=False) for i in range(4)]
    assert preempt(views) == 3


def test_a_lower_priority_goes_though_it_leaves_too_little():
    assert preempt([holder(1.0), holder(2.0), holder(1.0, priority=1, suffices=False)]) == 2


def test_of_equal_loss_the_youngest_goes():
    assert preempt([holder(1.0), holder(3.0), holder(2.0)]) == 1


def test_a_lower_priority_goes_before_a_cheaper_loss():
    views = [holder(1.0), holder(2.0, loss_s=0), holder(1.0, priority=1, loss_s=9)]
    assert preempt(views) == 2


def test_equal_age_and_loss_is_decided_by_place():
    assert preempt([holder(1.0), holder(1.0)]) == 1


def test_the_oldest_of_the_best_priority_is_spared_though_its_loss_is_least():
    assert preempt([holder(1.0, loss_s=0), holder(2.0, loss_s=9)]) == 1


def test_the_only_holder_is_chosen():
    assert preempt([holder(1.0)]) == 0


def test_who_has_nothing_to_give_is_not_asked():
    assert preempt([holder(1.0), holder(2.0, pages=0)]) == 0
    assert preempt([holder(1.0, pages=0), holder(2.0)]) == 1


@pytest.mark.parametrize("views", [[], [holder(1.0, pages=0)]])
def test_without_holders_there_is_no_choice(views: list[HolderView]):
    with pytest.raises(ValueError, match="nobody holds pages"):
        preempt(views)


HOLDERS = st.lists(
    st.builds(
        HolderView,
        st.integers(0, 2),
        st.integers(0, 5).map(float),
        st.integers(1, 9),
        st.integers(0, 3).map(float),
        st.booleans(),
    ),
    min_size=2,
    max_size=6,
)


@given(HOLDERS)
def test_the_choice_is_the_worst_class_then_who_suffices_then_the_least_loss_but_for_the_leader(
    holders: list[HolderView],
):
    leader = min(range(len(holders)), key=lambda i: (holders[i].priority, holders[i].arrived, i))
    chosen = preempt(holders)
    assert chosen != leader
    for i, other in enumerate(holders):
        if i not in (leader, chosen):
            assert other.priority <= holders[chosen].priority
            if other.priority == holders[chosen].priority:
                assert other.suffices <= holders[chosen].suffices
                if other.suffices == holders[chosen].suffices:
                    assert other.loss_s >= holders[chosen].loss_s


# ---- everybody ends -----------------------------------------------------------------------------

PAGES = 8


@dataclass
class Row:
    """A page holds one token, and a task that gives way starts all over: the worst case."""

    arrived: int
    prompt: int
    reply: int
    priority: int
    prefilled: int = 0
    replied: int = 0
    pages: int = 0
    ended: bool = field(default=False)

    def reset(self) -> None:
        self.prefilled = self.replied = self.pages = 0


Choose = Callable[[Sequence[HolderView]], int]
See = Callable[[Row], HolderView]


def serve(rows: list[Row], choose: Choose, see: See, *, most_steps: int) -> bool:
    """Run a worker: admit by age, one token a step for each row. Does every task end in time?"""
    rows = sorted(rows, key=lambda row: (row.priority, row.arrived))
    for _ in range(most_steps):
        waiting = [row for row in rows if not row.ended and not row.pages]
        free = PAGES - sum(row.pages for row in rows)
        while waiting and waiting[0].prompt <= free:
            row = waiting.pop(0)
            row.pages = row.prompt
            free -= row.pages
        for row in rows:
            if row.pages and row.prefilled < row.prompt:
                row.prefilled += 1
            elif row.pages and get_page(row, rows, choose, see):
                row.replied += 1
                if row.replied == row.reply:
                    row.ended, row.pages = True, 0
        if all(row.ended for row in rows):
            return True
    return False


def get_page(row: Row, rows: list[Row], choose: Choose, see: See) -> bool:
    """Find a page for a row's next token; False if the row itself had to give way for it."""
    while sum(other.pages for other in rows) == PAGES:
        holders = [other for other in rows if other.pages]
        holders[choose([see(holder) for holder in holders])].reset()
        if not row.pages:
            return False
    row.pages += 1
    return True


ROWS = st.lists(
    st.builds(Row, st.integers(0, 9), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2)),
    min_size=1,
    max_size=6,
)


def seen(restore: Callable[[Row], float], suffices: Callable[[Row], bool]) -> See:
    def see(row: Row) -> HolderView:
        return HolderView(row.priority, row.arrived, row.pages, restore(row), suffices(row))

    return see


RESTORES = st.sampled_from(
    [
        lambda row: row.prefilled + row.replied,  # computed again
        lambda row: 20 - row.prefilled - row.replied,  # the longer, the more of it is on the host
        lambda row: (row.arrived * 7) % 5,
    ]
)
SUFFICES = st.sampled_from(
    [lambda row: True, lambda row: row.pages >= 3, lambda row: row.arrived % 2 == 0]
)


@given(ROWS, st.builds(seen, RESTORES, SUFFICES))
def test_every_task_ends_whatever_restoring_costs(rows: list[Row], see: See):
    # Who leads ends within prompt + reply steps, 8 at most, unless an older task comes back in and
    # takes the lead: between two ends that happens at most once for each task.
    assert serve(rows, preempt, see, most_steps=9 * len(rows) ** 2)


def test_sparing_nobody_would_livelock():
    rows = [Row(0, prompt=2, reply=6, priority=0), Row(1, prompt=2, reply=6, priority=0)]

    def restore(row: Row) -> float:
        return 20 - row.prefilled - row.replied

    def spare_nobody(holders: Sequence[HolderView]) -> int:
        return min(range(len(holders)), key=lambda i: holders[i].loss_s)

    see = seen(restore, lambda row: True)
    assert not serve(rows, spare_nobody, see, most_steps=1000)
