import pytest

from serving.core.rows import Rows


def new_rows(slots: int = 3) -> Rows:
    return Rows(slots=slots, max_pages=4, page_size=2)


def activate(rows: Rows, pages: list[int], *, position: int, left: int = 9, token: int | None = 5):
    slot = rows.open(wants_logprobs=False, constrained=False)
    rows.add_pages(slot, pages)
    rows.activate(slot, position=position, reply_index=1, left=left, token=token)
    return slot


def test_a_row_feeds_the_host_token_once_and_then_its_own():
    rows = new_rows()
    slot = activate(rows, [7, 8], position=3)
    first, second = rows.advance(), rows.advance()
    assert (first.slot.tolist(), first.position.tolist()) == ([slot], [3])
    assert (first.token.tolist(), first.from_host.tolist()) == ([5], [True])
    assert (second.position.tolist(), second.from_host.tolist()) == ([4], [False])
    assert (first.reply_index.tolist(), second.reply_index.tolist()) == ([1], [2])
    assert first.pages.tolist() == [[7, 8]]


def test_a_token_of_id_zero_is_still_fed_by_the_host():
    rows = new_rows()
    activate(rows, [7], position=1, token=0)
    assert rows.advance().from_host.tolist() == [True]


def test_a_row_is_short_of_pages_exactly_when_its_next_token_has_none():
    rows = new_rows()
    slot = activate(rows, [7], position=1)
    assert rows.short_of_pages() == []
    rows.advance()
    assert rows.short_of_pages() == [slot]
    rows.add_pages(slot, [8])
    assert rows.short_of_pages() == []
    assert rows.pages(slot).tolist() == [7, 8, 0, 0]


def test_a_row_stops_after_the_tokens_it_may_sample():
    rows = new_rows()
    activate(rows, [7, 8], position=1, left=2)
    rows.advance()
    assert len(rows.active()) == 1
    rows.advance()
    assert len(rows.active()) == 0


def test_a_closed_slot_leaves_nothing_to_its_next_row():
    rows = new_rows(slots=1)
    slot = activate(rows, [7, 8], position=3)
    rows.close(slot)
    assert rows.open(wants_logprobs=False, constrained=False) == slot
    rows.add_pages(slot, [9])
    assert rows.pages(slot).tolist() == [9, 0, 0, 0]
    assert len(rows.active()) == 0


def test_plans_do_not_change_when_rows_move_on():
    rows = new_rows()
    slot = activate(rows, [7], position=0)
    plan, table = rows.advance(), rows.pages(slot)
    rows.add_pages(slot, [8])
    rows.advance()
    rows.close(slot)
    assert (plan.slot.tolist(), plan.position.tolist()) == ([slot], [0])
    assert plan.pages.tolist() == [[7]]
    assert table.tolist() == [7, 0, 0, 0]


def test_rows_want_log_probabilities_only_while_one_that_does_is_active():
    rows = new_rows()
    slot = rows.open(wants_logprobs=True, constrained=False)
    assert not rows.wants_logprobs()
    rows.activate(slot, position=0, reply_index=1, left=1, token=1)
    assert rows.wants_logprobs()
    rows.close(slot)
    assert not rows.wants_logprobs()


def test_no_slot_is_handed_out_twice():
    rows = new_rows(slots=2)
    assert {rows.open(wants_logprobs=False, constrained=False) for _ in range(2)} == {0, 1}
    assert rows.num_free == 0
    with pytest.raises(IndexError):
        rows.open(wants_logprobs=False, constrained=False)


def test_rows_do_not_merely_go_on_while_one_of_them_waits_for_a_page():
    rows = new_rows()
    slots = [activate(rows, [2 * i + 1, 2 * i + 2], position=0, left=9) for i in range(2)]
    rows.advance()
    assert rows.steady_for > 0
    rows.pause(slots[0])
    rows.advance()
    assert rows.steady_for == 0
    rows.resume(slots[0])
    assert rows.short_of_pages() == []
    assert not rows.is_paused(slots[0])
    assert rows.steady_for > 0
